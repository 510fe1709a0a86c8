//! Prompts in A1111's notation: LoRAs that a prompt names, notation without effect, and other settings without effect.

use domain::generation;
use domain::job::JobKind;
use serde_json::{Value, json};

use crate::test_server::{FLUX_MODULE, SDXL_MODULE, TestServer, lora, text};

impl TestServer {
    /// With the LoRAs `ink` and `clay` for the checkpoint, and `stranger` for another family.
    async fn with_loras() -> Self {
        let server = Self::with_checkpoint().await;
        for (name, module) in [("ink", FLUX_MODULE), ("clay", FLUX_MODULE), ("stranger", SDXL_MODULE)] {
            server.import(name, None, &[("x.safetensors", lora(module))]).await.expect(201);
        }
        server
    }

    async fn create(&self, body: Value) -> Value {
        self.post("/v1/generations", &body).await.expect(202)
    }
}

/// Name, scale and scale on the text encoders of each LoRA.
fn loras(generation: &Value) -> Vec<(String, f64, Option<f64>)> {
    let lora = |lora: &Value| {
        let scale = |field: &str| lora[field].as_f64();
        (text(&lora["model"]["name"]), scale("scale").unwrap(), scale("text_encoder_scale"))
    };
    generation["loras"].as_array().unwrap().iter().map(lora).collect()
}

#[tokio::test]
async fn a_prompt_names_its_loras() {
    let server = TestServer::with_loras().await;
    let id = text(&server.get("/v1/models/ink").await.expect(200)["id"]);
    let one = |name: &str, scale, text_encoder| (name.to_owned(), scale, text_encoder);
    for (prompt, expected) in [
        ("a fox <lora:ink:0.5>".to_owned(), vec![one("ink", 0.5, None)]),
        ("a fox <lora:ink>".to_owned(), vec![one("ink", 1.0, None)]),
        ("a fox <lora:ink.safetensors:0.5>".to_owned(), vec![one("ink", 0.5, None)]),
        ("a fox <lora:styles/Ink.safetensors:0.5>".to_owned(), vec![one("ink", 0.5, None)]),
        (format!("a fox <lora:{id}:0.5>"), vec![one("ink", 0.5, None)]),
        ("a fox <lora:ink:0.25:0.5>".to_owned(), vec![one("ink", 0.5, Some(0.25))]),
        ("<lyco:clay:1> a fox <lora:ink:0.5>".to_owned(), vec![one("clay", 1.0, None), one("ink", 0.5, None)]),
        ("<lora:ink:0.5> a fox <lora:ink:0.25>".to_owned(), vec![one("ink", 0.75, None)]),
    ] {
        let created = server.create(json!({"prompt": prompt})).await;
        assert_eq!(loras(&created), expected, "{prompt}");
        assert_eq!((&created["prompt"], &created["warnings"]), (&json!(prompt), &json!([])), "{prompt}");
        assert_eq!(created["prompt_syntax"], "a1111");
        assert_eq!(server.get(&text(&created["urls"]["self"])).await.expect(200), created);
    }
    let work = generation::load_work(&server.pools.lease, &server.claim(JobKind::Generation).await).await.unwrap();
    assert_eq!((work.loras[0].model.name.as_str(), work.loras[0].scale), ("ink", 0.5));

    let sum = server.post("/v1/generations", &json!({"prompt": "a fox <lora:ink:6><lora:ink:6>"})).await;
    sum.refuses(422, "prompt");
    let message = text(&sum.body["errors"][0]["message"]);
    assert!(message.contains("`ink`") && message.contains("sum") && message.contains("12"), "{message}");

    // The answer can be sent again: a LoRA that `loras` states is applied once.
    let again = json!({"prompt": "a fox <lora:ink:0.5>", "loras": [{"model": "ink", "scale": 0.5}]});
    let again = server.create(again).await;
    assert_eq!((loras(&again), &again["warnings"]), (vec![one("ink", 0.5, None)], &json!([])));
    let other = json!({"prompt": "a fox <lora:ink:0.5><lora:clay:1>", "loras": [{"model": "ink.safetensors", "scale": 2,
                       "text_encoder_scale": 0}]});
    let other = server.create(other).await;
    assert_eq!(loras(&other), [one("ink", 2.0, Some(0.0)), one("clay", 1.0, None)]);
    assert!(text(&other["warnings"][0]).contains("<lora:ink:0.5>"), "{:#}", other["warnings"]);

    // Plain text names nothing.
    let plain = server.create(json!({"prompt": "a <lora:nobody:1> fox", "prompt_syntax": "plain"})).await;
    assert_eq!((loras(&plain), &plain["warnings"]), (Vec::new(), &json!([])));
}

