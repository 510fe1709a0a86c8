//! Server-sent events (WHATWG HTML §9.2), read one by one.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::client::Client;
use crate::wait::seconds;

/// One event of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Option<i64>,
    pub kind: String,
    pub data: Value,
}

/// An open event stream.
pub struct Events {
    bytes: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    pending: String,
}

impl Events {
    /// Opens `path`; `after` is sent as `Last-Event-ID`.
    pub async fn open(client: &Client, path: &str, after: Option<i64>) -> Self {
        // A separate client: a stream has no overall time limit, and must not share its connection.
        let http = reqwest::Client::builder().no_proxy().connect_timeout(seconds(3)).build().expect("HTTP client");
        let mut request = http.get(format!("{}{path}", client.base())).header("accept", "text/event-stream");
        if let Some(id) = after {
            request = request.header("last-event-id", id.to_string());
        }
        let response = request.send().await.expect("the server answers");
        assert_eq!(response.status(), 200);
        let media_type = response.headers()["content-type"].to_str().expect("ASCII").to_owned();
        assert!(media_type.starts_with("text/event-stream"), "{media_type}");
        Self {
            bytes: response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec())).boxed(),
            pending: String::new(),
        }
    }

    /// The next event; `None` when the server ended the stream or the connection broke.
    pub async fn next(&mut self, limit: Duration) -> Option<Event> {
        tokio::time::timeout(limit, self.read()).await.unwrap_or_else(|_| panic!("no event within {limit:?}"))
    }

    /// All events until the server ends the stream.
    pub async fn rest(&mut self, limit: Duration) -> Vec<Event> {
        tokio::time::timeout(limit, async {
            let mut all = Vec::new();
            while let Some(event) = self.read().await {
                all.push(event);
            }
            all
        })
        .await
        .unwrap_or_else(|_| panic!("the stream did not end within {limit:?}"))
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.pending.find("\n\n") {
                let block: String = self.pending.drain(..end + 2).collect();
                match parse(&block) {
                    Some(event) => return Some(event),
                    // Comments keep the connection alive and carry nothing.
                    None => continue,
                }
            }
            let chunk = match self.bytes.next().await? {
                Ok(chunk) => chunk,
                Err(error) => {
                    eprintln!("the stream broke: {error:?}");
                    return None;
                }
            };
            self.pending.push_str(&String::from_utf8(chunk).expect("SSE is UTF-8").replace('\r', ""));
        }
    }
}

fn parse(block: &str) -> Option<Event> {
    let (mut id, mut kind, mut data) = (None, "message".to_owned(), String::new());
    for line in block.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => id = Some(value.parse().expect("ids are sequence numbers")),
            "event" => kind = value.to_owned(),
            "data" => data.push_str(value),
            _ => {}
        }
    }
    (!data.is_empty()).then(|| Event { id, kind, data: serde_json::from_str(&data).expect("data is JSON") })
}
