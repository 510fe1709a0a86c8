//! `kill -9` at any moment: nothing is lost, nothing is doubled, and a job that cannot succeed is not retried for ever.

use std::time::{Duration, Instant};

use journeys::client::text;
use journeys::process::{Process, Signal, runs, send};
use journeys::stack::{Pace, Stack};
use journeys::wait::{milliseconds, seconds, until};
use serde_json::{Value, json};

const ROUNDS: usize = 20;

fn request(seed: usize) -> Value {
    json!({"prompt": "an owl", "model": "tiny", "num_images": 2, "num_inference_steps": 6,
           "width": 32, "height": 32, "seed": seed})
}

/// Twenty rounds on two workers: in each a job, and a moment later the worker that has it, or its engine, is killed.
#[tokio::test]
async fn twenty_killings_at_random_moments() {
    let stack = Stack::start(Pace::Quick).await;
    let mut workers: Vec<Process> =
        (0..2).map(|index| stack.worker(&format!("worker-{index}"), "step_delay_ms=100")).collect();
    let mut random = fastrand::Rng::new();
    let seed = random.u64(..);
    random.seed(seed);
    eprintln!("seed of this run: {seed}");

    let first = stack.client.generate(&request(0)).await;
    let reference = stack.client.artifacts(&stack.client.succeeded(&first, seconds(60)).await).await;

    let mut killed = 0;
    for round in 1..=ROUNDS {
        let generation = stack.client.generate(&request(0)).await;
        tokio::time::sleep(milliseconds(random.u64(0..900))).await;

        // Find the current holder. Before the claim and after the end, any process may be killed.
        let mut victim = random.usize(..workers.len());
        let holder = stack.holder(&generation).await;
        if let (Some(holder), true) = (&holder, random.u8(..4) > 0) {
            victim = workers.iter().position(|worker| worker.log().contains(holder.as_str())).unwrap_or(victim);
        }
        let engine = workers[victim].engine();
        if let (Some(engine), true) = (engine, random.bool()) {
            send(engine, Signal::KILL);
        } else {
            workers[victim].kill();
            let name = format!("worker-{victim}-{round}");
            workers[victim] = stack.worker(&name, "step_delay_ms=100");
            // An engine exits when its worker is gone.
            if let Some(engine) = engine {
                until(seconds(15), "the engine of a killed worker ends", || async { (!runs(engine)).then_some(()) })
                    .await;
            }
        }
        killed += usize::from(holder.is_some());

        let end = stack.client.succeeded(&generation, seconds(40)).await;
        assert_eq!(stack.client.artifacts(&end).await, reference, "round {round}: the same picture, whatever happened");
        stack.ledger.audit().await;
    }
    assert!(killed >= ROUNDS / 3, "only {killed} of {ROUNDS} kills met a running job");
    assert_eq!(stack.ledger.count("artifacts").await, 2 * (ROUNDS as i64 + 1));
    stack.audit_bucket().await;
}

/// The promise with the default settings: at most 40 s after the first worker's machine died, another worker has the
/// job.
#[tokio::test]
async fn a_job_of_a_dead_worker_is_claimed_again_within_40_seconds() {
    let stack = Stack::start(Pace::Promised).await;
    let mut first = stack.worker("first", "step_delay_ms=500");
    let generation = stack.client.generate(&request(1)).await;
    stack.client.running_at(&generation, 1, seconds(60)).await;
    let _second = stack.worker("second", "");

    let died = stack.ledger.now().await;
    first.kill();
    stack.client.succeeded(&generation, seconds(60)).await;
    let attempts = stack.ledger.attempts(&text(&generation["id"])).await;
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(attempts[0].outcome.as_deref(), Some("expired"));
    let waited = attempts[1].started_at - died;
    eprintln!("claimed again {waited:.1} s after the death of its worker");
    assert!(waited <= 40.0, "{waited:.1} s");
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// Its parent notices at once when an engine dies: no lease has to expire.
#[tokio::test]
async fn a_dead_engine_costs_seconds_not_a_lease() {
    let stack = Stack::start(Pace::Promised).await;
    let worker = stack.worker("worker", "step_delay_ms=500");
    let generation = stack.client.generate(&request(1)).await;
    stack.client.running_at(&generation, 2, seconds(60)).await;

    let engine = worker.engine().expect("an engine runs");
    let start = Instant::now();
    send(engine, Signal::KILL);
    until(seconds(10), "the attempt is known as crashed", || async {
        let attempts = stack.ledger.attempts(&text(&generation["id"])).await;
        (attempts[0].outcome.as_deref() == Some("crashed")).then_some(())
    })
    .await;
    assert!(start.elapsed() < seconds(3), "reported after {:?}", start.elapsed());
    let end = stack.client.succeeded(&generation, seconds(60)).await;
    assert_eq!(end["attempts"], 2, "{end:#}");
    assert_ne!(worker.engine(), Some(engine), "a new engine took its place");
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// A job that kills every engine fails after its retry budget, and the next job is served.
#[tokio::test]
async fn a_poisonous_job_fails_after_its_crash_budget() {
    let stack = Stack::start(Pace::Promised).await;
    let mut worker = stack.worker("worker", "abort_at_step=1");
    let generation = stack.client.generate(&request(1)).await;
    let end = stack.client.settled(&generation, seconds(90)).await;
    assert_eq!(end["status"], "failed", "{end:#}");
    assert_eq!(end["error"]["class"], "crash", "{end:#}");
    assert!(end["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{end:#}");
    let attempts = stack.ledger.attempts(&text(&generation["id"])).await;
    assert_eq!(attempts.len(), 3, "max_crashes is 3: {attempts:#?}");
    assert!(attempts.iter().all(|attempt| attempt.outcome.as_deref() == Some("crashed")), "{attempts:#?}");
    assert!(attempts[1].started_at - attempts[0].ended_at.unwrap() >= 0.5, "backoff between attempts");
    assert!(worker.is_alive(), "the worker outlives its engines");

    worker.end(Signal::TERM, seconds(20));
    let _healthy = stack.worker("healthy", "");
    let next = stack.client.generate(&request(2)).await;
    stack.client.succeeded(&next, seconds(60)).await;
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// While an engine hangs, its worker still sends heartbeats; only the missing progress shows it.
#[tokio::test]
async fn a_hanging_engine_is_replaced() {
    let stack = Stack::start(Pace::Promised).await;
    let once = stack.folder().join("hung-once");
    let fault = format!("hang_at_step=2,once_file={}", once.display());
    let worker = stack.worker_with("worker", &fault, &[("PYROGRAPH_GENERATION_SILENCE_MS", "4000")]);
    let generation = stack.client.generate(&request(1)).await;
    let end = stack.client.succeeded(&generation, seconds(90)).await;
    let attempts = stack.ledger.attempts(&text(&generation["id"])).await;
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    let hung = Duration::from_secs_f64(attempts[0].ended_at.unwrap() - attempts[0].started_at);
    assert!(hung >= seconds(4), "not before its limit: {hung:?}");
    assert_eq!(stack.client.artifacts(&end).await.len(), 2);
    assert!(worker.engine().is_some());
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}
