//! One Postgres cluster in one folder: creates, starts, finds and stops it. Everything here blocks.
//!
//! The folder holds `data` (the cluster), `password`, `log` and `settings.conf`. The server listens on 127.0.0.1
//! only, and asks for the password.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::path::is_literal;
use crate::{Error, home, name, secret, write_private};

pub(crate) const USER: &str = "pyrograph";
/// Present in the folder of a running cluster, and of one that was killed.
const PID_FILE: &str = "postmaster.pid";
/// Larger than any process id.
const NOBODY: i32 = i32::MAX;

/// Whether a cluster survives a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// An acknowledged commit survives it.
    Kept,
    /// For tests: nothing is flushed.
    ThrownAway,
}

#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    account: Account,
    binaries: Binaries,
    folder: PathBuf,
    durability: Durability,
    /// Lines of postgresql.conf after ours.
    settings: String,
}

impl Cluster {
    /// Finds the programs and creates the cluster if the folder has none. npm may install the package into `tools`.
    pub(crate) fn prepare(folder: &Path, tools: &Path, durability: Durability) -> Result<Cluster, Error> {
        let account = Account::find()?;
        let folder = home::prepare(&account, folder)?;
        account.own(&folder)?;
        let binaries = Binaries::find(&account, tools, &folder.join("data"))?;
        Self::with(account, binaries, folder, durability)
    }

    /// As [`Cluster::prepare`], with the programs in the folder `programs`.
    pub(crate) fn prepare_with(folder: &Path, programs: &Path, durability: Durability) -> Result<Cluster, Error> {
        let account = Account::find()?;
        let folder = home::prepare(&account, folder)?;
        account.own(&folder)?;
        let binaries = Binaries::in_folder(&account, programs)?;
        Self::with(account, binaries, folder, durability)
    }

    fn with(account: Account, binaries: Binaries, folder: PathBuf, durability: Durability) -> Result<Cluster, Error> {
        let cluster = Cluster { account, binaries, folder, durability, settings: String::new() };
        if !cluster.data().join("PG_VERSION").is_file() {
            cluster.initialize()?;
        }
        Ok(cluster)
    }

