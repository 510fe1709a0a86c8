//! A proxy in front of Postgres that loses replies to commits: the server commits, and the client's connection breaks
//! before the reply. A commit is a `COMMIT`, or a statement outside a transaction that writes generations.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ground::runtime;

/// A running proxy.
pub struct LossyPostgres {
    /// URL of the database through the proxy.
    pub url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    percent: AtomicU32,
    commits: AtomicUsize,
    lost: AtomicUsize,
    /// Whether the server is out of reach: nothing that is sent to it arrives.
    away: AtomicBool,
}

impl LossyPostgres {
    /// Listens in front of the database. Loses nothing yet.
    pub async fn before(database_url: &str) -> Self {
        let options: PgConnectOptions = database_url.parse().expect("a URL");
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = options.host("127.0.0.1").port(port).to_url_lossy().to_string();
        let shared = Arc::new(Shared::default());
        let listener = listener.into_std().expect("a listener");
        runtime().spawn({
            let shared = shared.clone();
            async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                while let Ok((client, _)) = listener.accept().await {
                    let (shared, server) = (shared.clone(), server.clone());
                    tokio::spawn(async move {
                        if shared.away.load(Ordering::Relaxed) {
                            std::future::pending::<()>().await;
                        }
                        let server = TcpStream::connect((server.0.as_str(), server.1)).await?;
                        Connection { client, server, shared }.run().await
                    });
                }
            }
        });
        Self { url, shared }
    }

    /// Loses this part of the replies from now on.
    pub fn lose(&self, percent: u32) {
        self.shared.percent.store(percent, Ordering::Relaxed);
    }

    /// From now on the server is out of reach, and nobody says so.
    pub fn go_away(&self) {
        self.shared.away.store(true, Ordering::Relaxed);
    }

    /// Commits seen, and replies lost.
    pub fn count(&self) -> (usize, usize) {
        (self.shared.commits.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    shared: Arc<Shared>,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        self.client.set_nodelay(true)?;
        self.server.set_nodelay(true)?;
        let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
        let mut reader = Reader::default();
        loop {
            tokio::select! {
                read = self.client.read_buf(&mut from_client) => if read? == 0 { return Ok(()) },
                read = self.server.read_buf(&mut from_server) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    self.client.write_all(&from_server).await?;
                    from_server.clear();
                }
            }
            if self.shared.away.load(Ordering::Relaxed) {
                from_client.clear();
                continue;
            }
            while let Some(length) = reader.message(&from_client) {
                let message: Vec<u8> = from_client.drain(..length).collect();
                let commits = reader.commits(&message);
                self.server.write_all(&message).await?;
                if commits && self.shared.loses() {
                    return self.swallow().await;
                }
            }
        }
    }

    /// Waits for the server's reply and breaks the connection without it.
    async fn swallow(mut self) -> io::Result<()> {
        const READY: &[u8] = b"Z\0\0\0\x05";
        let mut reply = Vec::new();
        while !reply.windows(READY.len()).any(|bytes| bytes == READY) {
            if self.server.read_buf(&mut reply).await? == 0 {
                break;
            }
        }
        self.shared.lost.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Shared {
    fn loses(&self) -> bool {
        self.commits.fetch_add(1, Ordering::Relaxed);
        fastrand::u32(0..100) < self.percent.load(Ordering::Relaxed)
    }
}

/// Understands what a client sends.
#[derive(Default)]
struct Reader {
    started: bool,
    /// Prepared statements that commit by themselves.
    writers: HashSet<Vec<u8>>,
    /// Such a statement was bound since the last `Sync`.
    bound: bool,
}

impl Reader {
    /// Length of the first message, if it is complete.
    fn message(&self, bytes: &[u8]) -> Option<usize> {
        // The first messages have no type.
        let (at, kind) = if self.started { (1, 1) } else { (0, 0) };
        let length = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize + kind;
        (bytes.len() >= length).then_some(length)
    }

    fn commits(&mut self, message: &[u8]) -> bool {
        if !self.started {
            // Protocol 3; a request for TLS has another number.
            self.started = message[4..8] == [0, 3, 0, 0];
            return false;
        }
        let (kind, body) = (message[0], &message[5..]);
        let mut texts = body.split(|byte| *byte == 0);
        match kind {
            b'Q' => texts.next().is_some_and(|text| text.eq_ignore_ascii_case(b"commit")),
            b'P' => {
                let (name, text) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
                if String::from_utf8_lossy(text).contains("INSERT INTO generations") {
                    self.writers.insert(name.to_owned());
                }
                false
            }
            b'B' => {
                let _portal = texts.next();
                self.bound |= texts.next().is_some_and(|name| self.writers.contains(name));
                false
            }
            b'S' => std::mem::take(&mut self.bound),
            _ => false,
        }
    }
}
