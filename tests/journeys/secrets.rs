//! Secrets must never be visible: no keys, passwords or signatures in logs or answers, not even at the highest log
//! level.

use journeys::client::text;
use journeys::picture::discs;
use journeys::process::arguments;
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use serde_json::json;

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