    /// Adds a line to postgresql.conf, from the next start on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings += &format!("{name} = '{value}'\n");
    }

    /// Writes a file into the folder that only the server's account can read, and returns its path.
    pub(crate) fn add_file(&self, name: &str, content: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        write_private(&path, content)?;
        self.account.own(&path)?;
        Ok(path)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The password of the user `pyrograph`, created with the cluster.
    pub(crate) fn password(&self) -> Result<String, Error> {
        let path = self.folder.join("password");
        fs::read_to_string(&path).map_err(Error::file(path))
    }

    /// Runs `initdb` beside the final place and renames the result, so that an incomplete cluster is never used.
    fn initialize(&self) -> Result<(), Error> {
        let part = self.folder.join("data.part");
        if part.exists() {
            fs::remove_dir_all(&part).map_err(Error::file(&part))?;
        }
        let password = self.folder.join("password");
        write_private(&password, &secret()?)?;
        self.account.own(&password)?;

        let mut initdb = self.account.command(&self.binaries.program("initdb"));
        initdb.arg("-D").arg(&part).args(["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale"]);
        initdb.arg("--pwfile").arg(&password);
        if self.durability == Durability::ThrownAway {
            initdb.arg("--no-sync");
        }
        initdb.env("LC_ALL", "C").stdin(Stdio::null());
        let mut output = initdb.output().map_err(Error::file(self.binaries.program("initdb")))?;
        if String::from_utf8_lossy(&output.stderr).contains("could not look up effective user ID") {
            let wrapper = name::wrapper().ok_or_else(|| Error::NoUserName { id: name::user() })?;
            initdb.envs(name::environment(&wrapper, &self.folder)?);
            output = initdb.output().map_err(Error::file(self.binaries.program("initdb")))?;
        }
        if !output.status.success() {
            return Err(Error::Program {
                program: "initdb".into(),
                status: output.status.to_string(),
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        let settings = part.join("postgresql.conf");
        fs::OpenOptions::new()
            .append(true)
            .open(&settings)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"include '../settings.conf'\n"))
            .map_err(Error::file(&settings))?;
        fs::rename(&part, self.data()).map_err(Error::file(self.data()))
    }

    /// The port of a server that already runs on this folder, left by a process that was killed.
    ///
    /// A stale `postmaster.pid` stays: by the shared memory that it names, Postgres notices processes of the dead
    /// server that still write. But its process id may belong to another program by now, or to a process that has ended
    /// and waits for its parent. Postgres would take either for the server, so the file gets an id that no process has.
    pub(crate) fn running(&self) -> Result<Option<u16>, Error> {
        let path = self.data().join(PID_FILE);
        let Some((pid, port)) = recorded(&path) else { return Ok(None) };
        if is_postgres(pid) {
            return Ok(port);
        }
        if exists(pid)
            && let Ok(text) = fs::read_to_string(&path)
            && let Some((_, rest)) = text.split_once('\n')
        {
            fs::write(&path, format!("{NOBODY}\n{rest}")).map_err(Error::file(&path))?;
        }
        Ok(None)
    }

    /// Starts the server on its port again if it does not run, after calling `report`. Returns whether it did not.
    pub(crate) fn revive(&self, port: u16, report: impl FnOnce()) -> Result<bool, Error> {
        if self.running()?.is_some() {
            return Ok(false);
        }
        report();
        self.start_at(port)?;
        Ok(true)
    }

    /// Signals the server that runs in `folder`, if any, to stop without a final checkpoint. Does not wait.
    pub(crate) fn quit(folder: &Path) {
        let found = Account::find().and_then(|account| home::find(&account, folder));
        let Ok(Some(folder)) = found else { return };
        if let Some((pid, _)) = postmaster(&folder.join("data").join(PID_FILE)) {
            let _ = kill_process(pid, Signal::QUIT);
        }
    }

    /// Starts the server on a free port, which it returns.
    pub(crate) fn start(&self) -> Result<u16, Error> {
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .map_err(Error::file("127.0.0.1"))?
            .port();
        self.start_at(port)?;
        Ok(port)
    }

    /// Starts the server. It runs in a separate session, so that Ctrl-C does not reach it and this process decides the
    /// order of the shutdown.
    fn start_at(&self, port: u16) -> Result<(), Error> {
        let settings = self.folder.join("settings.conf");
        fs::write(&settings, self.settings(port)).map_err(Error::file(&settings))?;
        self.account.own(&settings)?;

        let earlier = fs::metadata(self.log()).map_or(0, |log| log.len());
        let done = self
            .control()
            .args(["start", "-w", "-t", "60", "-l"])
            .arg(self.named("log"))
            // The server writes to its log only, so that this pipe ends with pg_ctl.
            .stderr(Stdio::piped())
            .output()
            .map_err(Error::file(self.binaries.program("pg_ctl")))?;
        if done.status.success() {
            return Ok(());
        }
        let of_server = end_of_log(&self.log(), earlier).unwrap_or_default();
        let own = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        let nothing = format!("it gave no reason; see {}", self.log().display());
        let output = [of_server, own].into_iter().find(|text| !text.is_empty()).unwrap_or(nothing);
        Err(Error::Program { program: "pg_ctl start".into(), status: done.status.to_string(), output })
    }

    fn settings(&self, port: u16) -> String {
        let flush = match self.durability {
            Durability::Kept => "on",
            Durability::ThrownAway => "off",
        };
        format!(
            "# Written anew at each start.\n\
             listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nmax_connections = 200\n\
             fsync = {flush}\nsynchronous_commit = {flush}\nfull_page_writes = {flush}\n{}",
            self.settings
        )
    }

    /// Stops the server and closes open connections. `immediate` skips the final checkpoint.
    pub(crate) fn stop(&self, mode: &str) -> Result<(), Error> {
        let status = self
            .control()
            .args(["stop", "-w", "-t", "30", "-m", mode])
            .status()
            .map_err(Error::file(self.binaries.program("pg_ctl")))?;
        if status.success() || self.running()?.is_none() {
            return Ok(());
        }
        Err(Error::Program { program: "pg_ctl stop".into(), status: status.to_string(), output: String::new() })
    }

    fn control(&self) -> std::process::Command {
        let mut command = self.account.command(&self.binaries.program("pg_ctl"));
        command.current_dir(&self.folder).arg("-D").arg(self.named("data"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// A path in the folder, for an argument of pg_ctl, which writes it into a command of the shell. The name of the
    /// folder may have characters that the shell executes; then the path is relative.
    fn named(&self, name: &str) -> PathBuf {
        if is_literal(&self.folder) { self.folder.join(name) } else { PathBuf::from(name) }
    }

    /// Starts a process that deletes the cluster as soon as this one ends, also by a kill: it waits for the end of its
    /// standard input, which this process holds.
    pub(crate) fn throw_away_with_us(&self) -> Result<std::process::Child, Error> {
        use std::os::unix::process::CommandExt;
        let script = r#"cat >/dev/null; "$0" -D "$1/data" stop -m immediate -w -t 10; rm -rf "$1""#;
        self.account
            .command(Path::new("/bin/sh"))
            .args(["-c", script])
            .arg(self.binaries.program("pg_ctl"))
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::file("/bin/sh"))
    }
}

/// The last lines of a log after its first `earlier` bytes, which other starts have written.
fn end_of_log(log: &Path, earlier: u64) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    file.seek(SeekFrom::Start(earlier))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(8)..].join("\n"))
}

