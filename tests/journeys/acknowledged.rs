//! An answer of 202 is a promise that survives `kill -9` of the API a moment later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use journeys::client::{Client, text};
use journeys::picture::discs;
use journeys::stack::{Pace, Stack};
use journeys::wait::{milliseconds, seconds};
use reqwest::Method;
use serde_json::json;

const ROUNDS: usize = 4;

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let mut stack = Stack::start(Pace::Promised).await;
    let mut acknowledged = Vec::new();
    for _ in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..4).map(|_| tokio::spawn(post_until(stack.client.clone(), stop.clone()))).collect();
        tokio::time::sleep(milliseconds(fastrand::u64(200..700))).await;
        stack.api().kill();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            acknowledged.extend(client.await.unwrap());
        }
        stack.restart_api().await;
        stack.ledger.audit().await;
    }
    assert!(acknowledged.len() > ROUNDS, "only {} were acknowledged", acknowledged.len());
    for path in &acknowledged {
        assert_eq!(stack.client.get(path).await.expect(200)["status"], "queued", "{path}");
    }
    // A request whose answer was lost may have been accepted or not, but never in part (the audit has checked that).
    let rows = stack.ledger.count("generations").await;
    assert!(rows >= acknowledged.len() as i64, "{rows} rows for {} promises", acknowledged.len());
    stack.audit_bucket().await;
}

async fn post_until(client: Client, stop: Arc<AtomicBool>) -> Vec<String> {
    let body = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
    let mut paths = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let request = client.request(Method::POST, "/v1/generations").timeout(seconds(10)).json(&body);
        match client.try_send(request).await {
            Ok(answer) if answer.status == 202 => paths.push(text(&answer.body["urls"]["self"])),
            Ok(answer) => panic!("{answer:?}"),
            Err(_) => tokio::time::sleep(milliseconds(20)).await,
        }
    }
    paths
}

#[tokio::test]
async fn bytes_that_were_acknowledged_are_there_after_a_kill() {
    let mut stack = Stack::start(Pace::Promised).await;
    let photos = discs(3);
    let dataset = stack.client.dataset("discs", &photos).await;
    stack.restart_api().await;
    let seen = stack.client.get(&format!("/v1/datasets/{dataset}")).await.expect(200);
    for (example, photo) in seen["examples"].as_array().unwrap().iter().zip(&photos) {
        assert_eq!(stack.client.download(&text(&example["url"])).await, photo.bytes);
    }
}
