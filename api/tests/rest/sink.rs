//! An endpoint of a caller, which answers as a script says and keeps what it received.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with this status and an empty body.
    Status(u16),
    /// Answers with exactly this.
    Raw(Vec<u8>),
    /// Answers 200 after this time.
    Slow(Duration),
    /// Never answers.
    Silent,
    /// Closes the connection after half of the body.
    Hangup,
}

#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub at: Instant,
    /// Method and path with the query.
    pub line: String,
    /// In lower case.
    pub head: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

pub(crate) struct Sink {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<Mutex<usize>>,
}

impl Sink {
    /// Plays `script`, an act for each request; the last one for all further ones.
    pub(crate) async fn start(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (received, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (keep, count) = (received.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                tokio::spawn(serve(stream, script.clone(), keep.clone()));
            }
        });
        Self { address, received, connections }
    }

    /// A URL of it with a query that is a secret.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}?X-Amz-Signature=s3cret-{path}", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

async fn serve(mut stream: TcpStream, script: Vec<Act>, received: Arc<Mutex<Vec<Received>>>) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if !read(&mut stream, &mut bytes).await {
                return;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length: usize = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:").map(|it| it.trim().parse().unwrap())
            })
            .unwrap_or(0);
        let count = received.lock().unwrap().len();
        let act = script[count.min(script.len() - 1)].clone();
        let wanted = if matches!(act, Act::Hangup) { length / 2 } else { length };
        while bytes.len() < end + wanted {
            if !read(&mut stream, &mut bytes).await {
                return;
            }
        }
        let body = bytes[end..(end + wanted).min(bytes.len())].to_vec();
        let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        let headers = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap()));
        let headers = headers.collect();
        let head = head.to_ascii_lowercase();
        received.lock().unwrap().push(Received { at: Instant::now(), line, head, headers, body });
        bytes.drain(..(end + wanted).min(bytes.len()));
        let answer = match act {
            Act::Status(status) => format!("HTTP/1.1 {status} It\r\ncontent-length: 0\r\n\r\n").into_bytes(),
            Act::Raw(answer) => answer,
            Act::Slow(pause) => {
                tokio::time::sleep(pause).await;
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()
            }
            Act::Silent => std::future::pending().await,
            Act::Hangup => return,
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    stream.read_buf(bytes).await.is_ok_and(|count| count > 0)
}
