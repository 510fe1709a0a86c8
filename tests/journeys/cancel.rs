//! Cancel: immediate while queued, within one step while running, and never after the end.

use std::time::Instant;

use journeys::client::text;
use journeys::picture::discs;
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

fn request(steps: u32) -> Value {
    json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": steps, "width": 32, "height": 32})
}

async fn cancel(stack: &Stack, job: &Value) -> Value {
    let answer = stack.client.post(&text(&job["urls"]["cancel"]), &json!({})).await;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    answer.body
}

#[tokio::test]
async fn a_queued_job_is_canceled_at_once_and_never_runs() {
    let stack = Stack::start(Pace::Promised).await;
    let generation = stack.client.generate(&request(2)).await;
    assert_eq!(cancel(&stack, &generation).await["status"], "canceled");

    let _worker = stack.worker("worker", "");
    let next = stack.client.generate(&request(1)).await;
    stack.client.succeeded(&next, seconds(60)).await;
    assert!(stack.ledger.attempts(&text(&generation["id"])).await.is_empty());

    // A finished job does not change: a late cancel is refused or has no effect.
    let answer = stack.client.post(&text(&next["urls"]["cancel"]), &json!({})).await;
    assert!(matches!(answer.status, 200 | 202 | 409), "{answer:?}");
    assert_eq!(stack.client.get(&text(&next["urls"]["self"])).await.expect(200)["status"], "succeeded");
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

#[tokio::test]
async fn a_running_generation_stops_within_one_step_and_the_engine_lives_on() {
    let stack = Stack::start(Pace::Promised).await;
    // At 1.5 s a step: without the cancel it would run for five minutes.
    let worker = stack.worker("worker", "step_delay_ms=1500");
    let generation = stack.client.generate(&request(200)).await;
    stack.client.running_at(&generation, 1, seconds(60)).await;
    let engine = worker.engine().expect("an engine runs");

    let asked = Instant::now();
    let step = cancel(&stack, &generation).await["progress"]["step"].as_i64().unwrap();
    let end = stack.client.settled(&generation, seconds(20)).await;
    assert_eq!(end["status"], "canceled", "{end:#}");
    let (took, made) = (asked.elapsed(), end["progress"]["step"].as_i64().unwrap() - step);
    assert!(made <= 2, "{made} more steps were made in {took:?}");
    assert!(took < seconds(5), "one step takes 1.5 s, the cancel took {took:?}");
    assert!(end["artifacts"].as_array().unwrap().is_empty(), "{end:#}");

    let next = stack.client.generate(&request(1)).await;
    stack.client.succeeded(&next, seconds(30)).await;
    assert_eq!(worker.engine(), Some(engine), "a cancel costs no engine");
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

#[tokio::test]
async fn a_running_training_stops_and_leaves_no_model() {
    let stack = Stack::start(Pace::Promised).await;
    let _worker = stack.worker("worker", "step_delay_ms=300");
    let dataset = stack.client.dataset("discs", &discs(2)).await;
    let training =
        json!({"name": "never", "dataset": dataset, "model": "tiny", "steps": 5000, "rank": 2, "resolution": 32});
    let training = stack.client.train(&training).await;
    stack.client.running_at(&training, 2, seconds(60)).await;
    assert_eq!(stack.client.delete(&format!("/v1/datasets/{dataset}")).await.status, 409, "it is in use");

    cancel(&stack, &training).await;
    assert_eq!(stack.client.settled(&training, seconds(20)).await["status"], "canceled");
    assert_eq!(stack.client.get("/v1/models/never").await.status, 404);
    until(seconds(5), "the dataset is free again", || async {
        (stack.client.delete(&format!("/v1/datasets/{dataset}")).await.status == 204).then_some(())
    })
    .await;
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}
