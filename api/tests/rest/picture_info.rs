//! `/v1/picture-info`: the request read from pictures of several programs, and from other files. That pictures of
//! Pyrograph are made again byte for byte is a journey.

use std::io::Cursor;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::{DynamicImage, ImageFormat};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::test_server::{Answer, FLUX_MODULE, TestServer, lora, picture_part, png, text};

/// A PNG with text chunks; their checksums are not compared.
fn with_texts(texts: &[(&str, &str)]) -> Vec<u8> {
    let bare = png(8, 8, 1);
    // Behind the signature and the header.
    let (head, rest) = bare.split_at(8 + 25);
    let chunk = |(keyword, text): &(&str, &str)| {
        let data = [keyword.as_bytes(), b"\0", text.as_bytes()].concat();
        [&(data.len() as u32).to_be_bytes(), &b"tEXt"[..], &data, &[0; 4]].concat()
    };
    [head, &texts.iter().map(chunk).collect::<Vec<_>>().concat(), rest].concat()
}

impl TestServer {
    async fn picture_info(&self, file: Vec<u8>) -> Answer {
        self.post_form("/v1/picture-info", Form::new().part("image", picture_part(file))).await
    }
}

fn unmapped(info: &Value) -> Vec<String> {
    info["unmapped"].as_array().unwrap().iter().map(|one| text(&one["field"])).collect()
}

const A1111: &str = "a fox <lora:Ink:0.5> <lora:gone:1>\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M Karras, \
                     CFG scale: 7, Seed: 5, Size: 64x48, Model hash: 0123456789, Model: deliberate, Clip skip: 2, \
                     Hires upscale: 2, Version: v1.10.1";

#[tokio::test]
async fn a_record_becomes_a_request_for_the_models_that_are_there() {
    let server = TestServer::with_checkpoint().await;
    server.import("ink", None, &[("x.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    let info = server.picture_info(with_texts(&[("parameters", A1111)])).await.expect(200);
    assert_eq!(info["program"], "a1111");
    // For FLUX.1, the model of a request that names none.
    let expected = json!({
        "prompt": "a fox", "negative_prompt": "blurry", "loras": [{"model": "ink", "scale": 0.5}],
        "num_inference_steps": 20, "true_cfg_scale": 7.0, "seed": 5, "width": 64, "height": 48,
    });
    assert_eq!(info["request"], expected);
    let mut fields = unmapped(&info);
    fields.sort_unstable();
    assert_eq!(fields, ["Hires upscale", "clip_skip", "lora", "model", "scheduler"]);
    let created = server.post("/v1/generations", &info["request"]).await.expect(202);
    assert_eq!((&created["prompt"], &created["loras"][0]["model"]["name"]), (&json!("a fox"), &json!("ink")));

    // Our own text for FLUX.1 names a sampler that it does not take under this name.
    let ours = "a fox\nSteps: 4, Sampler: Euler, CFG scale: 3, Distilled CFG Scale: 1, Seed: 5, Size: 64x64, \
                Model hash: 0123456789, Model: ember, Version: pyrograph 0.1.0";
    let info = server.picture_info(with_texts(&[("parameters", ours)])).await.expect(200);
    assert_eq!((&info["program"], &info["request"]["scheduler"]), (&json!("pyrograph"), &Value::Null));
    assert_eq!(unmapped(&info), ["model hash"]);
    server.post("/v1/generations", &info["request"]).await.expect(202);
}

#[tokio::test]
async fn records_of_other_programs() {
    let server = TestServer::with_checkpoint().await;
    let graph = json!({
        "1": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 20, "cfg": 1, "sampler_name": "euler",
              "scheduler": "simple", "denoise": 1, "positive": ["2", 0], "latent_image": ["3", 0]}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox <lora:ink:1>"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 32}},
    });
    let invoke = json!({"positive_prompt": "a fox", "seed": 7, "width": 64, "height": 32, "steps": 20, "cfg_scale": 1,
                        "scheduler": "euler", "model": {"name": "ember"}});
    for (texts, program) in [
        (vec![("prompt", graph.to_string())], "comfyui"),
        (vec![("invokeai_metadata", invoke.to_string())], "invokeai"),
        // A record that is damaged does not hide one that is not.
        (vec![("pyrograph", "{".to_owned()), ("invokeai_metadata", invoke.to_string())], "invokeai"),
    ] {
        let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let info = server.picture_info(with_texts(&texts)).await.expect(200);
        let request = &info["request"];
        assert_eq!((&info["program"], &request["prompt"]), (&json!(program), &json!("a fox")), "{info:#}");
        assert_eq!((&request["seed"], &request["width"], &request["height"]), (&json!(7), &json!(64), &json!(32)));
        server.post("/v1/generations", request).await.expect(202);
    }
    let mut unread = graph;
    unread["1"]["inputs"]["positive"] = json!(["9", 0]);
    let info = server.picture_info(with_texts(&[("prompt", &unread.to_string())])).await.expect(200);
    assert_eq!(info["request"]["prompt"], " ");
    assert!(unmapped(&info).contains(&"prompt".to_owned()), "{info:#}");
}

#[tokio::test]
async fn a_picture_is_named_in_three_ways() {
    let server = TestServer::with_checkpoint().await;
    let file = with_texts(&[("parameters", A1111)]);
    let expected = server.picture_info(file.clone()).await.expect(200);
    let carried = json!({"image": format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&file))});
    assert_eq!(server.post("/v1/picture-info", &carried).await.expect(200), expected);
    let input =
        server.post_form("/v1/inputs", Form::new().part("image", picture_part(with_texts(&[])))).await.expect(201);
    let info = server.post("/v1/picture-info", &json!({"image": input["id"], "model": "ember"})).await.expect(200);
    assert_eq!(info, json!({"program": null, "request": null, "unmapped": []}));
}

