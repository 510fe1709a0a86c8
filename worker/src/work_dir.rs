//! The working folder of jobs: one for each process start, deleted when the process ends.
//!
//! Workers on one machine may share the parent folder. Each holds a lock on a file beside its folder; if the lock is
//! free, the process has died, and the next one to start removes the folder.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::StartError;

const LOCK: &str = "lock";

/// A locked folder; removed when dropped.
pub(crate) struct WorkDir {
    folder: PathBuf,
    lock_path: PathBuf,
    /// The names of those that dead processes left, which are removed.
    pub(crate) abandoned: Vec<String>,
    /// Holds the lock as long as this process lives.
    _lock: File,
}

impl WorkDir {
    /// Removes what dead processes left in `parent`, and creates `parent/name`.
    pub(crate) fn open(parent: &Path, name: &str) -> Result<Self, StartError> {
        let make = || -> io::Result<Self> {
            fs::create_dir_all(parent)?;
            let abandoned = remove_abandoned(parent)?;
            let lock_path = parent.join(name).with_extension(LOCK);
            // Locked before it gets the name by which others recognise it as a lock.
            let unnamed = parent.join(name).with_extension("new");
            let lock = File::create_new(&unnamed)?;
            lock.lock()?;
            fs::rename(&unnamed, &lock_path)?;
            let folder = parent.join(name);
            fs::create_dir(&folder)?;
            Ok(Self { folder, lock_path, abandoned, _lock: lock })
        };
        make().map_err(|source| StartError { path: parent.to_owned(), source })
    }

    /// The path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove(&self.folder, &self.lock_path);
    }
}

/// Removes what dead processes left in `parent`, and returns the names of it.
pub(crate) fn remove_abandoned(parent: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(parent)?.flatten() {
        let lock_path = entry.path();
        if lock_path.extension().is_none_or(|end| end != LOCK) {
            continue;
        }
        let Ok(lock) = File::open(&lock_path) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                let folder = lock_path.with_extension("");
                tracing::info!(folder = %folder.display(), "removing what a dead worker left");
                remove(&folder, &lock_path);
                names.extend(folder.file_name().map(|name| name.to_string_lossy().into_owned()));
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(names)
}

fn remove(folder: &Path, lock_path: &Path) {
    for gone in [fs::remove_dir_all(folder), fs::remove_file(lock_path)] {
        if let Err(error) = gone
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_have_stays() {
        let parent = tempfile::tempdir().unwrap();
        let living = WorkDir::open(parent.path(), "living").unwrap();
        fs::create_dir(parent.path().join("dead")).unwrap();
        fs::write(parent.path().join("dead/file"), "left").unwrap();
        fs::write(parent.path().join("dead.lock"), "").unwrap();

        let next = WorkDir::open(parent.path(), "next").unwrap();
        assert!(!parent.path().join("dead").exists() && !parent.path().join("dead.lock").exists());
        assert!(living.path().exists() && next.path().exists());
        assert_eq!((&living.abandoned, &next.abandoned), (&vec![], &vec!["dead".to_owned()]));

        drop(living);
        drop(next);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
