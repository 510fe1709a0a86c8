//! Models that take long to load: progress, a cancel in the middle, files that are damaged while they are read, and two
//! workers with one cache.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Instant;

use journeys::client::text;
use journeys::model::tiny_files;
use journeys::sse::Events;
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

/// The tiny model has some 250 pieces of weights, which take 8 s at this delay.
const SLOW: &str = "read_delay_ms=30";

fn request() -> Value {
    json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 2, "width": 32, "height": 32, "seed": 3})
}

/// Waits until the job's model is being loaded.
async fn loading(stack: &Stack, job: &Value) -> Value {
    until(seconds(60), "the model is being loaded", || async {
        let job = stack.client.get(&format!("/v1/jobs/{}", text(&job["id"]))).await.expect(200);
        (job["progress"]["stage"] == "loading").then_some(job)
    })
    .await
}

#[tokio::test]
async fn a_generation_whose_model_is_being_loaded_says_so_and_stops_at_once() {
    let stack = Stack::start(Pace::Promised).await;
    let worker = stack.worker("worker", SLOW);
    let generation = stack.client.generate(&request()).await;
    let began = Instant::now();
    let progress = loading(&stack, &generation).await["progress"].clone();
    let number = |name: &str| progress[name].as_u64().unwrap_or_else(|| panic!("{name}: {progress}"));
    assert_eq!((progress["model"].as_str(), number("step"), number("total_steps")), (Some("tiny"), 0, 2));
    assert!(0 < number("bytes") && number("bytes") < number("total_bytes"), "{progress}");
    // From the mean rate since loading began: a second ago at least, and after the generation was created.
    let left = (number("total_bytes") - number("bytes")) as f64 / number("bytes") as f64;
    let possible = left.floor()..=(left * began.elapsed().as_secs_f64()).ceil();
    assert!(possible.contains(&(number("seconds_left") as f64)), "{progress} is not within {possible:?}");
    let engine = worker.engine().expect("an engine runs");

    let asked = Instant::now();
    stack.client.post(&text(&generation["urls"]["cancel"]), &json!({})).await;
    let end = stack.client.settled(&generation, seconds(20)).await;
    assert_eq!(end["status"], "canceled", "{end:#}");
    assert!(asked.elapsed() < seconds(2), "the cancel took {:?}", asked.elapsed());
    assert_eq!(end["progress"]["stage"], Value::Null, "it has ended: {end:#}");

    // The next one loads the model on the same engine, and shows it on the command line.
    let output =
        stack.cli(&["generate", "an owl", "--model", "tiny", "--width", "32", "--height", "32", "--steps", "2"]);
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("loading tiny ") && shown.contains(" %, "), "{shown}");
    assert_eq!(worker.engine(), Some(engine), "a cancel costs no engine");

    let all = stack.client.get("/v1/generations").await.expect(200);
    let made = &all["items"].as_array().unwrap()[0];
    let events = Events::open(&stack.client, &text(&made["urls"]["events"]), None).await.rest(seconds(10)).await;
    let reports: Vec<_> = events.iter().filter(|event| event.kind == "progress").map(|event| &event.data).collect();
    let first_step = reports.iter().position(|data| data["stage"].is_null()).expect("steps");
    assert!(first_step >= 2, "{reports:?}");
    // Reports that follow each other quickly are one, so that the first one after the stage may be of any step.
    assert!(reports[first_step..].iter().all(|data| data["stage"].is_null()), "{reports:?}");
    stack.ledger.audit().await;
}

#[tokio::test]
async fn a_training_stops_while_its_model_is_loaded() {
    let stack = Stack::start(Pace::Promised).await;
    let _worker = stack.worker("worker", SLOW);
    let dataset = stack.client.dataset("discs", &journeys::picture::discs(2)).await;
    let training =
        json!({"name": "never", "dataset": dataset, "model": "tiny", "steps": 5, "rank": 2, "resolution": 32});
    let training = stack.client.train(&training).await;
    loading(&stack, &training).await;
    let asked = Instant::now();
    stack.client.post(&text(&training["urls"]["cancel"]), &json!({})).await;
    assert_eq!(stack.client.settled(&training, seconds(20)).await["status"], "canceled");
    assert!(asked.elapsed() < seconds(2), "the cancel took {:?}", asked.elapsed());
    stack.ledger.audit().await;
}

/// The file with this many bytes below a folder.
fn file_of(folder: PathBuf, bytes: u64) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.find_map(|entry| match entry.metadata().unwrap() {
        about if about.is_dir() => file_of(entry.path(), bytes),
        about => (about.len() == bytes).then(|| entry.path()),
    })
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_fetched_again() {
    let stack = Stack::start(Pace::Promised).await;
    let worker = stack.worker("worker", SLOW);
    let generation = stack.client.generate(&request()).await;
    loading(&stack, &generation).await;
    // It is read last.
    let files = tiny_files();
    let (_, bytes) =
        files.iter().rfind(|(path, _)| path.starts_with("transformer/") && path.ends_with(".safetensors")).unwrap();
    let file = file_of(stack.folder().join("worker"), bytes.len() as u64).expect("it is in the cache");
    let engine = worker.engine();
    OpenOptions::new().write(true).open(&file).unwrap().set_len(4096).unwrap();
    let done = stack.client.succeeded(&generation, seconds(90)).await;
    assert_eq!(done["attempts"], 2, "{done:#}");
    let events = Events::open(&stack.client, &text(&done["urls"]["events"]), None).await.rest(seconds(10)).await;
    let retrying = events.iter().find(|event| event.kind == "retrying").expect("it is reported");
    let message = text(&retrying.data["message"]);
    assert!(message.contains("the file was shortened while it was read") && !message.contains("/cache/"), "{message}");
    assert_eq!(worker.engine(), engine, "it costs no engine");
    stack.ledger.audit().await;
}

#[tokio::test]
async fn two_workers_with_one_cache_load_the_same_model_at_once() {
    let stack = Stack::start(Pace::Promised).await;
    let data = stack.folder().join("shared");
    let data = [("PYROGRAPH_WORKER_DIR", data.to_str().unwrap())];
    let _workers = ["one", "other"].map(|name| stack.worker_with(name, SLOW, &data));
    until(seconds(60), "both workers live", || async {
        let workers = stack.client.get("/v1/workers").await.expect(200)["items"].as_array().unwrap().len();
        (workers == 2).then_some(())
    })
    .await;
    let first = stack.client.generate(&request()).await;
    let second = stack.client.generate(&request()).await;
    loading(&stack, &first).await;
    loading(&stack, &second).await;
    let (first, second) =
        (stack.client.succeeded(&first, seconds(90)).await, stack.client.succeeded(&second, seconds(90)).await);
    let [one, other] = [&first, &second].map(|job| text(&job["artifacts"][0]["sha256"]));
    assert_eq!((one, &first["attempts"], &second["attempts"]), (other, &json!(1), &json!(1)));
    stack.ledger.audit().await;
}
