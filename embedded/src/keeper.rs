//! Watches an embedded Postgres, and starts it again when it has died: killed by someone, or unable to write to a full
//! disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;

/// How often the server is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause between two starts that fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A running watch.
pub(crate) struct Keeper {
    stop: watch::Sender<bool>,
    /// Whether the server's end is expected.
    expected: Arc<AtomicBool>,
    watching: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn start(cluster: Cluster, port: u16) -> Self {
        let (stop, stopped) = watch::channel(false);
        let expected = Arc::new(AtomicBool::new(false));
        let watching = tokio::spawn(keep(cluster, port, Arc::clone(&expected), stopped));
        Self { stop, expected, watching }
    }

    /// From now on, an end of the server is not reported as an error.
    pub(crate) fn expect_end(&self) {
        self.expected.store(true, Ordering::Relaxed);
    }

    /// Ends the watch, after a start that is under way: it would leave a server behind that nobody stops.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.watching.await;
    }
}

/// Returns when it is asked to stop, or when the [`Keeper`] is dropped.
async fn keep(cluster: Cluster, port: u16, expected: Arc<AtomicBool>, mut stopped: watch::Receiver<bool>) {
    let mut pause = LOOK;
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let (kept, expected) = (cluster.clone(), Arc::clone(&expected));
        let revived = tokio::task::spawn_blocking(move || {
            kept.revive(port, || {
                if expected.load(Ordering::Relaxed) {
                    tracing::info!("Postgres was stopped too; it runs again until the worker has stored its work");
                } else {
                    tracing::error!("Postgres has stopped; starting it again");
                }
            })
        });
        pause = match revived.await {
            Ok(Ok(false)) => LOOK,
            Ok(Ok(true)) => {
                tracing::info!("Postgres runs again");
                LOOK
            }
            Ok(Err(error)) => {
                pause = (pause * 2).min(LONGEST_PAUSE);
                tracing::error!(%error, "Postgres could not be started; trying again in {pause:?}");
                pause
            }
            Err(_) => return,
        };
    }
}
