//! A company's proxy: it opens tunnels (CONNECT) to the servers that a test names, and to nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::ground::runtime;

/// A running proxy.
pub struct ConnectProxy {
    pub port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    /// `servers` maps `host:port`, as clients ask for it, to a port of this machine.
    pub async fn start(servers: &[(&str, u16)]) -> Self {
        let servers: BTreeMap<String, u16> = servers.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = seen.clone();
        let listener = runtime().spawn(TcpListener::bind("127.0.0.1:0")).await.expect("no panic").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        runtime().spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(tunnel(socket, servers.clone(), noted.clone()));
            }
        });
        Self { port, seen }
    }

    /// The heads of all requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn tunnel(mut client: TcpStream, servers: BTreeMap<String, u16>, seen: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
    seen.lock().unwrap().push(head);
    let Some(port) = servers.get(&target) else {
        client.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await.ok()?;
        return None;
    };
    let mut server = TcpStream::connect(("127.0.0.1", *port)).await.ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}