#[tokio::test]
async fn files_without_a_record_are_no_error_and_other_files_are() {
    let server = TestServer::with_checkpoint().await;
    let nothing = json!({"program": null, "request": null, "unmapped": []});
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let mut file = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(8, 8).write_to(&mut file, format).unwrap();
        assert_eq!(server.picture_info(file.into_inner()).await.expect(200), nothing);
    }
    for (keyword, content) in [
        ("pyrograph", "{}".to_owned()),
        ("pyrograph", "[".repeat(100_000)),
        ("parameters", "a fox".to_owned()),
        ("prompt", "{\"1\": {\"class_type\": \"KSampler\"".to_owned()),
        ("workflow", "{\"nodes\": 7}".to_owned()),
        ("invokeai_metadata", "7".to_owned()),
        ("sd-metadata", "{\"image\": []}".to_owned()),
        ("Comment", "made by hand".to_owned()),
    ] {
        let info = server.picture_info(with_texts(&[(keyword, &content)])).await.expect(200);
        assert_eq!((&info["program"], &info["request"]), (&Value::Null, &Value::Null), "{keyword}");
        assert_eq!(unmapped(&info), [keyword]);
    }
    // Values that no request may have are listed, and the rest can be sent.
    let odd = "a fox\nSteps: 1e9, Sampler: Heun, CFG scale: -3, Seed: 18446744073709551615, Size: 65x64, Model: ember, \
               Denoising strength: 0.5, Clip skip: nine";
    let info = server.picture_info(with_texts(&[("parameters", odd)])).await.expect(200);
    assert_eq!(info["request"], json!({"prompt": "a fox", "loras": [], "model": "ember"}));
    let fields = unmapped(&info);
    for field in ["num_inference_steps", "Sampler", "true_cfg_scale", "seed", "width", "strength", "Clip skip"] {
        assert!(fields.contains(&field.to_owned()), "{field}: {info:#}");
    }

    // One side alone would change the proportions; it is not lost.
    for (size, listed) in [
        ("65x128", [("height", "128"), ("width", "65")]),
        ("128x65", [("height", "65"), ("width", "128")]),
        ("4096x128", [("height", "128"), ("width", "4096")]),
    ] {
        let text = format!("a fox\nSteps: 20, Seed: 5, Size: {size}");
        let info = server.picture_info(with_texts(&[("parameters", &text)])).await.expect(200);
        let mut sides: Vec<_> = info["unmapped"].as_array().unwrap().iter().collect();
        sides.sort_by_key(|one| one["field"].as_str().unwrap());
        let sides: Vec<_> =
            sides.iter().map(|one| (one["field"].as_str().unwrap(), one["value"].as_str().unwrap())).collect();
        assert_eq!(sides, listed, "{info:#}");
        assert!(info["request"].get("width").is_none() && info["request"].get("height").is_none(), "{info:#}");
    }
    let many = "a fox\nSteps: 2000000000000000000000, Seed: 99999999999999999999, Size: 64x64";
    let info = server.picture_info(with_texts(&[("parameters", many)])).await.expect(200);
    let reasons: Vec<_> =
        info["unmapped"].as_array().unwrap().iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["It is too large.", "2000000000000000000000 is outside the range 1 to 200."]);

    server.picture_info(b"GIF89a".to_vec()).await.refuses(415, "image");
    server.post("/v1/picture-info", &json!({"image": "a fox.png"})).await.refuses(422, "image");
    let nowhere = "00000000-0000-7000-8000-000000000000";
    server.post("/v1/picture-info", &json!({"image": nowhere})).await.refuses(404, "image");
    server.post("/v1/picture-info", &json!({"image": "a".repeat(12_000_001)})).await.refuses(413, "image");
    server.post("/v1/picture-info", &json!({})).await.refuses(422, "image");
    let part = || picture_part(with_texts(&[]));
    for (form, status, field) in [
        (Form::new().part("image", part()).text("model", "nobody"), 404, "model"),
        (Form::new().part("image", part()).part("image", part()), 422, "image"),
        (Form::new().text("caption", "x"), 422, "caption"),
        (Form::new().part("image", Part::bytes(vec![0; 26 * 1024 * 1024])), 413, "image"),
        (Form::new().text("model", "ember"), 422, "image"),
    ] {
        server.post_form("/v1/picture-info", form).await.refuses(status, field);
    }
}

