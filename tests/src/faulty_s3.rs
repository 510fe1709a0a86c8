//! A proxy in front of S3 that refuses uploads, stalls, loses replies, or is away. It serves one request on each
//! connection and changes nothing that is signed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::ground::runtime;
use crate::wait::milliseconds;

const SLOW_DOWN: &str = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Slow down.</Message></Error>";

/// A running proxy.
pub struct FaultyS3 {
    /// The endpoint through the proxy.
    pub endpoint: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Parts of the uploads, in percent.
    refused: AtomicU32,
    stalled: AtomicU32,
    lost: AtomicU32,
    away: AtomicBool,
    uploads: AtomicUsize,
    faults: AtomicUsize,
}

/// What happens to an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passed,
    /// 503, and the server sees nothing.
    Refused,
    /// It arrives seconds later.
    Stalled,
    /// It is stored, and the connection breaks before the reply.
    Lost,
}

impl FaultyS3 {
    /// Listens in front of `endpoint`. Has no faults yet.
    pub async fn before(endpoint: &str) -> Self {
        let server: SocketAddr = endpoint.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared::default());
        let listener = listener.into_std().expect("a listener");
        runtime().spawn({
            let shared = shared.clone();
            async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                while let Ok((client, _)) = listener.accept().await {
                    // Dropped connections are what a server that is away looks like.
                    if !shared.away.load(Ordering::Relaxed) {
                        tokio::spawn(serve(client, server, shared.clone()));
                    }
                }
            }
        });
        Self { endpoint, shared }
    }

    /// From now on these parts of the uploads are refused with 503, stalled for seconds, and stored without a reply.
    pub fn fail(&self, refused: u32, stalled: u32, lost: u32) {
        self.shared.refused.store(refused, Ordering::Relaxed);
        self.shared.stalled.store(stalled, Ordering::Relaxed);
        self.shared.lost.store(lost, Ordering::Relaxed);
    }

    /// Whether every connection is closed at once.
    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::Relaxed);
    }

    /// Uploads seen, and faults.
    pub fn count(&self) -> (usize, usize) {
        (self.shared.uploads.load(Ordering::Relaxed), self.shared.faults.load(Ordering::Relaxed))
    }
}

impl Shared {
    fn fate(&self) -> Fate {
        self.uploads.fetch_add(1, Ordering::Relaxed);
        let drawn = fastrand::u32(0..100);
        let mut least = 0;
        for (part, fate) in [(&self.refused, Fate::Refused), (&self.stalled, Fate::Stalled), (&self.lost, Fate::Lost)] {
            least += part.load(Ordering::Relaxed);
            if drawn < least {
                self.faults.fetch_add(1, Ordering::Relaxed);
                return fate;
            }
        }
        Fate::Passed
    }
}

async fn serve(mut client: TcpStream, server: SocketAddr, shared: Arc<Shared>) -> io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        if let Some(at) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    while request.len() < head + length.unwrap_or(0) {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let fate = if text.starts_with("put ") { shared.fate() } else { Fate::Passed };
    match fate {
        Fate::Refused => {
            let answer = format!(
                "HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\nconnection: close\r\ncontent-length: {}\r\n\
                 \r\n{SLOW_DOWN}",
                SLOW_DOWN.len()
            );
            return client.write_all(answer.as_bytes()).await;
        }
        Fate::Stalled => sleep(milliseconds(fastrand::u64(2000..5000))).await,
        Fate::Passed | Fate::Lost => {}
    }
    let mut server = TcpStream::connect(server).await?;
    // Before the empty line; it is not signed.
    server.write_all(&request[..head - 2]).await?;
    server.write_all(b"connection: close\r\n\r\n").await?;
    server.write_all(&request[head..]).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    if fate == Fate::Lost || shared.away.load(Ordering::Relaxed) {
        return Ok(());
    }
    client.write_all(&answer).await
}
