//! This machine's folder of one import: partial files are kept from one attempt to the next. One worker at a time holds
//! it; another one that has the same job (the first has lost its lease and does not know yet) gets an empty folder.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

/// Folders that were not used for this long are deleted.
const ABANDONED: Duration = Duration::from_hours(24);

pub(crate) struct Scratch {
    folder: PathBuf,
    /// Holds the lock on the job's own folder.
    _lock: Option<File>,
    /// Deleted with the attempt.
    _temporary: Option<tempfile::TempDir>,
}

impl Scratch {
    /// Opens the folder of `job` below `parent`.
    pub(crate) fn open(parent: &Path, job: Uuid) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        remove_abandoned(parent);
        let folder = parent.join(job.to_string());
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        if lock.try_lock().is_err() {
            let temporary = tempfile::tempdir_in(parent)?;
            return Ok(Self { folder: temporary.path().to_owned(), _lock: None, _temporary: Some(temporary) });
        }
        Ok(Self { folder, _lock: Some(lock), _temporary: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Removes it: the job does not need it any more.
    pub(crate) fn remove(self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(folder = %self.folder.display(), %error, "left behind");
        }
    }
}

fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let folder = entry.path();
        let held = File::open(folder.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
        if !held && age(&folder).is_some_and(|age| age > ABANDONED) {
            tracing::info!(folder = %folder.display(), "removing what an import left");
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

/// Time since anything in the folder was written.
fn age(folder: &Path) -> Option<Duration> {
    let entries = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.metadata().ok());
    let written = entries.chain(fs::metadata(folder).ok()).filter_map(|about| about.modified().ok()).max()?;
    written.elapsed().ok()
}