#[tokio::test]
async fn a_recipe_with_impossible_values_is_used_without_them() {
    let server = TestServer::with_checkpoint().await;
    let recipe = json!({
        "prompt": "a fox", "seed": -5, "width": -64, "height": 64, "num_inference_steps": 4, "guidance_scale": 1.0,
        "output_format": "gif", "output_quality": 80, "model": {"name": "ember", "sha256": "0".repeat(64)},
        "loras": [{"name": "ink"}], "engine": "pyrograph 0.0.1",
    });
    let info = server.picture_info(with_texts(&[("pyrograph", &recipe.to_string())])).await.expect(200);
    assert_eq!(info["program"], "pyrograph");
    let request = json!({"prompt": "a fox", "model": "ember", "num_inference_steps": 4, "guidance_scale": 1.0});
    let mut fields = unmapped(&info);
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["engine", "height", "loras[0]", "model hash", "output_format", "output_quality", "seed", "width"],
        "{info:#}"
    );
    for (field, value) in request.as_object().unwrap() {
        assert_eq!(&info["request"][field], value, "{info:#}");
    }
    for field in ["seed", "width", "height", "output_format", "output_quality"] {
        assert!(info["request"].get(field).is_none(), "{field}: {info:#}");
    }
    server.post("/v1/generations", &info["request"]).await.expect(202);
}

/// Between FLUX.1 and Stable Diffusion, classifier-free guidance has other names, and A1111's line of the same picture
/// means the same as its recipe.
#[tokio::test]
async fn guidance_is_translated_for_another_family() {
    let server = TestServer::with_checkpoint().await;
    sqlx::query(
        "INSERT INTO models (project_id, id, name, kind, family, files, bytes, sha256, built_in, defaults)
         SELECT project_id, $1, 'sd', kind, 'sd15', files, bytes, $2, false, defaults FROM models WHERE name = 'ember'",
    )
    .bind(domain::ModelId::new().0)
    .bind("1".repeat(64))
    .execute(&server.pools.lease)
    .await
    .unwrap();
    let recipe = |model: &str, guidance: f64, true_cfg: f64| {
        json!({
            "prompt": "a fox", "negative_prompt": "a dog", "seed": 5, "num_inference_steps": 4, "width": 64,
            "height": 64, "guidance_scale": guidance, "true_cfg_scale": true_cfg,
            "model": {"name": model, "sha256": "2".repeat(64)}, "engine": "pyrograph 0.0.1",
        })
        .to_string()
    };
    let line = |model: &str, scales: &str| {
        format!(
            "a fox\nNegative prompt: a dog\nSteps: 4, Sampler: Euler, CFG scale: {scales}, Seed: 5, Size: 64x64, \
             Model hash: 2222222222, Model: {model}, Version: pyrograph 0.1.0"
        )
    };
    // Of FLUX.1 with and without classifier-free guidance, and of Stable Diffusion; for each, the two scales of the
    // request for `sd`, then those for `ember`.
    for (model, guidance, true_cfg, scales, [for_sd, for_flux]) in [
        ("ember", 3.5, 4.0, "4, Distilled CFG Scale: 3.5", [[json!(4.0), Value::Null], [json!(3.5), json!(4.0)]]),
        ("ember", 3.5, 1.0, "1, Distilled CFG Scale: 3.5", [[json!(1.0), Value::Null], [json!(3.5), json!(1.0)]]),
        ("sd", 6.0, 1.0, "6", [[json!(6.0), Value::Null], [Value::Null, json!(6.0)]]),
    ] {
        let (recipe, line) = (recipe(model, guidance, true_cfg), line(model, scales));
        let both = [("parameters", &line[..]), ("pyrograph", &recipe)];
        for texts in [&both[..], &both[..1], &both[1..]] {
            for (target, wanted) in [("sd", &for_sd), ("ember", &for_flux)] {
                let file = with_texts(texts);
                let form = Form::new().part("image", picture_part(file)).text("model", target);
                let info = server.post_form("/v1/picture-info", form).await.expect(200);
                let request = &info["request"];
                let scale = |field: &str| request.get(field).cloned().unwrap_or_default();
                assert_eq!([scale("guidance_scale"), scale("true_cfg_scale")], *wanted, "{model} {target}: {info:#}");
                let is_lost = model == "ember" && target == "sd";
                let lost = info["unmapped"].as_array().unwrap().iter().find(|one| one["field"] == "guidance_scale");
                assert_eq!(lost.map(|one| text(&one["value"])), is_lost.then(|| "3.5".to_owned()), "{info:#}");
                server.post("/v1/generations", request).await.expect(202);
            }
        }
    }
    // Without a model that is known, the fields keep their names.
    let file = with_texts(&[("pyrograph", &recipe("gone", 6.0, 1.0))]);
    let form = Form::new().part("image", picture_part(file)).text("model", "sd");
    let info = server.post_form("/v1/picture-info", form).await.expect(200);
    assert_eq!((&info["request"]["guidance_scale"], &info["request"]["model"]), (&json!(6.0), &json!("sd")));
}
