//! One installation of Pyrograph: a database, a bucket, an API process, and the workers that a journey starts.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, text};
use crate::ground::Site;
use crate::ledger::Ledger;
use crate::model::tiny_files;
use crate::process::{Process, binary};
use crate::wait::{seconds, until};

/// How soon a lost worker is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The defaults of the product: lease 30 s, heartbeat 5 s, reaper 5 s.
    Promised,
    /// The same in a tenth of the time: lease 3 s, heartbeat 0.5 s, reaper 0.5 s.
    Quick,
}

/// A running installation. Dropping it ends all its processes.
pub struct Stack {
    pub client: Client,
    pub ledger: Ledger,
    api: Process,
    pub site: Site,
    port: u16,
    pace: Pace,
    environment: Vec<(String, String)>,
    folder: TempDir,
}

impl Stack {
    /// Starts database, bucket and API, with the tiny checkpoint imported as `tiny`; no worker yet.
    pub async fn start(pace: Pace) -> Self {
        Self::start_with(pace, &[]).await
    }

    /// As [`Stack::start`], with additional environment variables for every process of this installation.
    pub async fn start_with(pace: Pace, environment: &[(&str, &str)]) -> Self {
        Self::start_on(Site::create().await, pace, environment).await
    }

    /// As [`Stack::start_with`], on a database and a bucket that exist already.
    pub async fn start_on(site: Site, pace: Pace, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let port = free_port();

        let migrate = output(command(&site, pace, &environment, folder.path()).arg("migrate"));
        assert!(migrate.status.success(), "migrate: {}", String::from_utf8_lossy(&migrate.stderr));
        let ledger = Ledger::open(&site.database_url).await;
        let api = Self::serve(&site, pace, &environment, folder.path(), port);
        let client = Client::new(&format!("http://127.0.0.1:{port}"));
        let mut stack = Self { client, ledger, api, site, port, pace, environment, folder };
        stack.ready().await;
        stack.client.add_model("tiny", &tiny_files(), None).await.expect(201);
        stack
    }

    /// Another API on the same database and bucket, with additional environment variables.
    pub async fn another_api(&self, name: &str, environment: &[(&str, &str)]) -> (Process, Client) {
        let port = free_port();
        let mut command = command(&self.site, self.pace, &self.environment, self.folder.path());
        command.envs(environment.iter().copied()).args(["serve", "--bind", &format!("127.0.0.1:{port}")]);
        let process = Process::start(name, &self.folder.path().join(format!("{name}.log")), command);
        let client = Client::new(&format!("http://127.0.0.1:{port}"));
        until(seconds(60), "another API is ready", || async { client.is_ready().await.then_some(()) }).await;
        (process, client)
    }

    fn serve(site: &Site, pace: Pace, environment: &[(String, String)], folder: &Path, port: u16) -> Process {
        let mut command = command(site, pace, environment, folder);
        command.args(["serve", "--bind", &format!("127.0.0.1:{port}")]);
        Process::start("api", &folder.join("api.log"), command)
    }

    async fn ready(&mut self) {
        until(seconds(60), "the API is ready", || {
            let alive = self.api.is_alive();
            let client = self.client.clone();
            async move {
                assert!(alive, "the API ended at its start");
                client.is_ready().await.then_some(())
            }
        })
        .await;
    }

    /// The API process.
    pub fn api(&mut self) -> &mut Process {
        &mut self.api
    }

    /// Starts the API again on the same address (after a kill).
    pub async fn restart_api(&mut self) {
        self.api.kill();
        self.api = Self::serve(&self.site, self.pace, &self.environment, self.folder.path(), self.port);
        self.ready().await;
    }

    /// Starts a worker on the CPU. `fault` is the engine's `PYROGRAPH_ENGINE_FAULT` ("" = none).
    pub fn worker(&self, name: &str, fault: &str) -> Process {
        self.worker_with(name, fault, &[])
    }

    /// As [`Stack::worker`], with additional environment variables.
    pub fn worker_with(&self, name: &str, fault: &str, environment: &[(&str, &str)]) -> Process {
        let home = self.folder.path().join(name);
        std::fs::create_dir_all(&home).expect("worker folder");
        let mut command = command(&self.site, self.pace, &self.environment, &home);
        command.args(["worker", "--device", "cpu", "--name", name]).envs(environment.iter().copied());
        if !fault.is_empty() {
            command.env("PYROGRAPH_ENGINE_FAULT", fault);
        }
        Process::start(name, &self.folder.path().join(format!("{name}.log")), command)
    }

