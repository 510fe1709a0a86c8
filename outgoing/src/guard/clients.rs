//! Clients of admitted URLs that are kept for a while, so that requests to one host share connections.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::{Origin, Url};

use super::{Guard, GuardError, look_up};

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
        self.client_as_resolved(url, look_up).await
    }

    async fn client_as_resolved<F>(
        &self,
        url: &Url,
        look_up: impl FnOnce(String, u16) -> F,
    ) -> Result<reqwest::Client, GuardError>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        self.guard.vet(url)?;
        let origin = url.origin();
        if let Some(kept) = self.kept().get(&origin) {
            return Ok(kept.client.clone());
        }
        let client = self.guard.admit_as_resolved(url, look_up).await?;
        let mut kept = self.kept();
        if kept.len() >= MOST
            && let Some(oldest) = kept.iter().min_by_key(|(_, kept)| kept.since).map(|(origin, _)| origin.clone())
        {
            kept.remove(&oldest);
        }
        // Of requests that asked at the same time, all take the first client.
        let kept = kept.entry(origin).or_insert_with(|| Kept { client, since: Instant::now() });
        Ok(kept.client.clone())
    }

    /// The clients whose addresses still count as checked. The others are dropped, with their connections.
    fn kept(&self) -> MutexGuard<'_, HashMap<Origin, Kept>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.since.elapsed() < KEPT);
        kept
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

    /// A name that leads to an allowed address first, and to this machine later.
    #[tokio::test(start_paused = true)]
    async fn a_name_that_leads_elsewhere_after_a_minute_is_refused() {
        const LEADS: [&str; 3] = ["10.1.2.3:443", "127.0.0.1:443", "10.1.2.3:443"];
        let clients = GuardedClients::new(Guard::new(vec!["10.1.0.0/16".parse().unwrap()]));
        let url = Url::parse("https://rebinding.example/x").unwrap();
        let looked_up = AtomicUsize::new(0);
        let ask = async || {
            let resolver = async |_, _| Ok(vec![LEADS[looked_up.fetch_add(1, Ordering::SeqCst)].parse().unwrap()]);
            clients.client_as_resolved(&url, resolver).await
        };
        assert!(ask().await.is_ok());
        tokio::time::advance(KEPT.mul_f64(0.99)).await;
        assert!(ask().await.is_ok());
        assert_eq!(looked_up.load(Ordering::SeqCst), 1, "the addresses count as checked for a minute");
        tokio::time::advance(Duration::from_secs(1)).await;
        let refused = ask().await;
        assert!(matches!(refused, Err(GuardError::Forbidden(_))), "{refused:?}");
        assert_eq!(looked_up.load(Ordering::SeqCst), 2);
        assert!(clients.kept.lock().unwrap().is_empty(), "the old client is gone");
        assert!(ask().await.is_ok(), "an allowed address is taken again");
        assert_eq!(looked_up.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn requests_that_ask_at_once_share_a_client() {
        let clients = GuardedClients::new(Guard::new(vec!["10.1.0.0/16".parse().unwrap()]));
        let url = Url::parse("https://slow.example/x").unwrap();
        let gate = tokio::sync::Barrier::new(2);
        let ask = async || {
            let resolver = async |_, _| {
                gate.wait().await;
                Ok(vec!["10.1.2.3:443".parse().unwrap()])
            };
            clients.client_as_resolved(&url, resolver).await.unwrap();
            clients.kept.lock().unwrap()[&url.origin()].since
        };
        let (first, second) = tokio::join!(ask(), ask());
        assert_eq!(first, second);
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
