//! Clients that are slow, silent or many: others are served meanwhile.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};

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
async fn ends(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
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
async fn a_head_by_the_byte_ends_its_connection() {
    let server = TestServer::new().await;
    let drip = async |begin: &str| {
        let mut stream = send(&server, begin).await;
        if !begin.is_empty() {
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let since = Instant::now();
        let (reader, mut writer) = stream.into_split();
        let dripping = tokio::spawn(async move {
            let _ = writer.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ").await;
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        ends(reader).await;
        dripping.abort();
        assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    };
    // The first request of a connection, and a later one.
    let healthz = head("GET", "/healthz", "");
    tokio::join!(drip(""), drip(&healthz));
}

#[tokio::test]
async fn a_body_by_the_byte_comes_to_an_end() {
    let server = TestServer::new().await;
    let form =
        head("POST", "/v1/inputs", "content-type: multipart/form-data; boundary=x\r\ncontent-length: 100000\r\n")
            + "--x\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n";
    let json = head("POST", "/v1/datasets", "content-type: application/json\r\ncontent-length: 100000\r\n");
    let drip = async |begin: &str, bytes: usize, every: u64| {
        let since = Instant::now();
        let (mut reader, mut writer) = send(&server, begin).await.into_split();
        let dripping = tokio::spawn(async move {
            while writer.write_all(&vec![b' '; bytes]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(every)).await;
            }
        });
        let mut answer = [0; 12];
        timeout(Duration::from_mins(2), reader.read_exact(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 408");
        ends(reader).await;
        dripping.abort();
        assert!(since.elapsed() < Duration::from_secs(45), "{:?}", since.elapsed());
    };
    // A byte now and then, and 0.8 KiB a second.
    tokio::join!(drip(&form, 1, 4000), drip(&form, 400, 500), drip(&json, 1, 4000));
    assert_eq!(server.request(Method::GET, "/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_behind_a_named_proxy_has_256_open_requests() {
    raise_limit();
    let first = TestServer::new().await;
    let server = first.with(|state| state.with_proxies("127.0.0.1".parse().unwrap())).await;
    let rest =
        "content-type: application/json\r\ncontent-length: 1000\r\nx-forwarded-for: 198.51.100.1, 203.0.113.7\r\n";
    let request = head("POST", "/v1/datasets", rest) + "{";
    let mut slow = Vec::new();
    for _ in 0..300 {
        slow.push(send(&server, &request).await);
    }
    let mut refused = slow.split_off(256);
    for stream in &mut refused {
        let mut answer = [0; 12];
        timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503");
    }
    assert_eq!(unanswered(&mut slow).await, 256);
    let other = |client: &str| server.request(Method::GET, "/v1/models").header("x-forwarded-for", client.to_owned());
    server.send(other("203.0.113.8")).await.expect(200);
    let full = server.send(other("203.0.113.7")).await;
    assert_eq!(full.header("retry-after"), "1");
    full.refuses(503, "");
    serves_others(&server).await;
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "says why it proves nothing")]
async fn another_machine_has_256_connections() {
    raise_limit();
    // The address of this machine by which others reach it; nothing is sent.
    let own = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = own.connect("192.0.2.1:9").and_then(|()| own.local_addr()).map(|address| address.ip());
    let Some(address) = address.ok().filter(|address| !address.is_loopback()) else {
        return eprintln!("this machine has no address but loopback");
    };
    let first = TestServer::new().await;
    let names = api::Names { bind: [0, 0, 0, 0].into(), ..api::Names::default() };
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let server = first.on(listener, |state| state.with_names(names)).await;
    let there = (address, server.address.port());
    let mut open = Vec::new();
    for _ in 0..256 {
        open.push(TcpStream::connect(there).await.unwrap());
    }
    let mut further = TcpStream::connect(there).await.unwrap();
    let _ = further.write_all(head("GET", "/healthz", "").as_bytes()).await;
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(5), further.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(read.is_err() || answer.is_empty(), "it is answered");
    let here = TcpStream::connect(("127.0.0.1", server.address.port())).await.unwrap();
    let mut streams = [here, open.swap_remove(0)];
    for stream in &mut streams {
        stream.write_all(head("GET", "/healthz", "").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}

#[tokio::test]
async fn more_requests_than_the_server_can_work_on_are_refused_at_once() {
    raise_limit();
    let server = TestServer::new().await;
    // Every request waits for the table.
    let mut lock = server.pools.lease.begin().await.unwrap();
    sqlx::query("LOCK TABLE datasets IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut working = Vec::new();
    for _ in 0..MANY {
        working.push(send(&server, &head("GET", "/v1/datasets", "")).await);
    }
    let since = Instant::now();
    let answer = server.get("/v1/datasets").await;
    assert_eq!(answer.header("retry-after"), "1");
    answer.refuses(503, "");
    server.get("/healthz").await.expect(200);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    lock.rollback().await.unwrap();
    drop(working);
    timeout(Duration::from_secs(20), async {
        while server.get("/v1/datasets").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it serves again");
}

/// A proxy that does not buffer (nginx with `proxy_request_buffering off`) sends the whole body before it reads.
#[tokio::test]
async fn a_client_that_reads_only_after_its_body_gets_the_refusal() {
    let server = TestServer::new().await;
    let begin = b"--x\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n";
    let piece = vec![b'a'; 1 << 20];
    for mebibytes in [40, 100] {
        let length = begin.len() + (mebibytes << 20);
        let form = format!("content-type: multipart/form-data; boundary=x\r\ncontent-length: {length}\r\n");
        let mut stream = send(&server, &head("POST", "/v1/inputs", &form)).await;
        stream.write_all(begin).await.unwrap();
        for _ in 0..mebibytes {
            stream.write_all(&piece).await.expect("the server takes it");
        }
        let mut answer = vec![0; 4096];
        let count = timeout(Duration::from_secs(10), stream.read(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("26214400"), "{answer}");
    }
    server.get("/healthz").await.expect(200);
}
