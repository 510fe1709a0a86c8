//! The working folder of jobs: one for each process start, deleted when the process ends.
//!
//! Workers on one machine may share the parent folder. Each holds a lock on a file beside its folder; if the lock is
//! free, the process has died, and the next one to start removes the folder. If somebody else removes a folder of a
//! living process, it is made again with the next job.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::StartError;

const LOCK: &str = "lock";

/// A locked folder; removed when dropped.
pub(crate) struct WorkDir {
    pub(crate) folder: Arc<Folder>,
    /// The names of those that dead processes left, which are removed.
    pub(crate) abandoned: Vec<String>,
}

/// A folder and the lock beside it.
pub(crate) struct Folder {
    path: PathBuf,
    lock_path: PathBuf,
    /// Holds the lock as long as this process lives.
    lock: Mutex<Option<File>>,
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the folder. Makes the folder and its lock unless they are there.
    pub(crate) fn ensure(&self) -> io::Result<&Path> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.lock_path.exists() {
            self.lock_path.parent().map_or(Ok(()), fs::create_dir_all)?;
            // Locked before it gets the name by which others recognise it as a lock.
            let unnamed = self.path.with_extension("new");
            let file = File::create(&unnamed)?;
            file.lock()?;
            fs::rename(&unnamed, &self.lock_path)?;
            *lock = Some(file);
        }
        fs::create_dir_all(&self.path)?;
        Ok(&self.path)
    }
}

impl WorkDir {
    /// Removes what dead processes left in `parent`, and creates `parent/name`.
    pub(crate) fn open(parent: &Path, name: &str) -> Result<Self, StartError> {
        let make = || -> io::Result<Self> {
            fs::create_dir_all(parent)?;
            let abandoned = remove_abandoned(parent)?;
            let path = parent.join(name);
            let folder = Folder { lock_path: path.with_extension(LOCK), path, lock: Mutex::default() };
            folder.ensure()?;
            Ok(Self { folder: Arc::new(folder), abandoned })
        };
        make().map_err(|source| StartError { path: parent.to_owned(), source })
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove(&self.folder.path, &self.folder.lock_path);
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
        assert!(living.folder.path().exists() && next.folder.path().exists());
        assert_eq!((&living.abandoned, &next.abandoned), (&vec![], &vec!["dead".to_owned()]));

        drop(living);
        drop(next);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_somebody_removes_is_made_again_and_locked() {
        let place = tempfile::tempdir().unwrap();
        let parent = place.path().join("work");
        let living = WorkDir::open(&parent, "living").unwrap();
        for removed in [&living.folder.path, &living.folder.lock_path, &parent] {
            if removed.is_dir() { fs::remove_dir_all(removed) } else { fs::remove_file(removed) }.unwrap();
            let folder = living.folder.ensure().unwrap();
            fs::write(folder.join("file"), "of a job").unwrap();
            assert_eq!(remove_abandoned(&parent).unwrap(), [""; 0], "{}", removed.display());
            assert!(folder.join("file").exists(), "{}", removed.display());
        }
        drop(living);
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
    }
}
