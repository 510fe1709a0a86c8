//! A proxy before the S3 server, which can fail: while it is down, every request is answered with 503.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Front {
    address: SocketAddr,
    down: watch::Sender<bool>,
}

impl Front {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (down, is_down) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(client, server, is_down.clone()));
            }
        });
        Self { address, down }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Fails from now on, also in the middle of a response, or works again.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.send_replace(down);
    }
}

async fn serve(mut client: TcpStream, server: SocketAddr, mut is_down: watch::Receiver<bool>) {
    if !*is_down.borrow_and_update() {
        let mut server = TcpStream::connect(server).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = is_down.wait_for(|down| *down) => {}
        }
        return;
    }
    let _ = client.read(&mut [0; 16 * 1024]).await;
    let answer = b"HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let _ = client.write_all(answer).await;
}
