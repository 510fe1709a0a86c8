//! Inspecting a model, and exporting a LoRA in another program's dialect: inspected at once, exported once, and deleted
//! with its model.

use journeys::client::{Client, text};
use journeys::model::{golden, pipeline_files, tensors};
use journeys::picture::{pixels, sha256};
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

async fn inspect(client: &Client, model: &str) -> Value {
    client.get(&format!("/v1/models/{model}/inspect")).await.expect(200)
}

fn adapter(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

#[tokio::test]
async fn a_model_is_told_from_the_inside_without_a_worker() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let whole = inspect(client, "tiny").await;
    assert_eq!((&whole["kind"], &whole["family"]), (&json!("checkpoint"), &json!("flux")));
    assert_eq!(whole["prediction_type"], "flow_prediction");
    let networks = whole["networks"].as_array().unwrap();
    let names: Vec<&str> = networks.iter().map(|network| network["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["text_encoder", "text_encoder_2", "transformer", "vae"]);
    assert_eq!(networks[2]["files"].as_array().unwrap().len(), 5, "every shard counts");
    for network in networks {
        assert_eq!(network["dtypes"], json!({"F32": network["parameters"]}), "{network:#}");
    }
    client.add_model("v", &pipeline_files("sd21-tiny"), None).await.expect(201);
    assert_eq!(inspect(client, "v").await["prediction_type"], "v_prediction");

    for (name, file, family, dialect) in [
        ("ink", "lora-dialects/flux/kohya.safetensors", "flux", "kohya"),
        ("wash", "lora-dialects/flux/dora_peft.safetensors", "flux", "peft"),
        ("old", "lora-dialects/sd15/legacy.safetensors", "stable_diffusion", "diffusers_legacy"),
    ] {
        client.add_model(name, &[(format!("{name}.safetensors"), adapter(file))], None).await.expect(201);
        let about = inspect(client, name).await;
        assert_eq!(
            (&about["kind"], &about["family"], &about["dialect"]),
            (&json!("lora"), &json!(family), &json!(dialect)),
            "{about:#}"
        );
    }
    let kohya = inspect(client, "ink").await;
    assert_eq!(kohya["modules"], json!({"transformer": 20, "text_encoder": 3, "text_encoder_2": 3}));
    assert_eq!((&kohya["algorithms"], &kohya["alpha_source"]), (&json!({"lora": 26}), &json!("alpha tensors")));
    assert_eq!(inspect(client, "wash").await["dora"], 20);
    client.get("/v1/models/nothing/inspect").await.expect(404);
    assert_eq!(stack.cli_json(&["models", "inspect", "ink"]), kohya);
}

#[tokio::test]
async fn a_lora_leaves_in_another_dialect() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    client
        .add_model("ink", &[("ink.safetensors".into(), adapter("lora-dialects/flux/kohya.safetensors"))], None)
        .await
        .expect(201);
    let ask = async |query: &str| client.post(&format!("/v1/models/ink/export?{query}"), &json!({})).await;

    let first = ask("format=peft").await;
    let location = first.header("location").to_owned();
    let queued = first.expect(202);
    assert_eq!((text(&queued["urls"]["self"]), &queued["status"]), (location, &json!("queued")));
    assert_eq!(ask("format=peft&dtype=f32").await.expect(202)["id"], queued["id"], "it is under way already");
    client.delete("/v1/models/ink").await.expect(409);

    let _worker = stack.worker("worker", "");
    let made = client.succeeded(&queued, seconds(60)).await;
    let file = client.artifacts(&made).await.remove(0);
    assert_eq!(sha256(&file), text(&made["artifacts"][0]["sha256"]));
    let names = tensors(&file).by_name;
    assert!(names.keys().all(|name| name.contains(".lora_A.weight") || name.contains(".lora_B.weight")), "{names:?}");
    assert!(names.keys().any(|name| name.starts_with("transformer.transformer_blocks.0.attn.to_q.")));
    let objects = stack.site.objects();
    let again = ask("format=peft").await.expect(201);
    assert_eq!((&again["id"], &again["artifacts"][0]["sha256"]), (&made["id"], &made["artifacts"][0]["sha256"]));
    assert_eq!(stack.site.objects(), objects, "what was made is made once");

    // An exported file imports as the same LoRA: the pictures are equal except for the last digit of a fused product.
    client.add_model("back", &[("back.safetensors".into(), file)], None).await.expect(201);
    let picture = async |lora: &str| {
        let request = json!({"prompt": "an owl", "model": "tiny", "seed": 4, "num_inference_steps": 2,
                             "width": 64, "height": 64, "loras": [{"model": lora}]});
        let made = client.succeeded(&client.generate(&request).await, seconds(90)).await;
        pixels(&client.artifacts(&made).await[0])
    };
    let (one, other) = (picture("ink").await, picture("back").await);
    let furthest = one.iter().zip(other.iter()).map(|(one, other)| one.abs_diff(*other)).max();
    assert!(furthest <= Some(1), "{furthest:?}");

    let half = stack.folder().join("half.safetensors");
    let command =
        ["models", "export", "ink", "--format", "comfy", "--dtype", "bf16", "--output", half.to_str().unwrap()];
    stack.cli_json(&command);
    assert!(std::fs::read(&half).unwrap().windows(4).any(|four| four == b"BF16"));
    // Not every dialect can express DoRA: that is reported, and the export may be tried again.
    client
        .add_model("wash", &[("wash.safetensors".into(), adapter("lora-dialects/flux/full.safetensors"))], None)
        .await
        .expect(201);
    let refused = client.post("/v1/models/wash/export?format=peft", &json!({})).await.expect(202);
    let refused = client.settled(&refused, seconds(60)).await;
    assert_eq!(
        (&refused["status"], &refused["error"]["class"]),
        (&json!("failed"), &json!("invalid_input")),
        "{refused:#}"
    );
    let why = text(&refused["error"]["message"]);
    assert!(why.contains("the format peft has no names for") && why.contains("export it as"), "{why}");

    ask("format=pickle").await.expect_problem(422, "format");
    ask("format=peft&dtype=f64").await.expect_problem(422, "dtype");
    client.post("/v1/models/tiny/export?format=peft", &json!({})).await.expect_problem(422, "model");
    client.post("/v1/models/nothing/export?format=peft", &json!({})).await.expect(404);
    let listed = client.get("/v1/exports").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);

    let objects = stack.site.objects();
    client.delete("/v1/models/ink").await.expect(204);
    until(seconds(10), "the exports are deleted with their model", || async {
        (stack.site.objects() == objects - 3).then_some(())
    })
    .await;
    client.get(&text(&made["urls"]["self"])).await.expect(404);
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}
