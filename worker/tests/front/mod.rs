//! A proxy before the S3 server, which can fail or be slow: while it is down, every request is answered with 503.

use std::net::SocketAddr;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

pub(crate) struct Front {
    address: SocketAddr,
    down: watch::Sender<bool>,
    pause: Pause,
}

/// The time that each KiB of responses takes, one after another, however many connections there are.
type Pause = Arc<Mutex<Duration>>;

impl Front {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (down, is_down) = watch::channel(false);
        let pause = Pause::default();
        let slow = Arc::clone(&pause);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(client, server, is_down.clone(), Arc::clone(&slow)));
            }
        });
        Self { address, down, pause }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Fails from now on, also in the middle of a response, or works again.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.send_replace(down);
    }

    /// Makes each KiB of responses take this long.
    pub(crate) async fn set_pause(&self, pause: Duration) {
        *self.pause.lock().await = pause;
    }
}

async fn serve(mut client: TcpStream, server: SocketAddr, mut is_down: watch::Receiver<bool>, pause: Pause) {
    if !*is_down.borrow_and_update() {
        let mut server = TcpStream::connect(server).await.unwrap();
        let ((asking, answering), (answers, requests)) = (client.split(), server.split());
        tokio::select! {
            () = copy(asking, requests, None) => {}
            () = copy(answers, answering, Some(&pause)) => {}
            _ = is_down.wait_for(|down| *down) => {}
        }
        return;
    }
    let _ = client.read(&mut [0; 16 * 1024]).await;
    let answer = b"HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let _ = client.write_all(answer).await;
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, pause: Option<&Pause>) {
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if let Some(pause) = pause {
            let pause = pause.lock().await;
            if !pause.is_zero() {
                tokio::time::sleep(*pause).await;
            }
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
