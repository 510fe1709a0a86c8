//! Who sends pictures to URLs of callers: a server, or a worker that needs no device.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use journeys::client::{Client, text};
use journeys::process::Signal;
use journeys::stack::{Pace, Stack, free_port};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type Received = Arc<Mutex<Vec<(String, Bytes)>>>;

/// An endpoint that takes everything.
async fn sink() -> (String, Received) {
    async fn take(State(received): State<Received>, uri: Uri, body: Bytes) -> StatusCode {
        received.lock().unwrap().push((uri.to_string(), body));
        StatusCode::OK
    }
    let received = Received::default();
    let app = Router::new().fallback(take).with_state(received.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, received)
}

fn request(url: &str, seed: u64) -> Value {
    json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32, "seed": seed,
           "response_format": "upload", "upload_url": url})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_device_sends_what_a_server_does_not() {
    let (address, received) = sink().await;
    let mut stack = Stack::start_with(Pace::Promised, &[("PYROGRAPH_OUTBOUND_NETWORKS", "127.0.0.1")]).await;
    let _worker = stack.worker("worker", "");
    let first = stack.client.generate(&request(&format!("{address}/first?sig=s3cret"), 1)).await;
    let first = stack.client.succeeded(&first, seconds(60)).await;
    until(seconds(10), "the server has sent it", || async { (received.lock().unwrap().len() == 1).then_some(()) })
        .await;

    // The same without a sender.
    stack.api().end(Signal::TERM, seconds(60));
    let bind = format!("127.0.0.1:{}", free_port());
    let mut server = stack.part("quiet", &["serve", "--no-outbox", "--bind", &bind]);
    let client = Client::new(&format!("http://{bind}"));
    until(seconds(60), "the server is ready", || async { client.is_ready().await.then_some(()) }).await;
    let second = client.generate(&request(&format!("{address}/second?sig=s3cret"), 2)).await;
    let second = client.succeeded(&second, seconds(60)).await;
    tokio::time::sleep(seconds(3)).await;
    let path = text(&second["urls"]["self"]);
    assert_eq!(client.get(&path).await.expect(200)["artifacts"][0]["delivery"]["status"], "pending");
    assert_eq!(received.lock().unwrap().len(), 1);

    let mut sender = stack.part("sender", &["worker", "--queues", "outbox"]);
    let done = until(seconds(30), "the worker has sent it", || async {
        let delivery = client.get(&path).await.expect(200)["artifacts"][0]["delivery"].clone();
        (delivery["status"] != "pending").then_some(delivery)
    })
    .await;
    assert_eq!((&done["status"], &done["attempts"]), (&json!("succeeded"), &json!(1)), "{done}");
    assert_eq!(sender.engine(), None, "it needs no device");
    for ((path, body), done) in received.lock().unwrap().iter().zip([&first, &second]) {
        assert!(path.ends_with("?sig=s3cret"), "{path}");
        assert_eq!(hex::encode(Sha256::digest(body)), text(&done["artifacts"][0]["sha256"]));
    }
    assert!(sender.is_alive() && server.is_alive());
    assert!(sender.end(Signal::TERM, seconds(20)).success(), "it stops in order");
    for log in [sender.log(), server.log()] {
        assert!(!log.contains("s3cret"), "{log}");
    }
}
