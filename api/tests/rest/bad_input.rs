//! Requests and files at the edge of what is allowed are accepted (docs/bad-input.md). Those beyond it are tested in
//! `generations`, `inputs` and `models`; those that depend on the weights, in the tests of `diffusion`.

use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::test_server::{FLUX_MODULE, TestServer, lora, picture_part, png, text};

/// A picture as cameras and programs write it, from `diffusion`'s tests.
fn golden(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../diffusion/tests/goldens/pictures");
    std::fs::read(folder.join(name)).unwrap()
}

impl TestServer {
    /// Sends JSON as it is written.
    async fn post_text(&self, path: &str, body: String) -> crate::test_server::Answer {
        self.send(self.request(Method::POST, path).header("content-type", "application/json").body(body)).await
    }
}

#[tokio::test]
async fn requests_at_the_edge_are_taken() {
    let server = TestServer::with_checkpoint().await;
    let input = Form::new().part("image", picture_part(png(32, 32, 1)));
    let input = server.post_form("/v1/inputs", input).await.expect(201)["id"].clone();
    for changes in [
        json!({"prompt": "狐".repeat(10_000), "negative_prompt": "a".repeat(10_000)}),
        json!({"num_inference_steps": 1}),
        json!({"num_inference_steps": 200}),
        json!({"guidance_scale": 0, "true_cfg_scale": 0}),
        json!({"image": input, "strength": 1}),
        json!({"image": input, "strength": 0.005, "num_inference_steps": 200}),
        json!({"width": 16, "height": 2048}),
    ] {
        let mut body = json!({"prompt": "a fox"});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let created = server.post("/v1/generations", &body).await.expect(202);
        for (field, value) in changes.as_object().unwrap().iter().filter(|(field, _)| *field != "image") {
            let same = created[field].as_f64() == value.as_f64() && (value.is_number() || created[field] == *value);
            assert!(same, "{field}: {} for {value}", created[field]);
        }
    }
}

/// Clients in other languages send `null` for what they leave out, and a byte order mark before JSON.
#[tokio::test]
async fn null_is_absent() {
    let server = TestServer::with_checkpoint().await;
    let document = serde_json::to_value(api::openapi()).unwrap();
    let mut body = json!({"prompt": "a fox"});
    for field in document["components"]["schemas"]["GenerationRequest"]["properties"].as_object().unwrap().keys() {
        if field != "prompt" {
            body[field] = Value::Null;
        }
    }
    assert!(body.as_object().unwrap().len() >= 18, "{body}");
    server.post("/v1/generations", &body).await.expect(202);
    let source = json!({"kind": "hugging_face", "repo": "owner/name", "revision": null, "files": null});
    let import = server.post("/v1/models", &json!({"name": "a", "source": source, "base": null})).await.expect(202);
    assert_eq!(import["source"]["revision"], "main");

    let marked = server.request(Method::POST, "/v1/datasets").header("content-type", "application/json");
    server.send(marked.body("\u{feff}{\"name\": \"a\"}")).await.expect(201);
}