#[tokio::test]
async fn loras_of_a_prompt_that_make_no_sense_are_named() {
    let server = TestServer::with_loras().await;
    let nine: String = (0..9).map(|number| format!("<lora:ink{number}:1>")).collect();
    for number in 0..9 {
        let name = format!("ink{number}");
        server.import(&name, None, &[("x.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    }
    for prompt in [
        "a fox <lora:nobody:1>",
        "a fox <lora:stranger:1>",
        "a fox <lora:ember:1>",
        "a fox <lora:ink:much>",
        "a fox <lora:ink:11>",
        "a fox <lora:ink:6><lora:ink:6>",
        "a fox <lora:ink:1:11>",
        "a fox <lora::1>",
        &nine,
    ] {
        let refused = server.post("/v1/generations", &json!({"prompt": prompt})).await;
        assert_eq!(refused.status, 422, "{prompt}: {:#}", refused.body);
        refused.refuses(422, "prompt");
    }
    // All wrong tags are named, with the other wrong fields.
    let prompt = "<lora:nobody:1> <lora:ink:much> <lora:ink:11> <lora:ember:1>";
    let body = json!({"prompt": prompt, "width": 65, "loras": [{"model": "nobody"}]});
    let refused = server.post("/v1/generations", &body).await.expect(422);
    let errors = refused["errors"].as_array().unwrap();
    let fields: Vec<String> = errors.iter().map(|error| text(&error["field"])).collect();
    assert_eq!(fields, ["width", "loras[0].model", "prompt", "prompt", "prompt", "prompt"], "{refused:#}");
    for (error, word) in errors[2..].iter().zip(["`nobody`", "much", "`ember`", "sum of its weights"]) {
        assert!(text(&error["message"]).contains(word), "{error}");
    }
    let nobodies: String = (0..500).map(|number| format!("<lora:nobody{number}:1>")).collect();
    let refused = server.post("/v1/generations", &json!({"prompt": nobodies})).await.expect(422);
    assert_eq!(refused["errors"].as_array().unwrap().len(), 9, "the first ones");
    for (field, value, named) in [
        ("prompt_syntax", json!("comfy"), "prompt_syntax"),
        ("loras", json!([{"model": "ink", "text_encoder_scale": 11}]), "loras[0].text_encoder_scale"),
    ] {
        let mut body = json!({"prompt": "a fox"});
        body[field] = value;
        server.post("/v1/generations", &body).await.refuses(422, named);
    }
    assert_eq!((server.count("generations").await, server.count("jobs").await), (0, 0));
}

#[tokio::test]
async fn settings_without_effect_are_warnings_from_the_creation_on() {
    let server = TestServer::with_loras().await;
    for (changes, named) in [
        (json!({"prompt": "a [red:blue:0.5] fox"}), "`[red:blue:0.5]`"),
        (json!({"prompt": "a [red|blue] fox"}), "`[red|blue]`"),
        (json!({"prompt": "a {red|blue} fox"}), "`{red|blue}`"),
        (json!({"prompt": "a fox AND snow"}), "`AND`"),
        (json!({"prompt": "a (red:1.2) fox"}), "`(red:1.2)`"),
        (json!({"prompt": "a fox BREAK snow"}), "`BREAK`"),
        (json!({"prompt": "a fox <hypernet:anime:1>"}), "<hypernet:anime:1>"),
        (json!({"negative_prompt": "<lora:ink:1>", "true_cfg_scale": 2}), "negative_prompt"),
        (json!({"negative_prompt": "[a:b:1]", "true_cfg_scale": 2}), "negative_prompt: `[a:b:1]`"),
        (json!({"negative_prompt": "blurry", "true_cfg_scale": 1}), "true_cfg_scale"),
        (json!({"guidance_scale": 7.5}), "guidance_scale"),
    ] {
        let mut body = json!({"prompt": "a fox"});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let created = server.create(body.clone()).await;
        let warnings = created["warnings"].as_array().unwrap();
        assert!(warnings.len() == 1 && text(&warnings[0]).contains(named), "{changes}: {warnings:?}");
        assert_eq!(server.get(&text(&created["urls"]["self"])).await.expect(200)["warnings"], created["warnings"]);
    }
    let plain = json!({"prompt": "a [red:blue:0.5] (fox:2) AND BREAK", "prompt_syntax": "plain"});
    assert_eq!(server.create(plain).await["warnings"], json!([]));

    // The engine's warnings are added to them.
    let claim = server.claim(JobKind::Generation).await;
    server.paint(&claim).await;
    let items = server.get("/v1/generations?limit=100").await.expect(200)["items"].clone();
    let done = items.as_array().unwrap().iter().find(|one| one["status"] == "succeeded").unwrap();
    let warnings: Vec<String> = done["warnings"].as_array().unwrap().iter().map(text).collect();
    assert!(
        warnings.len() == 2 && warnings[0].contains("`[red:blue:0.5]`") && warnings[1] == "a warning",
        "{warnings:?}"
    );
}
