//! Clients of admitted URLs that are kept for a while, so that requests to one host share connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::{Origin, Url};

use super::{Guard, GuardError};

/// How long the addresses of a host count as checked.
const KEPT: Duration = Duration::from_mins(1);
/// Most origins whose clients are kept.
const MOST: usize = 256;

/// A guard with its clients. Cloning is cheap, and clones share the clients.
#[derive(Clone, Debug)]
pub struct GuardedClients {
    guard: Guard,
    kept: Arc<Mutex<HashMap<Origin, Kept>>>,
}

#[derive(Debug)]
struct Kept {
    client: reqwest::Client,
    since: Instant,
}

impl GuardedClients {
    pub fn new(guard: Guard) -> Self {
        Self { guard, kept: Arc::default() }
    }

    /// A client for this URL, as [`Guard::admit`] returns it: pinned to addresses that were checked within the last
    /// minute. It follows no redirects.
    ///
    /// # Errors
    /// As [`Guard::admit`].
    pub async fn client(&self, url: &Url) -> Result<reqwest::Client, GuardError> {
        self.guard.vet(url)?;
        let origin = url.origin();
        if let Some(client) = self.known(&origin) {
            return Ok(client);
        }
        let client = self.guard.admit(url).await?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.since.elapsed() < KEPT);
        if kept.len() >= MOST
            && let Some(oldest) = kept.iter().min_by_key(|(_, kept)| kept.since).map(|(origin, _)| origin.clone())
        {
            kept.remove(&oldest);
        }
        kept.insert(origin, Kept { client: client.clone(), since: Instant::now() });
        Ok(client)
    }

    fn known(&self, origin: &Origin) -> Option<reqwest::Client> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(origin).filter(|kept| kept.since.elapsed() < KEPT).map(|kept| kept.client.clone())
    }
}

impl From<Guard> for GuardedClients {
    fn from(guard: Guard) -> Self {
        Self::new(guard)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Answers any number of requests of each connection, and counts the connections.
    async fn server() -> (Url, Arc<AtomicUsize>) {
        async fn serve(mut stream: TcpStream) {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a", listener.local_addr().unwrap()).parse().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream));
            }
        });
        (url, count)
    }

    fn local() -> GuardedClients {
        Guard::new(vec!["127.0.0.0/8".parse().unwrap()]).into()
    }

    #[tokio::test]
    async fn requests_to_one_host_share_a_connection_for_a_minute() {
        let (url, connections) = server().await;
        let clients = local();
        let ask = async || clients.client(&url).await.unwrap().get(url.clone()).send().await.unwrap().bytes().await;
        for _ in 0..5 {
            ask().await.unwrap();
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        for kept in clients.kept.lock().unwrap().values_mut() {
            kept.since -= KEPT;
        }
        ask().await.unwrap();
        assert_eq!(connections.load(Ordering::SeqCst), 2, "its addresses are checked again");
    }

    #[tokio::test]
    async fn what_is_forbidden_stays_so() {
        let open = GuardedClients::new(Guard::default());
        for _ in 0..2 {
            let refused = open.client(&"https://127.0.0.1/".parse().unwrap()).await;
            assert!(matches!(refused, Err(GuardError::Forbidden(_))), "{refused:?}");
        }
        let (url, _) = server().await;
        let clients = local();
        clients.client(&url).await.unwrap();
        // A user name does not change the origin.
        let mut with_user = url.clone();
        with_user.set_username("me").unwrap();
        let refused = clients.client(&with_user).await;
        assert!(matches!(refused, Err(GuardError::Forbidden(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn only_so_many_clients_are_kept() {
        let clients = local();
        for port in 0..MOST as u16 + 10 {
            clients.client(&format!("http://127.0.0.1:{}/", 10_000 + port).parse().unwrap()).await.unwrap();
        }
        assert_eq!(clients.kept.lock().unwrap().len(), MOST);
    }
}
