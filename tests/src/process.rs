//! A child process of the product: its signals, its children, its log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// The built `pyrograph`: beside the test executable's folder, or at `PYROGRAPH_BIN`.
///
/// Cargo gives a test the path of a binary only within one package, so this relies on a convention: tests run from
/// `target/<profile>/deps/`, binaries are in `target/<profile>/`.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("PYROGRAPH_BIN").map_or_else(
        || {
            let test = std::env::current_exe().expect("a running test has a path");
            let profile = test.parent().and_then(Path::parent).expect("tests run from target/<profile>/deps");
            profile.join("pyrograph")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is missing. The journeys drive the built binary: run `cargo build -p pyrograph` first (`./justw test` \
         does).",
        path.display()
    );
    path
}

/// What a process that starts Postgres needs where the checkout's set-up has installed it: the product does not look
/// there by itself.
pub fn postgres_programs() -> Option<(&'static str, PathBuf)> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
    Some(("PYROGRAPH_POSTGRES_BIN", embedded::installed_programs(&tools)?.canonicalize().ok()?))
}

/// A running process whose whole output is written to one log file; it is killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; stdout and stderr are appended to `log`.
    pub fn start(name: &str, log: &Path, command: Command) -> Self {
        let err = File::options().create(true).append(true).open(log).expect("log file");
        Self::start_with(name, log, command, err.into())
    }

    /// As [`Process::start`], with another stderr.
    pub fn start_with(name: &str, log: &Path, mut command: Command, stderr: Stdio) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }

    /// Sends `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends `signal` and waits for the end; panics if the process outlives `limit`.
    pub fn end(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        self.signal(signal);
        self.wait(limit)
    }

    /// Waits for the end; panics if the process lives longer than `limit` from now.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(
                start.elapsed() < limit,
                "{} still lives after {limit:?}; the end of its log:\n{}",
                self.name,
                tail(&self.log(), 40)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process ids of the current direct children.
    pub fn children(&self) -> Vec<u32> {
        children_of(self.id())
    }

    /// Process id of the engine child, if one runs now.
    pub fn engine(&self) -> Option<u32> {
        self.children().into_iter().find(|id| arguments(*id).iter().any(|argument| argument == "engine"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("──── {} ({})\n{}", self.name, self.id(), tail(&self.log(), 60));
        }
        // A stopped process does not exit when its parent does, so the children are killed first.
        for child in self.children() {
            send(child, Signal::KILL);
        }
        self.kill();
    }
}

/// Sends a signal to any process; it is no error if the process is gone already.
pub fn send(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// True while a process with this id runs (a zombie does not).
pub fn runs(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| !matches!(fields_after_name(&stat).next(), None | Some("Z" | "X")))
}

/// Command line of a process, empty when it is gone.
pub fn arguments(id: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// How many connections a process has to a port of this machine.
pub fn sockets_to(id: u32, port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let inodes: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let there = fields.get(2)?.ends_with(&format!(":{port:04X}"));
            // State 1 is an open connection.
            (there && *fields.get(3)? == "01").then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
        })
        .collect();
    let open = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str())).count()
}

/// Ids of all processes of this machine whose command line mentions `needle`.
pub fn mentioning(needle: &str) -> Vec<u32> {
    all().filter(|id| runs(*id) && arguments(*id).iter().any(|argument| argument.contains(needle))).collect()
}

/// Process ids of the current direct children of a process.
pub fn children_of(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    all()
        .filter(|id| {
            fs::read_to_string(format!("/proc/{id}/stat"))
                .is_ok_and(|stat| fields_after_name(&stat).nth(1) == Some(parent.as_str()))
        })
        .collect()
}

fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// proc(5): the second field is the name in parentheses and may hold spaces; state and parent follow it.
fn fields_after_name(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit(')').next().unwrap_or_default().split_whitespace()
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
