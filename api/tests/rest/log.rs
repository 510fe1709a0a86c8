//! What the log has about a request.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::test_server::TestServer;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_is_in_the_log() {
    let log = Log::default();
    let writer = log.clone();
    // For the whole process: the server writes from other threads, too. Its lines have the id of the request.
    tracing_subscriber::fmt().with_ansi(false).with_env_filter("api=info").with_writer(move || writer.clone()).init();
    let server = TestServer::with_checkpoint().await;
    let request = server.request(Method::POST, "/v1/generations").json(&json!({"prompt": "a fox"}));
    let request = request.header("prefer", "wait=60").header("x-request-id", "it-leaves");
    request.timeout(Duration::from_secs(2)).send().await.expect_err("nobody works on it");

    let lines = async {
        loop {
            let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
            let lines: Vec<String> =
                text.lines().filter(|line| line.contains("it-leaves")).map(str::to_owned).collect();
            if lines.len() >= 2 {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let lines = tokio::time::timeout(Duration::from_secs(20), lines).await.expect("two lines");
    let id = server.get("/v1/generations").await.expect(200)["items"][0]["id"].as_str().unwrap().to_owned();
    assert!(lines[0].contains("accepted") && lines[0].contains(&id), "{lines:#?}");
    assert!(lines[1].contains("without a response") && lines[1].contains("/v1/generations"), "{lines:#?}");
    assert_eq!(lines.len(), 2, "{lines:#?}");
}
