//! The place of a cluster: the folder that is asked for, or, if root asks and the account of Postgres cannot enter that
//! folder, one under `/var/lib/pyrograph`. An existing cluster is found or refused, and never replaced by a new one.
//!
//! A cluster outside is named in the file `location` of its folder, and names that folder in its own file `belongs_to`.
//! A copy of the folder names the cluster too, and the cluster does not name the copy.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::account::{Account, SHARED_ROOT};
use crate::path::check_path;

const LOCATION: &str = "location";
const BELONGS_TO: &str = "belongs_to";

/// The folder of the cluster of `wanted`, created for a new one.
pub(crate) fn prepare(account: &Account, wanted: &Path) -> Result<PathBuf, Error> {
    check_path(wanted)?;
    fs::create_dir_all(wanted).map_err(Error::file(wanted))?;
    let wanted = wanted.canonicalize().map_err(Error::file(wanted))?;
    check_path(&wanted)?;
    if let Some(folder) = find(account, &wanted)? {
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        return Ok(folder);
    }
    if account.barrier(&wanted).is_none() {
        return Ok(wanted);
    }
    let folder = Path::new(SHARED_ROOT).join(format!("postgres-{}", uuid::Uuid::now_v7().simple()));
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    // The umask of root may close it to the account.
    fs::set_permissions(SHARED_ROOT, fs::Permissions::from_mode(0o755)).map_err(Error::file(SHARED_ROOT))?;
    write_path(&folder.join(BELONGS_TO), &wanted)?;
    write_path(&wanted.join(LOCATION), &folder)?;
    Ok(folder)
}

/// The folder of the existing cluster of `wanted`; `None` if there is none yet.
///
/// # Errors
/// The account cannot use the cluster, or it belongs to another folder, or there are two.
pub(crate) fn find(account: &Account, wanted: &Path) -> Result<Option<PathBuf>, Error> {
    let data = wanted.join("data");
    // Also a link to a disk that is not mounted.
    let inside = data.symlink_metadata().is_ok();
    let outside = read_path(&wanted.join(LOCATION))?;
    match (inside, outside) {
        (false, None) => Ok(None),
        (true, None) => {
            check_owner(account, &data)?;
            Ok(Some(wanted.to_owned()))
        }
        (false, Some(outside)) => {
            claim(&outside, wanted)?;
            Ok(Some(outside))
        }
        (true, Some(outside)) => Err(Error::TwoClusters { inside: data, outside, note: wanted.join(LOCATION) }),
    }
}

/// Whether the account can use the cluster in `data`, which Postgres requires to be its own.
fn check_owner(account: &Account, data: &Path) -> Result<(), Error> {
    let data = data.canonicalize().map_err(Error::file(data))?;
    if let Some(barrier) = account.barrier(&data) {
        let barrier = barrier.to_owned();
        return Err(Error::Closed { data, barrier, account: account.name() });
    }
    let owner = fs::metadata(&data).map_err(Error::file(&data))?.uid();
    if owner != account.user() {
        let folder = data.parent().unwrap_or(&data).to_owned();
        return Err(Error::OtherOwner { folder, owner, account: account.name() });
    }
    Ok(())
}

/// Makes `outside` the cluster of `wanted`, if it is not that of another folder which still exists.
fn claim(outside: &Path, wanted: &Path) -> Result<(), Error> {
    if !outside.is_dir() {
        return Err(Error::Gone { outside: outside.to_owned(), note: wanted.join(LOCATION) });
    }
    let note = outside.join(BELONGS_TO);
    match read_path(&note)? {
        Some(owner) if owner == wanted => Ok(()),
        Some(owner) if read_path(&owner.join(LOCATION))?.as_deref() == Some(outside) => {
            Err(Error::Copy { wanted: wanted.to_owned(), owner, outside: outside.to_owned() })
        }
        // The folder was moved.
        _ => write_path(&note, wanted),
    }
}

fn read_path(note: &Path) -> Result<Option<PathBuf>, Error> {
    match fs::read_to_string(note) {
        Ok(text) => Ok(Some(PathBuf::from(text.trim()))),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::file(note)(error)),
    }
}

fn write_path(note: &Path, path: &Path) -> Result<(), Error> {
    fs::write(note, path.display().to_string()).map_err(Error::file(note))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(folder: &Path, mode: u32) {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// An account other than ours, for which a folder can be closed; `None` if we cannot become another.
    fn other() -> Option<Account> {
        Account::find().ok().filter(|account| account.user() != rustix::process::geteuid().as_raw())
    }

    #[test]
    fn a_cluster_that_cannot_be_reached_is_not_replaced() {
        let Some(account) = other() else { return };
        let folder = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        mode(folder.path(), 0o755);
        let wanted = folder.path().join("d/postgres");
        assert_eq!(prepare(&account, &wanted).unwrap(), wanted);
        fs::create_dir(wanted.join("data")).unwrap();
        let why = prepare(&account, &wanted).unwrap_err().to_string();
        assert!(why.contains("user id 0") && why.contains("chown -R"), "{why}");
        account.own(&wanted.join("data")).unwrap();
        assert_eq!(prepare(&account, &wanted).unwrap(), wanted);

        mode(folder.path(), 0o700);
        let why = prepare(&account, &wanted).unwrap_err().to_string();
        assert!(why.contains(&format!("chmod o+x {}", folder.path().display())), "{why}");
        assert!(!wanted.join(LOCATION).exists());
        mode(folder.path(), 0o755);
        assert_eq!(prepare(&account, &wanted).unwrap(), wanted);
    }

    #[test]
    fn a_cluster_outside_belongs_to_one_folder() {
        let Some(account) = other() else { return };
        let folder = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        mode(folder.path(), 0o700);
        let [first, copy, moved] = ["first", "copy", "moved"].map(|name| folder.path().join(name));
        let outside = prepare(&account, &first).unwrap();
        assert!(outside.starts_with(SHARED_ROOT));
        assert_eq!(prepare(&account, &first).unwrap(), outside);

        // It stays outside where the account could enter.
        mode(folder.path(), 0o755);
        assert_eq!(prepare(&account, &first).unwrap(), outside);

        fs::create_dir(&copy).unwrap();
        fs::copy(first.join(LOCATION), copy.join(LOCATION)).unwrap();
        let why = prepare(&account, &copy).unwrap_err().to_string();
        assert!(why.contains("is a copy of") && why.contains(first.to_str().unwrap()), "{why}");

        fs::rename(&first, &moved).unwrap();
        assert_eq!(prepare(&account, &moved).unwrap(), outside);
        let why = prepare(&account, &copy).unwrap_err().to_string();
        assert!(why.contains(moved.to_str().unwrap()), "{why}");

        fs::create_dir(moved.join("data")).unwrap();
        let why = prepare(&account, &moved).unwrap_err().to_string();
        assert!(why.contains("two databases"), "{why}");
        fs::remove_dir(moved.join("data")).unwrap();

        fs::remove_dir_all(&outside).unwrap();
        let why = prepare(&account, &moved).unwrap_err().to_string();
        assert!(why.contains("is not there"), "{why}");
    }
}
