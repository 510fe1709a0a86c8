//! A training that loses its worker continues from its last checkpoint, on another one, and yields the same adapter.

use journeys::client::text;
use journeys::picture::discs;
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};
use sqlx::Row;

const STEPS: i64 = 24;

fn request(name: &str, dataset: &str) -> Value {
    json!({"name": name, "dataset": dataset, "model": "tiny", "steps": STEPS, "rank": 2,
           "learning_rate": 0.01, "resolution": 32, "seed": 9})
}

async fn adapter(stack: &Stack, training: &Value) -> Vec<u8> {
    stack.client.artifacts(training).await.remove(0)
}

#[tokio::test]
async fn another_worker_goes_on_from_the_checkpoint() {
    let stack = Stack::start_with(Pace::Quick, &[("PYROGRAPH_CHECKPOINT_EVERY", "4")]).await;
    let dataset = stack.client.dataset("discs", &discs(3)).await;
    let mut first = stack.worker("first", "step_delay_ms=400");
    let training = stack.client.train(&request("interrupted", &dataset)).await;
    let id = text(&training["id"]);

    let saved: i32 = until(seconds(60), "a checkpoint is committed", || async {
        sqlx::query_scalar("select max(step) from training_checkpoints where training_id::text = $1")
            .bind(&id)
            .fetch_one(stack.ledger.pool())
            .await
            .unwrap()
    })
    .await;
    stack.client.running_at(&training, i64::from(saved) + 1, seconds(30)).await;
    first.kill();

    let _second = stack.worker("second", "");
    let interrupted = stack.client.succeeded(&training, seconds(90)).await;
    assert_eq!(interrupted["progress"]["step"], STEPS, "{interrupted:#}");
    let attempts = stack.ledger.attempts(&id).await;
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_ne!(attempts[0].worker, attempts[1].worker);

    // The second attempt began after the saved step, as its first progress shows.
    let rows = sqlx::query(
        "select e.kind, e.data from job_events e join trainings t on t.job_id = e.job_id
         where t.id::text = $1 order by e.sequence",
    )
    .bind(&id)
    .fetch_all(stack.ledger.pool())
    .await
    .unwrap();
    let events: Vec<(String, Value)> = rows.iter().map(|row| (row.get("kind"), row.get("data"))).collect();
    let second = events.iter().rposition(|(kind, _)| kind == "started").expect("it was started");
    let resumed = events[second..]
        .iter()
        .find(|(kind, _)| kind == "progress")
        .and_then(|(_, data)| data["step"].as_i64())
        .unwrap();
    assert!(resumed > i64::from(saved), "step {resumed} after a checkpoint at {saved}: {events:#?}");
    assert!(events.iter().any(|(kind, _)| kind == "checkpoint"), "{events:#?}");

    // Neither the interruption nor its name has an effect on the file.
    let whole = stack.client.train(&request("whole", &dataset)).await;
    let whole = stack.client.succeeded(&whole, seconds(90)).await;
    let [expected, found] = [adapter(&stack, &whole).await, adapter(&stack, &interrupted).await];
    assert_eq!(expected.len(), found.len());
    assert!(expected == found, "equal trainings make different files");
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}
