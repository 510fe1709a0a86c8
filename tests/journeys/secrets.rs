//! Secrets must never be visible: no keys, passwords or signatures in logs or answers, not even at the highest log
//! level.

use journeys::client::{Client, text};
use journeys::model::tiny_files;
use journeys::picture::discs;
use journeys::process::{Process, Signal, arguments};
use journeys::stack::{Pace, Stack, free_port};
use journeys::wait::seconds;
use serde_json::{Value, json};

use crate::embedded_stack::{open_folder, ready, up_command};

#[tokio::test]
async fn no_secret_in_any_log_answer_or_command_line() {
    let stack = Stack::start_with(Pace::Promised, &[("PYROGRAPH_LOG", "debug")]).await;
    let client = &stack.client;
    let worker = stack.worker("worker", "");

    // A complete run: upload, training, pictures, refusals, and a job that fails in the worker.
    let dataset = client.dataset("discs", &discs(2)).await;
    client.add_presigned(&dataset, &discs(3)[2]).await;
    let training =
        json!({"name": "style", "dataset": dataset, "model": "tiny", "steps": 2, "rank": 2, "resolution": 32});
    client.succeeded(&client.train(&training).await, seconds(90)).await;
    let request = json!({"prompt": "the word zanzibar", "model": "tiny", "loras": [{"model": "style"}],
                         "num_inference_steps": 1, "width": 32, "height": 32});
    let generation = client.succeeded(&client.generate(&request).await, seconds(60)).await;
    client.artifacts(&generation).await;

    let mut answers = String::new();
    for path in ["/openapi.json", "/readyz", "/v1/models/tiny", "/v1/nothing", "/v1/generations/nonsense"] {
        answers += &format!("{:?}", client.get(path).await);
    }
    // An object that vanishes from the bucket: the error must not contain the URL's signature or a key.
    let keys: Vec<String> =
        sqlx::query_scalar("select storage_key from examples").fetch_all(stack.ledger.pool()).await.unwrap();
    let storage = domain::storage::Storage::new(&stack.site.storage()).unwrap();
    for key in &keys {
        storage.delete(key).await.unwrap();
    }
    let doomed = client
        .train(&json!({"name": "doomed", "dataset": dataset, "model": "tiny", "steps": 2, "rank": 2, "resolution": 32}))
        .await;
    tokio::time::sleep(seconds(4)).await;
    answers += &client.get(&text(&doomed["urls"]["self"])).await.body.to_string();
    client.post(&text(&doomed["urls"]["cancel"]), &json!({})).await;

    let logs = stack.logs();
    assert!(logs.len() > 2_000, "the logs are on: {} bytes", logs.len());
    let mut seen = vec![("a log", logs.clone()), ("an answer", answers)];
    for id in worker.children().into_iter().chain([worker.id()]) {
        seen.push(("a command line", arguments(id).join(" ")));
    }
    for (place, text) in &seen {
        for secret in stack.site.secrets() {
            assert!(!text.contains(&secret), "a secret is in {place}");
        }
    }
    for needle in ["X-Amz-Signature=", "Signature=", "zanzibar"] {
        let line = logs.lines().find(|line| line.contains(needle));
        assert!(line.is_none(), "{needle} is in a log: {}", line.unwrap_or_default());
    }
}

/// The S3 server of `up` is in the process, and its crates log whole requests.
#[tokio::test]
async fn no_signature_of_the_own_bucket_in_the_log() {
    let folder = open_folder();
    let port = free_port();
    let mut command = up_command(folder.path(), port);
    command.env("PYROGRAPH_LOG", "trace,s3s=trace,hyper=trace");
    let mut process = Process::start("up", &folder.path().join("up.log"), command);
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    ready(&mut process, &client).await;
    client.add_model("tiny", &tiny_files(), None).await.expect(201);
    let url = text(&client.get("/v1/models/tiny").await.expect(200)["files"][0]["url"]);
    client.download(&url).await;
    let (start, signature) = url.split_once("Signature=").unwrap();
    let forged = format!("{start}Signature={}{}", if signature.starts_with('0') { '1' } else { '0' }, &signature[1..]);
    assert_eq!(client.status(reqwest::Method::GET, &forged, Vec::new()).await, 403);
    let credentials = std::fs::read(folder.path().join("data/s3/credentials.json")).unwrap();
    let credentials: Value = serde_json::from_slice(&credentials).unwrap();
    let secret = text(&credentials["secret_key"]);
    assert!(process.end(Signal::TERM, seconds(60)).success());

    let log = process.log();
    assert!(log.contains("DEBUG"), "the log is on");
    for needle in ["Signature=", "AWS4-HMAC-SHA256", "string_to_sign", &secret] {
        let line = log.lines().find(|line| line.to_lowercase().contains(&needle.to_lowercase()));
        assert!(line.is_none(), "{needle} is in the log: {}", line.unwrap_or_default());
    }
}
