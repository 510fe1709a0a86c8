//! Writes the latest value in a separate task, so that a slow database never delays the engine. Progress and previews
//! are written this way.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Writes the latest value given to it, at most once per `distance`. Values that were replaced before they could be
/// written are dropped.
pub(crate) struct Coalescer<T> {
    latest: watch::Sender<Option<T>>,
    ending: CancellationToken,
    writing: JoinHandle<()>,
}

impl<T: Clone + Send + Sync + 'static> Coalescer<T> {
    /// Writes with `write`, at most once per `distance`, until the lease of `job` is lost. Other failures are only
    /// logged.
    pub(crate) fn start<F>(job: Uuid, distance: Duration, mut write: impl FnMut(T) -> F + Send + 'static) -> Self
    where
        F: Future<Output = domain::Result<()>> + Send,
    {
        let (latest, mut changes) = watch::channel(None::<T>);
        let ending = CancellationToken::new();
        let no_pause = ending.clone();
        let writing = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(latest) = changes.borrow_and_update().clone() else { continue };
                match write(latest).await {
                    Ok(()) => {}
                    Err(domain::Error::LeaseLost) => return,
                    Err(error) => tracing::debug!(%job, %error, "not written"),
                }
                let _ = timeout(distance, no_pause.cancelled()).await;
            }
        });
        Self { latest, ending, writing }
    }

    /// Replaces the value to be written.
    pub(crate) fn set(&self, latest: T) {
        self.latest.send_replace(Some(latest));
    }

    /// Waits up to `patience` until the last value is written.
    pub(crate) async fn end(self, patience: Duration) {
        let Self { latest, ending, mut writing } = self;
        ending.cancel();
        drop(latest);
        if timeout(patience, &mut writing).await.is_err() {
            writing.abort();
        }
    }
}
