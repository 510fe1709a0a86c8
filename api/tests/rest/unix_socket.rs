//! A server at a Unix socket: its peers are on this machine.

use api::{Access, UnixSocket};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::test_server::TestServer;

#[tokio::test]
async fn a_peer_of_a_unix_socket_counts_as_one_of_this_machine() {
    let first = TestServer::with_checkpoint().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let socket = UnixSocket::bind(&path, 0o600).unwrap();
    let access = Access::keys(first.pools.api.clone());
    let state = first.state().await.with_access(access).with_proxies("127.0.0.1".parse().unwrap());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(api::serve(socket, state, stop.clone()));
    let send = async |headers: &str| {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let request = format!("GET /v1/audit HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    // Without a key this machine is served, and a proxy on it is not.
    assert!(send("").await.starts_with("HTTP/1.1 200"));
    assert!(send("x-forwarded-for: 203.0.113.7\r\n").await.starts_with("HTTP/1.1 403"));
    let made = first.with(|state| state.with_access(Access::keys(first.pools.api.clone()))).await;
    let key = made.post("/v1/keys", &json!({"name": "first"})).await.expect(201)["key"].as_str().unwrap().to_owned();
    let authorization = format!("authorization: Bearer {key}\r\n");
    while !send("").await.starts_with("HTTP/1.1 401") {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let answer = send(&format!("{authorization}x-forwarded-proto: https\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security: "), "{answer}");

    stop.cancel();
    serving.await.unwrap().unwrap();
    assert!(!path.exists(), "its file goes when the server stops");
}
