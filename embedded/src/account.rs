//! The account that Postgres runs under. Postgres refuses to run as root; then it runs as an unprivileged account.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// Folder for what other accounts cannot reach in root's folders.
pub(crate) const SHARED_ROOT: &str = "/var/lib/pyrograph";

/// The account that runs Postgres: the current one, or another if that is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    drop_to: Option<Other>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Other {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The current account; for root `nobody`, or `postgres` if there is no `nobody`. The account must have a line in
    /// `/etc/passwd`, since `initdb` looks its own name up.
    pub(crate) fn find() -> Result<Account, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account { drop_to: None });
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(Error::file("/etc/passwd"))?;
        ["nobody", "postgres"]
            .into_iter()
            .find_map(|name| ids(&passwd, name).map(|(uid, gid)| Other { name, uid, gid }))
            .map(|other| Account { drop_to: Some(other) })
            .ok_or(Error::NoAccount)
    }

    /// A command that runs as this account. It starts in `/`, since the account may not be able to read our folder.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_remove("PGDATA").env_remove("PGHOST").env_remove("PGPORT");
        if let Some(Other { uid, gid, .. }) = self.drop_to {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Makes the account the owner of a file or folder. Does nothing if it is the current account.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Error> {
        match self.drop_to {
            Some(Other { uid, gid, .. }) => {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(Error::file(path))
            }
            None => Ok(()),
        }
    }

    /// The first folder above `path` that the account cannot enter.
    pub(crate) fn barrier<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.into_iter().rev().find(|folder| !self.may_enter(folder))
    }

    /// Its name, or the id of the current account.
    pub(crate) fn name(&self) -> String {
        self.drop_to.map_or_else(|| self.user().to_string(), |other| other.name.to_owned())
    }

    pub(crate) fn user(&self) -> u32 {
        self.drop_to.map_or_else(|| rustix::process::geteuid().as_raw(), |other| other.uid)
    }

    /// The folder of a package of programs that the account can reach: `package`, or a copy under
    /// `/var/lib/pyrograph`.
    pub(crate) fn reachable_package(&self, package: &Path) -> Result<PathBuf, Error> {
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
                // Another process has copied the same files meanwhile.
                fs::remove_dir_all(&part).map_err(Error::file(&part))?;
                if !copy.is_dir() {
                    return Err(Error::File { path: copy, source: error });
                }
            }
        }
        Ok(copy)
    }

    fn may_enter(&self, folder: &Path) -> bool {
        let Some(Other { uid, gid, .. }) = self.drop_to else { return true };
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
            // Relative and within the package, so the copy does not depend on the original.
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
}
