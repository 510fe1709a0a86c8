//! Weights that do not fit. What headers show is refused when a model is added; what only the engine can detect is
//! reported at once, and never tried again.

use journeys::client::{Client, text};
use journeys::model::tiny_files;
use journeys::picture::discs;
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use serde_json::{Value, json};

async fn refused_by_the_engine(stack: &Stack, client: &Client, request: &Value) -> String {
    let generation = client.generate(request).await;
    let end = client.settled(&generation, seconds(90)).await;
    assert_eq!(end["status"], "failed", "{end:#}");
    assert_eq!(end["error"]["class"], "invalid_input", "{end:#}");
    assert_eq!(stack.ledger.attempts(&text(&generation["id"])).await.len(), 1, "what is wrong stays wrong: {end:#}");
    text(&end["error"]["message"])
}

#[tokio::test]
async fn weights_that_do_not_fit_are_named_and_not_tried_again() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let worker = stack.worker("worker", "");

    // An adapter for a model of the same family and another size.
    let dataset = client.dataset("discs", &discs(1)).await;
    let training =
        json!({"name": "small", "dataset": dataset, "model": "tiny", "steps": 1, "rank": 2, "resolution": 32});
    client.succeeded(&client.train(&training).await, seconds(90)).await;
    let request =
        json!({"prompt": "an owl", "model": "ember", "loras": [{"model": "small"}], "num_inference_steps": 1});
    let message = refused_by_the_engine(&stack, client, &request).await;
    assert!(message.len() > 20, "{message}");

    // A checkpoint with the weights of one network in place of another's.
    let mut files = tiny_files();
    let clip = files.iter().find(|(path, _)| path == "text_encoder/model.safetensors").expect("CLIP").1.clone();
    files.iter_mut().find(|(path, _)| path == "vae/diffusion_pytorch_model.safetensors").expect("VAE").1 = clip;
    let refused = client.add_model("mixed-up", &files, None).await.expect(422);
    let message = text(&refused["errors"][0]["message"]);
    assert!(message.contains("missing (decoder.") && message.contains("unused (text_model."), "{message}");

    // One NaN, in f32 as in bf16.
    let mut files = tiny_files();
    let vae = files.iter_mut().find(|(path, _)| path == "vae/diffusion_pytorch_model.safetensors").expect("VAE");
    let end = vae.1.len();
    vae.1[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    client.add_model("nan", &files, None).await.expect(201);
    let request = json!({"prompt": "an owl", "model": "nan", "num_inference_steps": 1, "width": 32, "height": 32});
    let message = refused_by_the_engine(&stack, client, &request).await;
    assert!(message.contains("vae") && message.contains("has values that are NaN or infinite"), "{message}");

    // The engine continues with valid requests.
    let engine = worker.engine();
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
    client.succeeded(&client.generate(&request).await, seconds(60)).await;
    assert_eq!(worker.engine(), engine, "a wrong file costs no engine");
    stack.ledger.audit().await;
}
