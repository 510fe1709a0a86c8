//! Writing down the newest of what is told, on a task of its own: a slow database costs what was told meanwhile, never time of
//! the engine. Progress and previews go this way.

use std::future::Future;
use std::time::Duration;

use domain::JobId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What is told to it is written, but for what is older than something else by the time that it could be.
pub(crate) struct Newest<T> {
    newest: watch::Sender<Option<T>>,
    ending: CancellationToken,
    writing: JoinHandle<()>,
}

impl<T: Clone + Send + Sync + 'static> Newest<T> {
    /// Writes with `write`, not twice within `distance`, until the lease of `job` is lost. Other failures are only logged.
    pub fn start<F>(job: JobId, distance: Duration, mut write: impl FnMut(T) -> F + Send + 'static) -> Self
    where
        F: Future<Output = domain::Result<()>> + Send,
    {
        let (newest, mut told) = watch::channel(None::<T>);
        let ending = CancellationToken::new();
        let no_pause = ending.clone();
        let writing = tokio::spawn(async move {
            while told.changed().await.is_ok() {
                let Some(newest) = told.borrow_and_update().clone() else { continue };
                match write(newest).await {
                    Ok(()) => {}
                    Err(domain::Error::LeaseLost) => return,
                    Err(error) => tracing::debug!(%job, %error, "not written"),
                }
                let _ = timeout(distance, no_pause.cancelled()).await;
            }
        });
        Self { newest, ending, writing }
    }

    /// Tells something newer.
    pub fn tell(&self, newest: T) {
        self.newest.send_replace(Some(newest));
    }

    /// Waits, but not longer than `patience`, until the last of what was told is written.
    pub async fn end(self, patience: Duration) {
        let Self { newest, ending, mut writing } = self;
        ending.cancel();
        drop(newest);
        if timeout(patience, &mut writing).await.is_err() {
            writing.abort();
        }
    }
}
