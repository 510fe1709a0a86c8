//! How many requests are served at the same time. A request that works holds a place, of which there are few; one that
//! waits for its client (for the next piece of its body, or for the end of a job) holds none, so that slow clients do
//! not keep others out. How many requests may be open, with or without a place, is limited too, also for each address.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::per_address::{Counted, PerAddress};
use crate::proxies::Client;

/// Most requests that work at the same time.
const MAX_WORKING: usize = 1024;
/// Most requests that are open at the same time.
const MAX_OPEN: usize = 8192;
/// Most open requests of one address, which may be a proxy that the operator has not named.
const MAX_OPEN_EACH: usize = MAX_OPEN / 2;
/// Most open requests of one client behind a proxy that the operator has named.
const MAX_OPEN_FORWARDED: usize = 256;
/// Most requests that wait for the end of a job; each reads its row now and then.
const MAX_WAITING: usize = 1024;

/// Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Admission {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    open: PerAddress,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            working: Arc::new(Semaphore::new(MAX_WORKING)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            open: PerAddress::new(MAX_OPEN),
        }
    }
}

impl Admission {
    /// A place for a request of `client`; `None` if there are too many requests, of this client or in all.
    pub(crate) fn enter(&self, client: Option<&Client>) -> Option<Place> {
        let address = client.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| client.address);
        let is_forwarded = client.is_some_and(|client| client.is_forwarded);
        let open = self.open.enter(address, if is_forwarded { MAX_OPEN_FORWARDED } else { MAX_OPEN_EACH })?;
        let permit = self.working.clone().try_acquire_owned().ok()?;
        let held = Mutex::new(Some(permit));
        Some(Place(Arc::new(Inner { working: self.working.clone(), held, _open: open })))
    }

    /// The right to wait for the end of a job; `None` if too many do.
    pub(crate) fn wait(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }
}

/// What a request holds. Clones are of the same request, which counts as open until the last one is dropped.
#[derive(Clone)]
pub(crate) struct Place(Arc<Inner>);

struct Inner {
    working: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
    _open: Counted,
}

impl Place {
    pub(crate) fn is_held(&self) -> bool {
        self.held().is_some()
    }

    /// Gives the place up for others.
    pub(crate) fn leave(&self) {
        *self.held() = None;
    }

    /// Waits for a place, unless it is held.
    pub(crate) async fn take(self) {
        if !self.is_held()
            && let Ok(permit) = self.0.working.clone().acquire_owned().await
        {
            *self.held() = Some(permit);
        }
    }

    /// Waits without a place, and takes one again afterwards.
    pub(crate) async fn without<T>(&self, waiting: impl Future<Output = T>) -> T {
        self.leave();
        let done = waiting.await;
        self.clone().take().await;
        done
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_client_keeps_nobody_out() {
        let admission = Admission { working: Arc::new(Semaphore::new(1)), ..Admission::default() };
        let first = admission.enter(None).unwrap();
        assert!(admission.enter(None).is_none(), "the only place is taken");
        first
            .without(async {
                let second = admission.enter(None).expect("the place is free while the first one waits");
                assert!(second.is_held() && !first.is_held());
            })
            .await;
        assert!(first.is_held());
        drop(first);
        assert!(admission.enter(None).is_some());
    }
}
