//! A picture can be generated again from its own metadata, regardless of the batch that it was in.

use journeys::client::{Client, text};
use journeys::picture::{pixels, texts};
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use serde_json::{Value, json};

async fn make(client: &Client, seed: i64, num_images: u32) -> (Value, Vec<Vec<u8>>) {
    let request = json!({"prompt": "an owl — été, 猫", "negative_prompt": "blurry", "model": "tiny",
                         "num_images": num_images, "num_inference_steps": 2, "width": 48, "height": 32,
                         "seed": seed, "true_cfg_scale": 2.0});
    let generation = client.generate(&request).await;
    let generation = client.succeeded(&generation, seconds(60)).await;
    let bytes = client.artifacts(&generation).await;
    assert_eq!(bytes.len() as u32, num_images);
    (generation, bytes)
}

#[tokio::test]
async fn the_same_seed_gives_the_same_picture() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let _worker = stack.worker("worker", "");

    let (four, batch) = make(client, 100, 4).await;
    let (_, again) = make(client, 100, 4).await;
    assert_eq!(batch, again, "the same request twice: the same bytes");

    // Picture i of a batch equals the only picture of seed + i.
    for (index, expected) in batch.iter().enumerate() {
        let seed = 100 + index as i64;
        assert_eq!(four["artifacts"][index]["seed"], seed);
        if index > 1 {
            continue;
        }
        let (_, alone) = make(client, seed, 1).await;
        assert_eq!(pixels(&alone[0]), pixels(expected), "picture {index} of the batch");
    }
    assert_ne!(pixels(&batch[0]), pixels(&batch[1]), "another seed, another picture");

    // The file itself contains how it was made.
    let model = client.get("/v1/models/tiny").await.expect(200);
    for (index, bytes) in batch.iter().enumerate() {
        let chunks = texts(bytes);
        let ours: Value = serde_json::from_str(&chunks["pyrograph"]).unwrap();
        assert_eq!(ours["prompt"], "an owl — été, 猫", "{ours:#}");
        assert_eq!(ours["negative_prompt"], "blurry");
        assert_eq!(ours["seed"], 100 + index as i64);
        assert!(ours.to_string().contains(&text(&model["sha256"])), "the model's hash is in {ours:#}");
        assert!(chunks["parameters"].contains(&format!("Seed: {}", 100 + index)), "{}", chunks["parameters"]);
        assert!(chunks["parameters"].contains("Steps: 2"), "{}", chunks["parameters"]);
    }

    // A seed that is not given is drawn, and reported.
    for seed in [json!(null), json!(-1)] {
        let mut request =
            json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
        if seed.is_i64() {
            request["seed"] = seed;
        }
        let drawn = client.generate(&request).await;
        assert!(drawn["seed"].as_i64().is_some_and(|seed| seed >= 0), "{drawn:#}");
    }
}

#[tokio::test]
async fn prefer_wait_answers_with_the_finished_picture() {
    let stack = Stack::start(Pace::Promised).await;
    let _worker = stack.worker("worker", "");
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
    let request =
        stack.client.request(reqwest::Method::POST, "/v1/generations").header("prefer", "wait=60").json(&request);
    let answer = stack.client.send(request).await;
    assert!(answer.header("location").starts_with("/v1/generations/"), "Location is told all the same");
    assert!(matches!(answer.status, 200..=202), "{answer:?}");
    assert_eq!(answer.body["status"], "succeeded", "{:#}", answer.body);
    assert_eq!(stack.client.artifacts(&answer.body).await.len(), 1);
}
