//! Clients that are slow, silent or many: others are served meanwhile.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use crate::test_server::TestServer;

/// More than the requests that are served at the same time.
const MANY: usize = 1100;

/// Both ends of each connection are files of this process.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = Some(maximum.unwrap_or(65_536).min(65_536));
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

async fn send(server: &TestServer, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

fn head(method: &str, path: &str, rest: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{rest}\r\n")
}

/// Others are served: a probe, a reader, and one that makes something.
async fn serves_others(server: &TestServer) {
    server.get("/healthz").await.expect(200);
    server.get("/v1/models").await.expect(200);
    server.post("/v1/datasets", &json!({"name": "meanwhile"})).await.expect(201);
}

/// How many have got no answer so far.
async fn unanswered(streams: &mut [TcpStream]) -> usize {
    let mut count = 0;
    for stream in streams {
        let answered = timeout(Duration::from_micros(100), stream.readable()).await;
        count += usize::from(answered.is_err());
    }
    count
}

#[tokio::test]
async fn clients_that_wait_keep_nobody_out() {
    raise_limit();
    let server = TestServer::with_checkpoint().await;
    let body = json!({"prompt": "a fox"}).to_string();
    let length = body.len();
    let request = head(
        "POST",
        "/v1/generations",
        &format!("prefer: wait=60\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"),
    ) + &body;
    let mut waiting = Vec::new();
    for _ in 0..MANY {
        waiting.push(send(&server, &request).await);
    }
    while server.count("generations").await < MANY as i64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    serves_others(&server).await;
    assert!(unanswered(&mut waiting).await > 1000, "they still wait");
}

#[tokio::test]
async fn bodies_that_do_not_end_keep_nobody_out() {
    raise_limit();
    let server = TestServer::new().await;
    let form =
        head("POST", "/v1/inputs", "content-type: multipart/form-data; boundary=x\r\ncontent-length: 100000\r\n")
            + "--x\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\nx";
    let json = head("POST", "/v1/datasets", "content-type: application/json\r\ncontent-length: 1000\r\n") + "{";
    let mut slow = Vec::new();
    for request in [&form, &json].into_iter().cycle().take(MANY) {
        slow.push(send(&server, request).await);
    }
    serves_others(&server).await;
    assert!(unanswered(&mut slow).await > 1000, "they are still read");
}

/// Reads until the server closes the connection.
async fn ends(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_mins(1), stream.read_to_end(&mut rest)).await.expect("it is closed");
    // A reset is an end, too.
    let _ = closed;
    rest
}

#[tokio::test]
async fn connections_without_a_request_are_closed() {
    let server = TestServer::new().await;
    let beginnings = ["", "P", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /healthz HT", "\r\n"];
    let mut streams = Vec::new();
    for beginning in beginnings {
        streams.push(send(&server, beginning).await);
    }
    serves_others(&server).await;
    futures::future::join_all(streams.into_iter().map(ends)).await;
    serves_others(&server).await;
}

#[tokio::test]
async fn a_body_by_the_byte_comes_to_an_end() {
    let server = TestServer::new().await;
    let begin =
        head("POST", "/v1/inputs", "content-type: multipart/form-data; boundary=x\r\ncontent-length: 100000\r\n")
            + "--x\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n";
    let (mut reader, mut writer) = send(&server, &begin).await.into_split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    });
    let mut answer = [0; 12];
    timeout(Duration::from_mins(2), reader.read_exact(&mut answer)).await.expect("an answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    dripping.abort();
    assert_eq!(server.request(Method::GET, "/healthz").send().await.unwrap().status(), 200);
}