#[tokio::test]
async fn an_integer_outside_its_range_is_refused_with_the_range() {
    let server = TestServer::with_checkpoint().await;
    for (field, value, message) in [
        ("seed", "9223372036854775808", "9223372036854775808 is outside the range -1 to 9223372036854775807."),
        ("seed", "18446744073709551615", "18446744073709551615 is outside the range -1 to 9223372036854775807."),
        ("seed", "-9223372036854775809", "It is outside the range -1 to 9223372036854775807."),
        ("seed", "-2", "-2 is outside the range -1 to 9223372036854775807."),
        ("width", "2064", "2064 is outside the range 16 to 2048."),
        ("width", "1000000000000", "1000000000000 is outside the range 16 to 2048."),
        ("width", "-8", "-8 is outside the range 16 to 2048."),
        ("width", "1e30", "It is outside the range 16 to 2048."),
        ("num_images", "-5", "-5 is outside the range 1 to 4."),
        ("num_inference_steps", "3000000000", "3000000000 is outside the range 1 to 200."),
    ] {
        let answer = server.post_text("/v1/generations", format!(r#"{{"prompt": "a fox", "{field}": {value}}}"#)).await;
        answer.refuses(422, field);
        assert_eq!(answer.body["errors"][0]["message"], message, "{value}");
    }
    for limit in ["0", "101", "-5", "99999999999999999999"] {
        for path in ["/v1/generations", "/v1/models", "/v1/jobs"] {
            let answer = server.get(&format!("{path}?limit={limit}")).await;
            answer.refuses(422, "limit");
            assert_eq!(answer.body["errors"][0]["message"], format!("{limit} is outside the range 1 to 100."));
        }
    }
}

#[tokio::test]
async fn a_seed_in_float_notation_is_exact_or_refused() {
    let server = TestServer::with_checkpoint().await;
    for seed in ["9007199254740993.0", "9.007199254740993e15"] {
        let answer = server.post_text("/v1/generations", format!(r#"{{"prompt": "a fox", "seed": {seed}}}"#)).await;
        answer.refuses(422, "seed");
        assert!(text(&answer.body["detail"]).contains("write it without fraction and exponent"), "{:#}", answer.body);
    }
    for (seed, read) in [("7.0", 7_i64), ("9007199254740993", 9_007_199_254_740_993)] {
        let answer = server.post_text("/v1/generations", format!(r#"{{"prompt": "a fox", "seed": {seed}}}"#)).await;
        assert_eq!(answer.expect(202)["seed"], read);
    }
}

/// Picture `i` uses `seed + i`.
#[tokio::test]
async fn the_last_picture_has_a_seed_too() {
    let server = TestServer::with_checkpoint().await;
    let body = |num_images: u32| json!({"prompt": "a fox", "seed": i64::MAX, "num_images": num_images});
    let answer = server.post("/v1/generations", &body(2)).await;
    answer.refuses(422, "seed");
    let message = "9223372036854775807 is outside the range -1 to 9223372036854775806.";
    assert_eq!(answer.body["errors"][0]["message"], message);
    server.post("/v1/generations", &body(1)).await.expect(202);
}

/// A field of a JSON body: its path, with `[]` for an item of a list, and its schema.
type Field = (Vec<String>, Value);

/// Every field in a schema, and in the schemas that it refers to.
fn fields(document: &Value, schema: &Value, path: &[String], all: &mut Vec<Field>) {
    if let Some(name) = schema["$ref"].as_str() {
        return fields(document, document.pointer(name.trim_start_matches('#')).unwrap(), path, all);
    }
    if !path.is_empty() {
        all.push((path.to_owned(), schema.clone()));
    }
    let inside = |name: &str| [path, &[name.to_owned()]].concat();
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        fields(document, schema, &inside(name), all);
    }
    if schema["items"].is_object() {
        fields(document, &schema["items"], &inside("[]"), all);
    }
    for one in ["oneOf", "allOf", "anyOf"].iter().filter_map(|of| schema[of].as_array()).flatten() {
        fields(document, one, path, all);
    }
}

/// Every field of the JSON bodies, with method and address.
fn fields_of_bodies() -> Vec<(Method, String, Field)> {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let mut found = Vec::new();
    for (address, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let mut all = Vec::new();
            fields(&document, &operation["requestBody"]["content"]["application/json"]["schema"], &[], &mut all);
            let address = address.replace("{model}", "ember").replace("{id}", "00000000-0000-7000-8000-000000000000");
            let method: Method = method.to_uppercase().parse().unwrap();
            found.extend(all.into_iter().map(|field| (method.clone(), address.clone(), field)));
        }
    }
    found
}

/// A body with this value at `path` and nothing else, and how a problem names the field.
fn body_with(path: &[String], value: &str) -> (String, String) {
    let body = path.iter().rev().fold(value.to_owned(), |value, name| match name.as_str() {
        "[]" => format!("[{value}]"),
        name => format!("{{\"{name}\": {value}}}"),
    });
    (body, path.join(".").replace(".[]", "[0]"))
}

#[tokio::test]
async fn every_integer_of_every_body_has_its_range() {
    let server = TestServer::with_checkpoint().await;
    let is_integer = |schema: &Value| {
        schema["type"] == "integer" || schema["type"].as_array().is_some_and(|types| types.contains(&json!("integer")))
    };
    let mut count = 0;
    for (method, address, (path, schema)) in fields_of_bodies().into_iter().filter(|(.., (_, it))| is_integer(it)) {
        let range = format!("outside the range {} to {}.", schema["minimum"], schema["maximum"]);
        for value in ["1e30", "-9223372036854775809", "9223372036854775808"] {
            let (body, field) = body_with(&path, value);
            let request = server.request(method.clone(), &address).header("content-type", "application/json");
            let answer = server.send(request.body(body)).await;
            answer.refuses(422, &field);
            let message = text(&answer.body["errors"][0]["message"]);
            assert!(message.ends_with(&range), "{address} {field}: {value}: {message}");
        }
        count += 1;
    }
    assert!(count >= 14, "{count}");
}

/// serde's structs also take a list of their fields in order.
#[tokio::test]
async fn no_nested_object_of_a_body_may_be_a_list() {
    let server = TestServer::with_checkpoint().await;
    let is_object = |schema: &Value| schema["properties"].is_object();
    let mut count = 0;
    for (method, address, (path, _)) in fields_of_bodies().into_iter().filter(|(.., (_, it))| is_object(it)) {
        for (value, is) in [("[]", "a list"), ("[\"a\", 0.5]", "a list"), ("\"a\"", "the text")] {
            // The files of a source of another kind are texts.
            if path.ends_with(&["files".to_owned(), "[]".to_owned()]) && is == "the text" {
                continue;
            }
            let (body, field) = body_with(&path, value);
            let request = server.request(method.clone(), &address).header("content-type", "application/json");
            let answer = server.send(request.body(body.clone())).await;
            answer.refuses(422, &field);
            let message = text(&answer.body["errors"][0]["message"]);
            assert!(message.contains("an object") && message.contains(is), "{address} {body}: {message}");
            assert!(!message.contains("struct"), "{message}");
        }
        count += 1;
    }
    assert!(count >= 6, "{count}");
    let answer = server.post("/v1/generations", &json!({"prompt": "a fox", "loras": [["clay", 0.5]]})).await;
    answer.refuses(422, "loras[0]");
    assert_eq!(answer.body["errors"][0]["message"], "It has to be an object, and is a list.");
}

#[tokio::test]
async fn characters_that_json_escapes() {
    let server = TestServer::with_checkpoint().await;
    let prompt = r"a literal \\u0000 in text, \ud83d\ude00";
    let answer = server.post_text("/v1/generations", format!(r#"{{"prompt": "{prompt}"}}"#)).await;
    assert_eq!(answer.expect(202)["prompt"], r"a literal \u0000 in text, 😀");
    for (prompt, says) in [
        (r"a\u0000", "NUL"),
        (r"a\\\u0000", "NUL"),
        (r"a\ud83d", "half of a surrogate pair"),
        (r"a\ud83d b", "half of a surrogate pair"),
        (r"a\ude00", "half of a surrogate pair"),
        (r"a\ud83d\ud83d", "half of a surrogate pair"),
        (r"a\ud83d\n", "half of a surrogate pair"),
    ] {
        let answer = server.post_text("/v1/generations", format!(r#"{{"prompt": "{prompt}"}}"#)).await;
        answer.refuses(422, "prompt");
        assert!(text(&answer.body["detail"]).contains(says), "{:#}", answer.body);
    }
}

/// A client that corrects one field after the other would ask four times.
#[tokio::test]
async fn all_that_is_wrong_is_named_at_once() {
    let server = TestServer::with_checkpoint().await;
    let dataset = server.dataset(1).await;
    let fields = |answer: crate::test_server::Answer| {
        let body = answer.expect(422);
        body["errors"].as_array().unwrap().iter().map(|error| text(&error["field"])).collect::<Vec<_>>()
    };
    let wrong = json!({"prompt": "", "width": 65, "seed": -5, "num_images": 9, "loras": [{"model": "x", "scale": 11}]});
    assert_eq!(
        fields(server.post("/v1/generations", &wrong).await),
        ["prompt", "num_images", "width", "seed", "loras[0].scale", "loras[0].model"]
    );
    let nothing = "00000000-0000-7000-8000-000000000000";
    let wrong = json!({"prompt": "", "image": "a fox.png", "mask": nothing, "strength": 2});
    assert_eq!(fields(server.post("/v1/generations", &wrong).await), ["prompt", "strength", "image", "mask"]);
    // Names and types are read before anything else.
    let wrong = json!({"prompt": 5, "output_format": "bmp", "loras": [{"model": "x", "scale": "y"}], "fox": 1});
    let mut named = fields(server.post("/v1/generations", &wrong).await);
    named.sort();
    assert_eq!(named, ["fox", "loras[0].scale", "output_format", "prompt"]);
    // Beside a model that does not exist, values that no model takes.
    let wrong = json!({"prompt": "", "model": "nobody", "num_images": 9, "guidance_scale": 99, "output_quality": 50});
    let answer = server.post("/v1/generations", &wrong).await;
    answer.refuses(404, "model");
    let named: Vec<String> =
        answer.body["errors"].as_array().unwrap().iter().map(|error| text(&error["field"])).collect();
    assert_eq!(named, ["model", "prompt", "num_images", "guidance_scale", "output_quality"]);
    let wrong = json!({"name": "A", "dataset": dataset, "model": "nobody", "rank": 0});
    let answer = server.post("/v1/trainings", &wrong).await;
    answer.refuses(404, "model");
    assert_eq!(answer.body["errors"].as_array().unwrap().len(), 3, "{:#}", answer.body);
    let wrong = json!({"name": "A", "dataset": dataset, "steps": 0, "rank": 0, "seed": -5});
    assert_eq!(fields(server.post("/v1/trainings", &wrong).await), ["name", "rank", "steps", "seed"]);
    assert_eq!(fields(server.get("/v1/generations?limit=0&cursor=x").await), ["limit", "cursor"]);
    assert_eq!(fields(server.get("/v1/models?limit=0&cursor=x&family=A").await), ["limit", "cursor", "family"]);
    assert_eq!(fields(server.get("/v1/jobs?limit=0&cursor=x&model=-").await), ["limit", "cursor", "model"]);
    let query = "kind=x&status=done&created_after=x&created_before=y&limit=0&cursor=x&model=-";
    assert_eq!(
        fields(server.get(&format!("/v1/jobs?{query}")).await),
        ["kind", "status", "created_after", "created_before", "limit", "cursor", "model"]
    );
    assert_eq!((server.count("jobs").await, server.count("generations").await), (0, 0));
}

#[tokio::test]
async fn messages_are_in_no_words_of_rust() {
    let server = TestServer::with_checkpoint().await;
    for (path, body, field, says) in [
        ("/v1/generations", json!({"prompt": "a", "guidance_scale": "x"}), "guidance_scale", "a number"),
        ("/v1/generations", json!({"prompt": "a", "loras": ["x"]}), "loras[0]", "an object"),
        ("/v1/generations", json!({"prompt": "a", "output_format": 5}), "output_format", "`jpeg`, `webp`."),
        ("/v1/generations", json!({"prompt": "a", "output_format": {}}), "output_format", "`jpeg`, `webp`."),
        (
            "/v1/generations",
            json!({"prompt": "a", "output_format": "bmp"}),
            "output_format",
            "There is no `bmp`; it has",
        ),
        ("/v1/generations", json!({"prompt": "a", "fox": 1}), "fox", "There is no such field"),
        ("/v1/datasets", json!({}), "name", "It is missing."),
        ("/v1/generations", json!({"prompt": "a", "scheduler": "heun"}), "scheduler", "name one of flow_match_euler."),
        ("/v1/generations", json!({"prompt": "a", "scheduler": "ddim"}), "scheduler", "name one of flow_match_euler."),
        ("/v1/trainings", json!({"name": "a", "dataset": "d1"}), "dataset", "Send the `id`"),
    ] {
        let answer = server.post(path, &body).await;
        answer.refuses(422, field);
        let message = text(&answer.body["errors"][0]["message"]);
        assert!(message.contains(says) && !message.contains("invalid type"), "{message}");
    }
    let answer = server.get("/v1/generations?limit=abc").await;
    answer.refuses(422, "limit");
    assert_eq!(answer.body["errors"][0]["message"], "It has to be an integer.");
    for path in ["/v1/jobs/hund", "/v1/datasets/hund", "/v1/imports/hund"] {
        let answer = server.get(path).await;
        answer.refuses(404, "");
        let message = text(&answer.body["detail"]);
        assert!(message.contains("`hund` is no id") && !message.contains("UUID"), "{message}");
    }
    for path in ["/v1/picture-info", "/v1/models"] {
        let answer = server.send(server.request(Method::POST, path)).await;
        answer.refuses(415, "");
        assert!(text(&answer.body["detail"]).contains("`application/json`"), "{:#}", answer.body);
    }
}

#[tokio::test]
async fn addresses_and_bodies_of_another_shape() {
    let server = TestServer::with_checkpoint().await;
    for path in ["/v1/models/a%00b", "/v1/models/%00/inspect", "/v1/generations/%00"] {
        server.get(path).await.refuses(404, "");
    }
    server.get("/v1/models?family=%00").await.refuses(422, "family");
    // serde also accepts an array of the fields in order, which no client means.
    for body in [json!(["a fox"]), json!([]), json!("a fox"), json!(null), json!(7)] {
        server.post("/v1/generations", &body).await.refuses(422, "");
        server.post("/v1/datasets", &body).await.refuses(422, "");
    }
    let nonsense = server.request(Method::POST, "/v1/datasets").header("content-type", "application/json").body("fox");
    server.send(nonsense).await.refuses(400, "");
    // A browser that opens the address is sent to the documentation.
    let front = server.request(Method::GET, "/").send().await.unwrap();
    assert_eq!((front.status().as_u16(), front.url().path()), (200, "/docs/"));
}

#[tokio::test]
async fn files_as_people_call_them() {
    let server = TestServer::with_checkpoint().await;
    for (name, file, path) in [
        ("one", "My LoRA (v2).safetensors", "My-LoRA--v2-.safetensors"),
        ("two", "Größe.safetensors", "Gr--e.safetensors"),
        ("loud", "K2.SAFETENSORS", "K2.safetensors"),
        ("old", "pytorch_lora_weights.bin", "pytorch_lora_weights.safetensors"),
        ("bare", "weights", "weights.safetensors"),
    ] {
        let model = server.import(name, None, &[(file, lora(FLUX_MODULE))]).await.expect(201);
        assert_eq!(model["files"][0]["path"], path);
    }
    let mut cut = lora(FLUX_MODULE);
    cut.truncate(cut.len() - 1);
    let refused = server.import("three", None, &[("cut off.safetensors", cut)]).await;
    refused.refuses(422, "file");
    assert!(refused.body.to_string().contains("cut off.safetensors"), "{:#}", refused.body);
}

#[tokio::test]
async fn pictures_as_people_have_them() {
    let server = TestServer::with_checkpoint().await;
    for (bytes, media_type, size) in [
        (golden("four-inks.jpg"), "image/jpeg", [24, 16]),
        (golden("grey.jpg"), "image/jpeg", [24, 16]),
        (golden("alpha.png"), "image/png", [24, 16]),
        // Turned by EXIF: stored as they are, with the size of the upright picture.
        (golden("turned-3.jpg"), "image/jpeg", [24, 16]),
        (golden("turned-6.jpg"), "image/jpeg", [16, 24]),
        (golden("turned-8.jpg"), "image/jpeg", [16, 24]),
        (png(1, 1, 9), "image/png", [1, 1]),
    ] {
        let form = Form::new().part("image", picture_part(bytes.clone()));
        let input = server.post_form("/v1/inputs", form).await.expect(201);
        assert_eq!(server.download(&input["url"]).await, bytes);
        assert_eq!(
            (&input["media_type"], &input["width"], &input["height"]),
            (&json!(media_type), &json!(size[0]), &json!(size[1]))
        );
        let made = server.post("/v1/generations", &json!({"prompt": "a fox", "image": input["id"]})).await.expect(202);
        // The model's area of 64 × 64, on the grid.
        let scale = 64.0 / f64::from(size[0] * size[1]).sqrt();
        let side = |side: u32| json!((f64::from(side) * scale / 8.0).round() as u32 * 8);
        assert_eq!((&made["width"], &made["height"], &made["mask"]), (&side(size[0]), &side(size[1]), &Value::Null));
        assert_eq!(made["strength"], json!(0.6), "that of FLUX.1");
        server.delete(&text(&made["urls"]["self"])).await;
    }
}
