//! Webhooks by the command line, sent by a real server.

use journeys::client::text;
use journeys::stack::{Pace, Stack, run};
use journeys::wait::seconds;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[tokio::test]
async fn the_command_line_manages_webhooks() {
    let stack = Stack::start_with(Pace::Promised, &[("PYROGRAPH_OUTBOUND_NETWORKS", "127.0.0.1")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=s3cret", listener.local_addr().unwrap());
    let webhooks = |arguments: &[&str]| stack.operator_json(&[&["webhooks"], arguments, &["--json"]].concat());
    let hook = webhooks(&["create", &url, "--events", "canceled,started"]);
    assert_eq!((&hook["events"], &hook["enabled"]), (&json!(["canceled", "started"]), &json!(true)));
    let id = hook["id"].as_str().unwrap();
    let job = stack.client.generate(&json!({"prompt": "an owl", "model": "tiny"})).await;
    let cancel = stack.client.request(Method::POST, &text(&job["urls"]["cancel"]));
    stack.client.send(cancel).await.expect(200);
    let (mut stream, _) = tokio::time::timeout(seconds(30), listener.accept()).await.unwrap().unwrap();
    let mut request = vec![0; 8192];
    let length = stream.read(&mut request).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    assert!(request.starts_with("POST /hook?token=s3cret ") && request.contains("webhook-signature: v1,"), "{request}");

    let since = std::time::Instant::now();
    let sent = loop {
        let deliveries = webhooks(&["deliveries", "--webhook", id]);
        if deliveries[0]["status"] == "succeeded" {
            break deliveries[0].clone();
        }
        assert!(since.elapsed() < seconds(30), "{deliveries:#}");
    };
    assert_eq!((&sent["event"], &sent["job"]), (&json!("canceled"), &job["id"]));
    let again = webhooks(&["redeliver", sent["id"].as_str().unwrap()]);
    assert_eq!((&again["id"], &again["status"]), (&sent["id"], &json!("pending")));
    let secret = |arguments: &[&str]| webhooks(arguments)["secret"].as_str().unwrap().to_owned();
    let first = secret(&["secret"]);
    assert_eq!(secret(&["secret"]), first);
    assert_ne!(secret(&["rotate-secret", "--overlap", "1h"]), first);
    let changed = webhooks(&["update", id, "--disable", "--events", "failed"]);
    assert_eq!((&changed["enabled"], &changed["events"]), (&json!(false), &json!(["failed"])));
    assert_eq!(webhooks(&["list"])[0], changed);
    assert!(!webhooks(&["list"]).to_string().contains("s3cret"));
    webhooks(&["delete", id]);
    assert_eq!(webhooks(&["list"]), Value::Array(Vec::new()));
    for wrong in [&["create", "ftp://example.com/"][..], &["create", &url, "--events", "done"], &["delete", "x"]] {
        let refused = run(&stack.site, &[], &[&["webhooks"], wrong].concat());
        assert!(!refused.status.success(), "{wrong:?}");
    }
}
