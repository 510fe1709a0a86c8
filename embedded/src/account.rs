//! The account that Postgres runs under. Postgres refuses to run as root, so root lends it to an unprivileged one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// Where the data of Postgres goes when root's own folder is closed to every other account.
const SHARED_ROOT: &str = "/var/lib/pyrograph";

/// Who runs Postgres: ourselves, or `uid:gid` when we are root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    drop_to: Option<(u32, u32)>,
}

impl Account {
    /// Ourselves, unless we are root: then `nobody`, else `postgres`. The account must have a line in `/etc/passwd`,
    /// for `initdb` looks its own name up.
    pub fn find() -> Result<Account, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account { drop_to: None });
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(Error::file("/etc/passwd"))?;
        ["nobody", "postgres"]
            .iter()
            .find_map(|name| ids(&passwd, name))
            .map(|ids| Account { drop_to: Some(ids) })
            .ok_or(Error::NoAccount)
    }

    /// A command that runs as this account. It starts in `/`, since the account may not see our folder.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_remove("PGDATA").env_remove("PGHOST").env_remove("PGPORT");
        if let Some((uid, gid)) = self.drop_to {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or folder to the account. Nothing to do when we run Postgres ourselves.
    pub fn own(&self, path: &Path) -> Result<(), Error> {
        match self.drop_to {
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(Error::file(path)),
            None => Ok(()),
        }
    }

    /// The folder where Postgres can live for `wanted`: itself where the account can get there, else one under
    /// `/var/lib/pyrograph` with a name of its own, remembered in `wanted/location`.
    pub fn reachable(&self, wanted: &Path) -> Result<PathBuf, Error> {
        fs::create_dir_all(wanted).map_err(Error::file(wanted))?;
        let wanted = wanted.canonicalize().map_err(Error::file(wanted))?;
        if wanted.ancestors().skip(1).all(|folder| self.may_enter(folder)) {
            return Ok(wanted);
        }
        let note = wanted.join("location");
        if let Ok(location) = fs::read_to_string(&note) {
            let location = PathBuf::from(location.trim());
            if location.is_dir() {
                return Ok(location);
            }
        }
        let location = Path::new(SHARED_ROOT).join(format!("postgres-{}", uuid::Uuid::now_v7().simple()));
        fs::create_dir_all(&location).map_err(Error::file(&location))?;
        fs::write(&note, location.display().to_string()).map_err(Error::file(&note))?;
        Ok(location)
    }

    /// The same for programs: a copy of the package under `/var/lib/pyrograph` when it lies where the account cannot go.
    pub fn reachable_package(&self, package: &Path) -> Result<PathBuf, Error> {
        let package = package.canonicalize().map_err(Error::file(package))?;
        if package.ancestors().all(|folder| self.may_enter(folder)) {
            return Ok(package);
        }
        let stamp = fs::metadata(&package).map_err(Error::file(&package))?.mtime();
        let copy = Path::new(SHARED_ROOT).join(format!("postgres-programs-{stamp}"));
        if !copy.is_dir() {
            let part = copy.with_extension(uuid::Uuid::now_v7().simple().to_string());
            copy_tree(&package, &part)?;
            if let Err(error) = fs::rename(&part, &copy) {
                // Somebody else was quicker, and has copied the same.
                fs::remove_dir_all(&part).map_err(Error::file(&part))?;
                if !copy.is_dir() {
                    return Err(Error::File { path: copy, source: error });
                }
            }
        }
        Ok(copy)
    }

    fn may_enter(&self, folder: &Path) -> bool {
        let Some((uid, gid)) = self.drop_to else { return true };
        fs::metadata(folder).is_ok_and(|data| {
            let bit = if data.uid() == uid {
                0o100
            } else if data.gid() == gid {
                0o010
            } else {
                0o001
            };
            data.permissions().mode() & bit != 0
        })
    }
}

fn ids(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = passwd.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::file(to))?;
    for entry in fs::read_dir(from).map_err(Error::file(from))? {
        let entry = entry.map_err(Error::file(from))?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type().map_err(Error::file(entry.path()))?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            // Within the package and relative, so the copy stands on its own.
            fs::read_link(entry.path())
                .and_then(|link| std::os::unix::fs::symlink(link, &target))
                .map_err(Error::file(&target))?;
        } else {
            fs::copy(entry.path(), &target).map_err(Error::file(&target))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ids_by_exact_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody2:x:9:9::/:/bin/false\nnobody:x:65534:65533:n:/:/bin/false\n";
        assert_eq!(ids(passwd, "nobody"), Some((65534, 65533)));
        assert_eq!(ids(passwd, "postgres"), None);
    }

    #[test]
    fn a_closed_folder_moves_postgres_elsewhere_and_is_remembered() {
        let Ok(account) = Account::find() else { return };
        let folder = tempfile::tempdir().unwrap();
        let wanted = folder.path().join("closed/postgres");
        fs::create_dir_all(&wanted).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let first = account.reachable(&wanted).unwrap();
        assert_eq!(first, account.reachable(&wanted).unwrap());
        if account.drop_to.is_some() {
            assert!(first.starts_with(SHARED_ROOT));
            fs::remove_dir(&first).unwrap();
        } else {
            assert_eq!(first, wanted.canonicalize().unwrap());
        }
    }
}
