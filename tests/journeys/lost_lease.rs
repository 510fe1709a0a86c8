//! A worker that slept past its lease wakes up with a finished picture that nobody needs any more.

use std::time::Instant;

use journeys::client::text;
use journeys::gate::Gate;
use journeys::process::{Process, Signal, send};
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

#[tokio::test]
async fn the_late_commit_of_a_stopped_worker_changes_nothing() {
    let stack = Stack::start(Pace::Quick).await;
    let request = json!({"prompt": "an owl", "model": "tiny", "num_images": 2, "num_inference_steps": 8,
                         "width": 32, "height": 32, "seed": 3});
    let mut sleeper = stack.worker("sleeper", "step_delay_ms=250");
    let generation = stack.client.generate(&request).await;
    stack.client.running_at(&generation, 1, seconds(60)).await;

    // The worker is stopped; its engine continues and fills the pipe with the finished pictures.
    sleeper.signal(Signal::STOP);
    let mut other = stack.worker("other", "");
    let end = stack.client.succeeded(&generation, seconds(60)).await;
    let reference = stack.client.artifacts(&end).await;
    let id = text(&generation["id"]);
    let attempts = stack.ledger.attempts(&id).await;
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(attempts[0].outcome.as_deref(), Some("expired"));
    assert_eq!(attempts[1].outcome.as_deref(), Some("succeeded"));
    assert_ne!(attempts[0].worker, attempts[1].worker);

    // No other worker is left that could change anything.
    other.end(Signal::TERM, seconds(20));
    let (before, keys) = (stack.ledger.digest().await, stack.ledger.storage_keys(&id).await);
    sleeper.signal(Signal::CONT);
    tokio::time::sleep(seconds(5)).await;
    assert!(sleeper.is_alive(), "a lost lease is no reason to die");
    assert_eq!(stack.ledger.digest().await, before, "not one row changed");
    assert_eq!(stack.ledger.storage_keys(&id).await, keys);
    let after = stack.client.get(&text(&generation["urls"]["self"])).await.expect(200);
    assert_eq!(stack.client.artifacts(&after).await, reference);

    // It continues with the next job as usual.
    let next = stack.client.generate(&request).await;
    let next = stack.client.succeeded(&next, seconds(60)).await;
    assert_eq!(stack.client.artifacts(&next).await, reference);
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// Stopped together with its engine, it wakes up in the middle of its work, with a minute of work left for nobody.
#[tokio::test]
async fn a_worker_that_wakes_without_its_lease_gives_the_work_up() {
    let stack = Stack::start(Pace::Quick).await;
    let request = |steps| {
        json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": steps,
               "width": 32, "height": 32, "seed": 3})
    };
    let mut sleeper = stack.worker("sleeper", "step_delay_ms=500");
    let generation = stack.client.generate(&request(120)).await;
    stack.client.running_at(&generation, 1, seconds(60)).await;
    let engine = sleeper.engine().expect("an engine runs");
    sleeper.signal(Signal::STOP);
    send(engine, Signal::STOP);

    let mut other = stack.worker("other", "");
    stack.client.succeeded(&generation, seconds(60)).await;
    other.end(Signal::TERM, seconds(20));
    let before = stack.ledger.digest().await;
    send(engine, Signal::CONT);
    sleeper.signal(Signal::CONT);
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(stack.ledger.digest().await, before, "not one row changed");

    // Only a worker that dropped the lost job can have time for the next one.
    let next = stack.client.generate(&request(1)).await;
    stack.client.succeeded(&next, seconds(30)).await;
    assert!(sleeper.is_alive());
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// A worker that is stopped while its picture is on the way to the bucket.
struct Sleeper {
    worker: Process,
    gate: Gate,
    generation: Value,
}

impl Sleeper {
    async fn start(stack: &Stack) -> Self {
        let gate = Gate::before(&stack.site.storage().endpoint).await;
        let through = [("PYROGRAPH_S3_ENDPOINT", gate.url.as_str())];
        let worker = stack.worker_with("sleeper", "step_delay_ms=250", &through);
        let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 8, "width": 32, "height": 32,
                             "seed": 3});
        let generation = stack.client.generate(&request).await;
        stack.client.running_at(&generation, 1, seconds(60)).await;
        gate.close();
        until(seconds(30), "the picture leaves the worker", || async { gate.holds_a_put().then_some(()) }).await;
        worker.signal(Signal::STOP);
        Self { worker, gate, generation }
    }

    /// Lets the picture arrive, long after everything that the end of the attempt has asked for is done, and wakes the
    /// worker. Returns when the object was there.
    async fn arrive(&mut self, stack: &Stack) -> Instant {
        stack.audit_bucket().await;
        until(seconds(60), "nobody looks any more", || async {
            let looks = stack.ledger.count("leftovers").await;
            (looks + stack.ledger.count("deletions where done_at is null").await == 0).then_some(())
        })
        .await;
        self.gate.open();
        let late = format!("artifacts/{}/1/", text(&self.generation["id"]));
        let there = || stack.site.keys().iter().any(|key| key.starts_with(&late));
        until(seconds(30), "the late picture arrives", || async { there().then_some(()) }).await;
        let arrived = Instant::now();
        assert!(self.worker.is_alive());
        self.worker.signal(Signal::CONT);
        arrived
    }
}

async fn gone_within_a_minute(stack: &Stack, arrived: Instant) {
    until(seconds(75), "the late picture goes", || async {
        let (missing, unnamed) = stack.bucket_against_rows().await;
        assert!(missing.is_empty(), "{missing:?}");
        unnamed.is_empty().then_some(())
    })
    .await;
    eprintln!("gone {:?} after it arrived", arrived.elapsed());
    assert!(arrived.elapsed() < seconds(60), "{:?}", arrived.elapsed());
    stack.ledger.audit().await;
}

#[tokio::test]
async fn a_picture_that_arrives_after_another_attempt_has_won_goes_within_a_minute() {
    let stack = Stack::start(Pace::Quick).await;
    let mut sleeper = Sleeper::start(&stack).await;
    let _other = stack.worker("other", "");
    let end = stack.client.succeeded(&sleeper.generation, seconds(60)).await;
    let arrived = sleeper.arrive(&stack).await;
    gone_within_a_minute(&stack, arrived).await;
    assert_eq!(stack.client.artifacts(&end).await.len(), 1, "the other attempt's picture stays");
}

#[tokio::test]
async fn a_picture_that_arrives_after_its_job_was_deleted_goes_within_a_minute() {
    let stack = Stack::start(Pace::Quick).await;
    let mut sleeper = Sleeper::start(&stack).await;
    let client = &stack.client;
    client.post(&text(&sleeper.generation["urls"]["cancel"]), &json!({})).await;
    assert_eq!(client.settled(&sleeper.generation, seconds(30)).await["status"], "canceled");
    assert_eq!(client.delete(&text(&sleeper.generation["urls"]["self"])).await.status, 204);
    let arrived = sleeper.arrive(&stack).await;
    gone_within_a_minute(&stack, arrived).await;
}
