//! A proxy in front of the bucket that can hold what a client sends, for as long as a test wants: the request has left
//! the client, and arrives later.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::ground::runtime;

/// A running proxy.
pub struct Gate {
    /// `http://host:port` of the bucket through the proxy.
    pub url: String,
    closed: watch::Sender<bool>,
    holds_a_put: Arc<AtomicBool>,
}

impl Gate {
    /// Listens in front of a server, `http://host:port`. Holds nothing yet.
    pub async fn before(endpoint: &str) -> Self {
        let server: SocketAddr = endpoint.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let listener = listener.into_std().expect("a listener");
        let (closed, state) = watch::channel(false);
        let holds_a_put = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&holds_a_put);
        runtime().spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, state.clone(), Arc::clone(&noted)));
            }
        });
        Self { url, closed, holds_a_put }
    }

    /// Holds what clients send from now on.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Whether a `PUT` has been held since the gate was closed.
    pub fn holds_a_put(&self) -> bool {
        self.holds_a_put.load(Ordering::Relaxed)
    }

    /// Lets everything through, also the requests that were held.
    pub fn open(&self) {
        self.closed.send_replace(false);
    }
}

async fn pass(
    client: TcpStream,
    server: SocketAddr,
    mut closed: watch::Receiver<bool>,
    holds_a_put: Arc<AtomicBool>,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut bytes = Vec::new();
    while from_client.read_buf(&mut bytes).await? > 0 {
        while *closed.borrow_and_update() {
            if bytes.starts_with(b"PUT ") {
                holds_a_put.store(true, Ordering::Relaxed);
            }
            tokio::select! {
                changed = closed.changed() => if changed.is_err() { return Ok(()) },
                // The rest of the request, so that all of it has left the client.
                read = from_client.read_buf(&mut bytes) => if read? == 0 { break },
            }
        }
        to_server.write_all(&bytes).await?;
        bytes.clear();
    }
    to_server.shutdown().await
}