/// Process id and port of the server recorded in `pid_file`; `None` if it is not running.
fn postmaster(pid_file: &Path) -> Option<(Pid, u16)> {
    let (pid, port) = recorded(pid_file)?;
    Some((pid, port?)).filter(|(pid, _)| is_postgres(*pid))
}

/// What `pid_file` says. A server that just begins has not written its port yet.
fn recorded(pid_file: &Path) -> Option<(Pid, Option<u16>)> {
    let text = fs::read_to_string(pid_file).ok()?;
    let mut lines = text.lines();
    let pid = Pid::from_raw(lines.next()?.trim().parse().ok()?)?;
    Some((pid, lines.nth(2).and_then(|port| port.trim().parse().ok())))
}

fn exists(pid: Pid) -> bool {
    match test_kill_process(pid) {
        Ok(()) => true,
        Err(error) => error == rustix::io::Errno::PERM,
    }
}

fn is_postgres(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The state follows the name in parentheses; a process with the state `Z` has ended.
    let named = stat.map_or(!cfg!(target_os = "linux"), |stat| {
        stat.rsplit_once(')')
            .is_some_and(|(start, rest)| start.ends_with("(postgres") && !rest.trim_start().starts_with('Z'))
    });
    exists(pid) && named
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster in a folder of this name, within one that every account may enter.
    fn cluster(within: &Path, name: &str) -> Cluster {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(within, fs::Permissions::from_mode(0o755)).unwrap();
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
        Cluster::prepare(&within.join(name), &tools, Durability::ThrownAway).unwrap()
    }

    #[test]
    fn no_name_of_a_folder_is_executed() {
        let within = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        for name in ["a$(touch pwned)", "a`touch pwned`", r#"a";touch pwned;""#, "a'b", r"a\b", "a$HOME!b", "a b&c|d;e"]
        {
            let cluster = cluster(within.path(), name);
            cluster.start().unwrap();
            assert!(cluster.running().unwrap().is_some(), "{name}");
            cluster.stop("immediate").unwrap();
            assert!(cluster.running().unwrap().is_none(), "{name}");
            let written: Vec<_> =
                fs::read_dir(cluster.folder()).unwrap().map(|file| file.unwrap().file_name()).collect();
            assert!(!written.iter().any(|file| file == "pwned"), "{written:?}");
        }
        assert!(!Path::new("/pwned").exists());
        let tools = Path::new("tools");
        let refused = Cluster::prepare(&within.path().join("a\nb"), tools, Durability::ThrownAway).unwrap_err();
        assert!(matches!(refused, Error::Path { .. }), "{refused}");
        assert!(!within.path().join("a\nb").exists());
    }

    #[test]
    fn a_start_that_fails_has_a_reason() {
        let within = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        let cluster = cluster(within.path(), "data");
        fs::create_dir(cluster.log()).unwrap();
        let why = cluster.start().unwrap_err().to_string();
        assert!(why.contains("pg_ctl start failed") && why.contains("irectory"), "{why}");
    }

    #[test]
    fn a_failed_start_shows_its_own_lines() {
        let log = tempfile::NamedTempFile::new().unwrap();
        fs::write(log.path(), "yesterday\n").unwrap();
        let earlier = log.path().metadata().unwrap().len();
        assert_eq!(end_of_log(log.path(), earlier).unwrap(), "");
        let lines: Vec<String> = (1..=10).map(|number| number.to_string()).collect();
        fs::write(log.path(), format!("yesterday\n{}\n", lines.join("\n"))).unwrap();
        assert_eq!(end_of_log(log.path(), earlier).unwrap(), lines[2..].join("\n"));
    }
}