    /// Starts a server or worker with these arguments.
    pub fn part(&self, name: &str, arguments: &[&str]) -> Process {
        let mut command = command(&self.site, self.pace, &self.environment, self.folder.path());
        command.args(arguments);
        Process::start(name, &self.folder.path().join(format!("{name}.log")), command)
    }

    /// Number of files of models that the worker of this name has fetched.
    pub fn cached(&self, name: &str) -> usize {
        let files = |folder: std::fs::DirEntry| std::fs::read_dir(folder.path()).map_or(0, Iterator::count);
        let cache = std::fs::read_dir(self.folder.path().join(name).join(".cache/pyrograph/cache"))
            .expect("the worker's cache");
        cache.flatten().map(files).sum()
    }

    /// Runs a command of the operator (`migrate`, `sweep`, …) that must succeed with one JSON document on stdout.
    pub fn operator_json(&self, arguments: &[&str]) -> Value {
        let output = output(command(&self.site, self.pace, &self.environment, self.folder.path()).args(arguments));
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{out}\n{err}"))
    }

    /// Runs a client command (`generate`, `train`, …) to its end.
    pub fn cli(&self, arguments: &[impl AsRef<OsStr>]) -> Output {
        output(&mut self.cli_command(arguments))
    }

    /// Starts a client command in the background; its output is written to its log.
    pub fn cli_process(&self, name: &str, arguments: &[&str]) -> Process {
        Process::start(name, &self.folder.path().join(format!("{name}.log")), self.cli_command(arguments))
    }

    fn cli_command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("PYROGRAPH_SERVER", self.client.base()).current_dir(self.folder.path()).args(arguments);
        command
    }

    /// Runs a client command that must succeed with one JSON document on stdout.
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--json"]].concat());
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?} --json: {error}\n{out}\n{err}"))
    }

    /// A folder that exists as long as the installation.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Waits until the bucket holds exactly the objects that rows name: none is missing, and there are no others but
    /// those of unfinished uploads. What the API's sweeper would do within a minute, it does at its next look.
    pub async fn audit_bucket(&self) {
        for due in [
            "update deletions set due_at = clock_timestamp() where done_at is null",
            "update leftovers set due_at = clock_timestamp()",
        ] {
            sqlx::query(due).execute(self.ledger.pool()).await.expect("sweeper's tables");
        }
        let start = Instant::now();
        loop {
            let (missing, unnamed) = self.bucket_against_rows().await;
            if missing.is_empty() && unnamed.is_empty() {
                return;
            }
            assert!(start.elapsed() < seconds(60), "missing in the bucket: {missing:#?}, without a row: {unnamed:#?}");
            tokio::time::sleep(seconds(1)).await;
        }
    }

    /// Keys that rows name and the bucket lacks, and keys in the bucket that no row names.
    pub async fn bucket_against_rows(&self) -> (Vec<String>, Vec<String>) {
        let (rows, uploads) = (self.ledger.objects_of_rows().await, self.ledger.uploads().await);
        let objects = self.site.keys();
        let missing = rows.difference(&objects).cloned().collect();
        let unnamed = objects.difference(&rows).filter(|key| !uploads.iter().any(|upload| key.starts_with(upload)));
        (missing, unnamed.cloned().collect())
    }

    /// Everything that any process of this installation has written to its log.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.folder.path()).expect("folder") {
            let path = entry.expect("folder").path();
            if path.extension().is_some_and(|extension| extension == "log") {
                all += &std::fs::read_to_string(path).expect("log");
            }
        }
        all
    }

    /// Id of the worker (process start) that holds the job of this generation or training.
    pub async fn holder(&self, job: &Value) -> Option<String> {
        let attempts = self.ledger.attempts(&text(&job["id"])).await;
        attempts.last().filter(|attempt| attempt.ended_at.is_none()).map(|attempt| attempt.worker.clone())
    }
}

/// Runs a command of the product on a database and a bucket to its end, with additional environment variables.
pub fn run(site: &Site, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("temporary folder");
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    output(command(site, Pace::Promised, &environment, folder.path()).args(arguments))
}

/// The binary with the environment of an installation and nothing else from ours.
fn command(site: &Site, pace: Pace, environment: &[(String, String)], home: &Path) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home).current_dir(home);
    command.envs(site.environment());
    // A journey sends as many requests with its key as it likes.
    command.env("PYROGRAPH_REQUESTS_PER_SECOND", "0");
    if pace == Pace::Quick {
        command
            .env("PYROGRAPH_LEASE_TTL_MS", "3000")
            .env("PYROGRAPH_LEASE_BEAT_MS", "500")
            .env("PYROGRAPH_REAPER_TICK_MS", "500");
    }
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

/// A port of the loopback interface that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
