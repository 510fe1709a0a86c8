//! The main path: upload pictures in all three ways, train a LoRA on them, generate pictures with it; compared byte for
//! byte.

use journeys::client::text;
use journeys::model::tensors;
use journeys::picture::{discs, pixels, sha256};
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use serde_json::json;

#[tokio::test]
async fn upload_train_generate_download() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let _worker = stack.worker("worker", "");
    let photos = discs(5);

    // Two pictures by multipart, two in a zip, one directly to storage.
    let dataset = client.dataset("discs", &photos[..2]).await;
    let zipped = client.add_archive(&dataset, &photos[2..4]).await.expect(201);
    assert_eq!(zipped["items"].as_array().unwrap().len(), 2, "{zipped:#}");
    client.add_presigned(&dataset, &photos[4]).await;

    let seen = client.get(&format!("/v1/datasets/{dataset}")).await.expect(200);
    let examples = seen["examples"].as_array().unwrap();
    assert_eq!(examples.len(), photos.len(), "{seen:#}");
    for (example, photo) in examples.iter().zip(&photos) {
        assert_eq!(text(&example["caption"]), photo.caption);
        assert_eq!(text(&example["sha256"]), sha256(&photo.bytes));
        assert_eq!(client.download(&text(&example["url"])).await, photo.bytes, "the stored picture is the sent one");
    }

    // A short training at a high rate, so that the LoRA's effect is visible in 8 bits.
    let training = client
        .train(&json!({"name": "discs", "dataset": dataset, "model": "tiny", "trigger_word": "discly",
                       "steps": 8, "rank": 4, "learning_rate": 0.05, "resolution": 32, "seed": 5}))
        .await;
    assert_eq!(training["status"], "queued");
    let training = client.succeeded(&training, seconds(120)).await;
    assert_eq!(training["progress"]["step"], 8, "{training:#}");
    assert_eq!(training["progress"]["total_steps"], 8, "{training:#}");
    assert_eq!(training["output_model"]["name"], "discs", "{training:#}");

    // The adapter is a model like any other, and its file matches its description.
    let model = client.get("/v1/models/discs").await.expect(200);
    assert_eq!(model["kind"], "lora");
    assert_eq!(model["trigger_word"], "discly");
    let adapter = client.artifacts(&training).await.remove(0);
    assert_eq!(text(&model["sha256"]), sha256(&adapter));
    let tensors = tensors(&adapter);
    assert!(
        tensors.by_name.keys().all(|key| key.starts_with("transformer.") && key.contains(".lora_")),
        "PEFT names for diffusers"
    );
    assert!(tensors.by_name.values().flatten().all(|value| value.is_finite()));
    assert!(
        tensors.by_name.iter().any(|(key, values)| key.contains("lora_B") && values.iter().any(|value| *value != 0.0)),
        "it learned"
    );

    // With it, without it, and with it at scale 0.
    let request = |loras| {
        json!({"prompt": "discly, a red disc", "model": "tiny", "loras": loras, "num_images": 2,
               "num_inference_steps": 3, "width": 64, "height": 64, "seed": 11})
    };
    let mut pictures = Vec::new();
    for loras in [json!([{"model": "discs"}]), json!([]), json!([{"model": model["id"], "scale": 0.0}])] {
        let generation = client.generate(&request(loras)).await;
        let generation = client.succeeded(&generation, seconds(60)).await;
        assert_eq!(generation["artifacts"].as_array().unwrap().len(), 2, "{generation:#}");
        pictures.push(client.artifacts(&generation).await.iter().map(|bytes| pixels(bytes)).collect::<Vec<_>>());
    }
    assert_ne!(pictures[0], pictures[1], "the LoRA changes the picture");
    assert_eq!(pictures[1], pictures[2], "scale 0 is no LoRA");

    // A resource in use cannot be deleted; others can.
    assert_eq!(client.delete("/v1/models/discs").await.status, 204);
    assert_eq!(client.get("/v1/models/discs").await.status, 404);
    assert_eq!(client.delete(&format!("/v1/datasets/{dataset}")).await.status, 204);
    stack.ledger.audit().await;
}
