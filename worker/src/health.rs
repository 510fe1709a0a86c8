//! Whether this worker is fit to claim jobs. Trouble with its machine pauses it, each time for longer, and the reason
//! is shown. After a pause it looks whether the trouble is over, where that can be seen, and claims again; a success
//! ends the trouble. The jobs that it could not do are returned at no cost ([`crate::attend`]).

use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::Storage;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::config::Pauses;
use crate::stop::Trouble;

/// How many bytes are written to see whether a disk has room again.
const SAMPLE: usize = 1 << 20;

/// The state of a worker's machine.
pub struct Health {
    state: watch::Sender<State>,
    pauses: Pauses,
    storage: Storage,
    /// A folder on the disk in question.
    folder: PathBuf,
}

pub(crate) struct State {
    /// Troubles since the last success.
    troubles: u32,
    last_success: Instant,
    pause: Option<Pause>,
}

#[derive(Debug, Clone)]
struct Pause {
    until: Instant,
    trouble: Trouble,
    reason: String,
}

impl Health {
    /// In good health.
    pub fn new(pauses: Pauses, storage: Storage, folder: impl Into<PathBuf>) -> Self {
        let state = State { troubles: 0, last_success: Instant::now(), pause: None };
        Self { state: watch::Sender::new(state), pauses, storage, folder: folder.into() }
    }

    /// Pauses the worker, for twice as long as the last time. `reason` is a sentence for people.
    pub(crate) fn trouble(&self, trouble: Trouble, reason: &str) {
        self.state.send_if_modified(|state| {
            let now = Instant::now();
            // Several jobs may meet the same trouble at the same time.
            if state.pause.as_ref().is_some_and(|pause| pause.until > now) {
                return false;
            }
            let pause = self.pauses.after(state.troubles);
            state.troubles = state.troubles.saturating_add(1);
            state.pause = Some(Pause { until: now + pause, trouble, reason: reason.to_owned() });
            tracing::error!(reason, seconds = pause.as_secs_f64(), "this worker claims no jobs for now");
            true
        });
    }

    /// A job has succeeded.
    pub(crate) fn success(&self) {
        self.state.send_if_modified(|state| {
            state.last_success = Instant::now();
            let in_trouble = state.troubles > 0;
            (state.troubles, state.pause) = (0, None);
            if in_trouble {
                tracing::info!("this worker is well again");
            }
            in_trouble
        });
    }

    /// How long no job has succeeded.
    pub(crate) fn without_success(&self) -> Duration {
        self.state.borrow().last_success.elapsed()
    }

    /// Why the worker pauses, if it does.
    pub(crate) fn reason(&self) -> Option<String> {
        self.state.borrow().pause.as_ref().map(|pause| pause.reason.clone())
    }

    /// Notices when the reason may have changed.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Waits until jobs may be claimed.
    pub(crate) async fn fit(&self) {
        let mut state = self.state.subscribe();
        loop {
            let Some(pause) = state.borrow_and_update().pause.clone() else { return };
            tokio::select! {
                () = sleep_until(pause.until) => {}
                _ = state.changed() => continue,
            }
            if self.persists(pause.trouble).await {
                self.trouble(pause.trouble, &pause.reason);
                continue;
            }
            self.state.send_if_modified(|state| {
                let is_over = state.pause.as_ref().is_some_and(|pause| pause.until <= Instant::now());
                if is_over {
                    state.pause = None;
                    tracing::info!("this worker claims jobs again");
                }
                is_over
            });
        }
    }

    async fn persists(&self, trouble: Trouble) -> bool {
        let seen = match trouble {
            Trouble::Storage => self.storage.check().await.map_err(|error| error.to_string()),
            Trouble::Disk => write_sample(&self.folder).await.map_err(|error| error.to_string()),
            Trouble::Engine | Trouble::Jobs => Ok(()),
        };
        if let Err(error) = &seen {
            tracing::warn!(error, ?trouble, "the trouble persists");
        }
        seen.is_err()
    }
}

async fn write_sample(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let sample = tempfile::Builder::new().prefix("sample-").tempfile_in(folder)?;
    let mut file = tokio::fs::File::create(sample.path()).await?;
    file.write_all(&vec![0; SAMPLE]).await?;
    file.sync_all().await
}

#[cfg(test)]
mod tests {
    use domain::StorageConfig;
    use domain::storage::Keys;
    use tokio::time::timeout;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(5);

    fn health(folder: &Path, first: Duration) -> Health {
        let nowhere = StorageConfig {
            endpoint: "http://127.0.0.1:9".into(),
            bucket: "b".into(),
            region: "auto".into(),
            keys: Keys::fixed("k", "s"),
            public_endpoint: None,
        };
        let pauses = Pauses { first, longest: 6 * first };
        Health::new(pauses, Storage::new(&nowhere).unwrap(), folder)
    }

    #[test]
    fn each_pause_is_longer_up_to_a_limit() {
        let pauses = Pauses { first: Duration::from_secs(5), longest: Duration::from_secs(30) };
        let seconds = [0, 1, 2, 3, 40, u32::MAX].map(|troubles| pauses.after(troubles).as_secs());
        assert_eq!(seconds, [5, 10, 20, 30, 30, 30]);
    }

    #[tokio::test]
    async fn it_claims_again_after_a_pause() {
        let folder = tempfile::tempdir().unwrap();
        let health = health(folder.path(), PAUSE);
        health.fit().await;
        for troubles in 1..4 {
            health.trouble(Trouble::Jobs, "Others do it.");
            assert_eq!((health.reason().as_deref(), health.state.borrow().troubles), (Some("Others do it."), troubles));
            health.fit().await;
            assert_eq!(health.reason(), None);
        }
        health.success();
        assert_eq!(health.state.borrow().troubles, 0, "the next pause is short again");
    }

    #[tokio::test]
    async fn several_jobs_in_the_same_trouble_count_once_and_a_success_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let health = health(folder.path(), Duration::from_hours(1));
        health.trouble(Trouble::Engine, "It does not start.");
        health.trouble(Trouble::Disk, "The disk is full.");
        assert_eq!(health.state.borrow().troubles, 1);
        assert_eq!(health.reason().as_deref(), Some("It does not start."));
        let mut changes = health.watch();
        tokio::join!(health.fit(), async { health.success() });
        assert!(changes.has_changed().unwrap());
        changes.changed().await.unwrap();
        assert_eq!(health.reason(), None);
    }

    /// A file where the folder should be stands for a full disk.
    #[tokio::test]
    async fn it_looks_before_it_claims() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("data");
        std::fs::write(&place, "").unwrap();
        let health = health(&place, PAUSE);
        health.trouble(Trouble::Disk, "The disk is full.");
        let waited = timeout(Duration::from_millis(200), health.fit()).await;
        assert!(waited.is_err() && health.reason().is_some(), "the disk is still full");
        std::fs::remove_file(&place).unwrap();
        health.fit().await;
        assert_eq!((health.reason(), std::fs::read_dir(&place).unwrap().count()), (None, 0));
    }
}
