//! Workers that stop and start in an orderly way: a drain costs no retry, a restart under the same name is another
//! worker.

use std::time::Instant;

use journeys::client::text;
use journeys::ground::Site;
use journeys::lossy::LossyPostgres;
use journeys::process::{Signal, runs};
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

fn request(steps: u32) -> Value {
    json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": steps, "width": 32, "height": 32, "seed": 3})
}

/// SIGTERM: the running picture is finished, nothing new is claimed, the engine stops with its worker.
#[tokio::test]
async fn a_worker_that_is_asked_to_stop_finishes_its_picture() {
    let stack = Stack::start(Pace::Promised).await;
    let mut worker = stack.worker("worker", "step_delay_ms=200");
    let running = stack.client.generate(&request(10)).await;
    stack.client.running_at(&running, 1, seconds(60)).await;
    let waiting = stack.client.generate(&request(1)).await;
    let engine = worker.engine().expect("an engine runs");

    let status = worker.end(Signal::TERM, seconds(60));
    assert!(status.success(), "{status}");
    until(seconds(5), "the engine ends with its worker", || async { (!runs(engine)).then_some(()) }).await;

    // Finished, or released at no cost: never failed, and its lease never expired.
    let now = stack.client.get(&text(&running["urls"]["self"])).await.expect(200);
    assert!(now["status"] == "succeeded" || now["status"] == "queued", "{now:#}");
    let attempts = stack.ledger.attempts(&text(&running["id"])).await;
    assert!(matches!(attempts[0].outcome.as_deref(), Some("succeeded" | "released")), "{attempts:#?}");
    assert_eq!(stack.client.get(&text(&waiting["urls"]["self"])).await.expect(200)["status"], "queued");

    let _next = stack.worker("worker", "");
    stack.client.succeeded(&waiting, seconds(60)).await;
    stack.client.succeeded(&running, seconds(60)).await;
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// Killed and restarted at once in the same folder, before the lease expires: the old process's lease still expires.
#[tokio::test]
async fn a_quick_restart_does_not_keep_the_old_lease_alive() {
    let stack = Stack::start(Pace::Quick).await;
    let mut worker = stack.worker("worker", "step_delay_ms=300");
    let generation = stack.client.generate(&request(20)).await;
    stack.client.running_at(&generation, 1, seconds(60)).await;
    worker.kill();
    let _again = stack.worker("worker", "");
    stack.client.succeeded(&generation, seconds(40)).await;
    let attempts = stack.ledger.attempts(&text(&generation["id"])).await;
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_ne!(attempts[0].worker, attempts[1].worker, "a worker is one process start");
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// Those who stop it kill it after half a minute: what the database would have to answer is left to the lease.
#[tokio::test]
async fn a_worker_stops_in_time_without_its_database() {
    let site = Site::create().await;
    let postgres = LossyPostgres::before(&site.database_url).await;
    let stack = Stack::start_on(site, Pace::Promised, &[]).await;
    let through = [("DATABASE_URL", postgres.url.as_str())];
    let mut busy = stack.worker_with("busy", "step_delay_ms=200", &through);
    let running = stack.client.generate(&request(15)).await;
    stack.client.running_at(&running, 1, seconds(60)).await;
    let mut idle = stack.worker_with("idle", "", &through);
    until(seconds(30), "it works", || async { idle.log().contains("worker started").then_some(()) }).await;

    postgres.go_away();
    let start = Instant::now();
    for worker in [&mut idle, &mut busy] {
        worker.signal(Signal::TERM);
    }
    for worker in [&mut idle, &mut busy] {
        assert!(worker.wait(seconds(30)).success());
        eprintln!("{} took {:?}", worker.name(), start.elapsed());
    }
}
