//! The folder for a worker's cached weights and the files of its jobs.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::process::getuid;

use super::variable;
use crate::failure::Failure;

/// The folder that the environment names, which is created if it is missing.
///
/// # Errors
/// Nothing can be written there.
pub(crate) fn named_worker_dir() -> Result<Option<PathBuf>, Failure> {
    let Some(folder) = variable("PYROGRAPH_WORKER_DIR").map(PathBuf::from) else { return Ok(None) };
    match fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(&folder)) {
        Ok(_) => Ok(Some(folder)),
        // It may have room again after a restart.
        Err(error) if error.kind() == ErrorKind::StorageFull => Ok(Some(folder)),
        Err(error) => {
            let why = error.get_ref().map_or_else(|| error.to_string(), |_| error.kind().to_string());
            Err(Failure::Usage(format!("PYROGRAPH_WORKER_DIR is {}, which cannot be used: {why}", folder.display())))
        }
    }
}

/// The folder of a worker beside the data folder of `up`, or without one.
pub(crate) fn worker_dir(data_dir: &Path) -> Result<PathBuf, Failure> {
    if let Some(folder) = named_worker_dir()? {
        return Ok(folder);
    }
    if data_dir.is_dir() {
        return Ok(data_dir.join("worker"));
    }
    if let Some(folder) = variable("XDG_CACHE_HOME") {
        return Ok(Path::new(&folder).join("pyrograph"));
    }
    if let Some(home) = variable("HOME") {
        return Ok(Path::new(&home).join(".cache/pyrograph"));
    }
    private(std::env::temp_dir().join(format!("pyrograph-worker-{}", getuid().as_raw())), getuid().as_raw())
}

/// A folder of the user `uid` alone, in a place where every user may create one.
fn private(folder: PathBuf, uid: u32) -> Result<PathBuf, Failure> {
    let display = folder.display();
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("could not create {display}"))?;
        }
        _ => {}
    }
    // Not followed: a link would lead into a folder of someone else's choice.
    let found: io::Result<_> = fs::symlink_metadata(&folder);
    let found = found.with_context(|| format!("could not open {display}"))?;
    if found.is_dir() && found.uid() == uid && found.mode() & 0o777 == 0o700 {
        return Ok(folder);
    }
    Err(Failure::Usage(format!(
        "{display} is not a folder of this user alone; set PYROGRAPH_WORKER_DIR to another one"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_folder_in_a_shared_place_is_of_one_user_alone() {
        let place = tempfile::tempdir().unwrap();
        let (folder, uid) = (place.path().join("worker"), getuid().as_raw());
        let refused = |folder: &Path, uid| {
            let Err(Failure::Usage(why)) = private(folder.to_owned(), uid) else { panic!("it was taken") };
            assert!(why.contains("PYROGRAPH_WORKER_DIR"), "{why}");
        };
        for _ in 0..2 {
            private(folder.clone(), uid).unwrap();
        }
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        refused(&folder, uid + 1);
        let link = place.path().join("link");
        symlink(&folder, &link).unwrap();
        refused(&link, uid);
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        refused(&folder, uid);
    }
}
