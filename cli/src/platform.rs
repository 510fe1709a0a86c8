//! Everything on one machine: services, API and one worker, started and stopped in order. Used by `up` and the demo.
//!
//! The worker is a separate process, as in production, so that it cannot affect API or S3 (an engine that uses all
//! memory, a kill in a test). It holds the other end of a pipe from this process and stops when the pipe closes, also
//! if this process is killed.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use api::Names;
use domain::{Caller, ProjectId, session};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::commands::engine_flags::EngineFlags;
use crate::commands::listen_flags::{Bind, ListenFlags};
use crate::commands::worker;
use crate::configuration::{SERVICE_VARIABLES, hub, named_worker_dir, names, prices, variable};
use crate::failure::{EXIT_USAGE, Failure};
use crate::installation::{self, Installation};
use crate::key::Key;
use crate::server::{Admits, Server, listen};
use crate::{local_key, page_access, signal};

/// How long the worker may take to finish or return its job: the limits of [`worker::WITH_PARENT`], and the time to
/// write that to the database, which may be away.
const WORKER_FAREWELL: Duration = Duration::from_secs(35);
/// How long responses may take to finish.
const FAREWELL: Duration = Duration::from_secs(10);
/// A worker that ran at least this long and died is restarted at once.
const STEADY: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The process of the worker, for the last words of a process that exits at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerProcess(Arc<AtomicI32>);

impl WorkerProcess {
    const NONE: i32 = 0;

    fn set(&self, child: &Child) {
        self.0.store(child.id().map_or(Self::NONE, |id| id as i32), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(Self::NONE, Ordering::Relaxed);
    }

    /// Kills it. Its engine exits as soon as the pipe between them closes.
    fn kill(&self) {
        if let Some(id) = Pid::from_raw(self.0.load(Ordering::Relaxed)) {
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

/// When to stop the platform in `folder`, and the process that its worker will be. A second signal kills that and stops
/// Postgres.
pub(crate) fn stop_token(folder: &Path) -> (CancellationToken, WorkerProcess) {
    let (folder, worker) = (folder.to_owned(), WorkerProcess::default());
    let killed = worker.clone();
    let stop = signal::stop_token(move || {
        killed.kill();
        installation::quit(&folder);
    });
    (stop, worker)
}

/// Services, API and worker, running.
pub(crate) struct Platform {
    installation: Installation,
    server: Server,
    stop_worker: CancellationToken,
    /// Ends on request, or if no worker can ever work with this configuration.
    worker: JoinHandle<()>,
    /// Makes the key for commands of this user when it is needed.
    local_key: JoinHandle<()>,
}

impl Platform {
    /// Starts all of it on `data_dir`, with the API where `flags` say. The worker logs as `log` says, unless
    /// PYROGRAPH_LOG is set. Its process becomes `process`.
    pub(crate) async fn start(
        data_dir: &Path,
        flags: &ListenFlags,
        engine: &EngineFlags,
        log: &str,
        process: WorkerProcess,
    ) -> Result<Self, Failure> {
        let worker_dir = named_worker_dir()?.unwrap_or_else(|| data_dir.join("worker"));
        worker::config(engine, worker_dir.clone())?;
        names(flags.bind.ip())?;
        if let Bind::Socket(_) = flags.bind {
            let message =
                "`up` listens at an address, where commands of its user reach it; a Unix socket is for `serve`";
            return Err(Failure::Usage(message.to_owned()));
        }
        hub()?;
        prices()?;
        let listener = listen(flags).await?;
        let program = std::env::current_exe().context("could not find the path of this program")?;
        let installation = Installation::open(data_dir).await?;
        // A worker of the last `up` may have been killed with it.
        let dead = ::worker::dead(&worker_dir);
        let server = match Server::start(listener, installation.services(), flags, &dead).await {
            Ok(server) => server,
            Err(failure) => {
                let _ = installation.close().await;
                return Err(failure);
            }
        };
        if page_access::is_needed(installation.services()) {
            tokio::spawn(page_access::set(installation.services().clone(), server.names.clone(), server.url()));
        }
        let local_key =
            tokio::spawn(local_key::keep(server.database(), installation.folder().to_owned(), server.url()));
        let stop_worker = CancellationToken::new();
        let command = worker_command(&program, installation.folder(), engine, log);
        let worker = tokio::spawn(keep_worker(command, process, stop_worker.clone()));
        Ok(Self { installation, server, stop_worker, worker, local_key })
    }

    /// Address of the API on this machine.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The key for commands of this user, if one is needed.
    pub(crate) async fn key(&self) -> Result<Option<Key>, Failure> {
        local_key::make(&self.server.database(), self.folder(), &self.url()).await
    }

    /// A link with which a browser logs in at `server`, if a key is needed.
    pub(crate) async fn login_link(&self, server: &str) -> Result<Option<String>, Failure> {
        if self.key().await?.is_none() {
            return Ok(None);
        }
        let operator = Caller::operator(ProjectId::DEFAULT);
        let link = session::create_link(&operator, &self.server.database()).await.context("the database")?;
        Ok(Some(format!("{server}/#login={}", link.reveal())))
    }

    /// Whose requests are served.
    pub(crate) fn admits(&self) -> Admits {
        self.server.admits
    }

    /// The names under which others reach the API.
    pub(crate) fn names(&self) -> &Names {
        &self.server.names
    }

    pub(crate) fn storage_endpoint(&self) -> &str {
        &self.installation.services().storage.endpoint
    }

    pub(crate) fn folder(&self) -> &Path {
        self.installation.folder()
    }

    /// Where the database is if it is not in the folder.
    pub(crate) fn database_outside(&self) -> Option<&Path> {
        self.installation.database_outside()
    }

    /// Waits until the API stops unexpectedly, or the worker reports that it can never work.
    pub(crate) async fn ended(&mut self) -> Failure {
        tokio::select! {
            () = self.server.ended() => {
                Failure::Failed(anyhow::anyhow!("the API stopped unexpectedly; see the log"))
            }
            _ = &mut self.worker => {
                Failure::Usage("the worker cannot work with this configuration; see its message above".to_owned())
            }
        }
    }

    /// Stops worker, API, S3 and Postgres, in this order.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.local_key.abort();
        self.installation.stopping();
        self.stop_worker.cancel();
        if !self.worker.is_finished() {
            let _ = self.worker.await;
        }
        self.server.stop(FAREWELL).await;
        self.installation.close().await
    }
}

/// This program, started as the worker of the installation in `folder`. It runs in a separate process group, so that
/// Ctrl-C at the terminal reaches this process only.
fn worker_command(program: &Path, folder: &Path, engine: &EngineFlags, log: &str) -> Command {
    let mut command = Command::new(program);
    if variable("PYROGRAPH_LOG").is_none() {
        command.env("PYROGRAPH_LOG", log);
    }
    // It reads them from the data folder: the environment may name one service and not the other.
    for variable in SERVICE_VARIABLES {
        command.env_remove(variable).env_remove(format!("{variable}_FILE"));
    }
    command.arg("worker").arg("--data-dir").arg(folder).args(engine.arguments()).arg("--with-parent");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

/// Runs the worker until `stop`, and restarts it when it dies. Returns when it reports that its command line or
/// environment is wrong, which every restart would report again.
async fn keep_worker(mut command: Command, process: WorkerProcess, stop: CancellationToken) {
    let mut pause = Duration::ZERO;
    while !stop.is_cancelled() {
        let since = Instant::now();
        let mut was_asked = false;
        match command.spawn() {
            Ok(mut child) => {
                process.set(&child);
                // Taken out of the child, since `wait` would close it, and a worker stops when its stdin closes.
                let lifeline = child.stdin.take();
                tokio::select! {
                    ended = child.wait() => match ended {
                        Ok(status) if status.code() == Some(EXIT_USAGE.into()) => return,
                        Ok(status) if is_of_request(status) => was_asked = true,
                        Ok(status) => tracing::error!(%status, "the worker exited, restarting it"),
                        Err(error) => tracing::error!(%error, "the worker was lost, restarting it"),
                    },
                    () = stop.cancelled() => say_farewell(child, lifeline).await,
                }
                process.clear();
            }
            Err(error) => tracing::error!(%error, "the worker did not start"),
        }
        // The request may have been for this process too, and arrive here last.
        pause = if since.elapsed() > STEADY && !was_asked {
            Duration::ZERO
        } else {
            (pause * 2).clamp(Duration::from_millis(500), LONGEST_PAUSE)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => continue,
        }
        if was_asked {
            tracing::warn!("a signal from elsewhere has stopped the worker; starting it again");
        }
    }
}

/// Whether a worker ended because it was asked to: in order, or by the signal itself if that came very early.
fn is_of_request(status: ExitStatus) -> bool {
    let requests = [Signal::HUP, Signal::INT, Signal::TERM].map(Signal::as_raw);
    status.success() || status.signal().is_some_and(|signal| requests.contains(&signal))
}

/// Closes the pipe, which asks the worker to return its job and exit; kills it if it does not.
async fn say_farewell(mut child: Child, lifeline: Option<ChildStdin>) {
    drop(lifeline);
    if tokio::time::timeout(WORKER_FAREWELL, child.wait()).await.is_err() {
        tracing::warn!("the worker did not stop in time and is killed; its job is retried at the next start");
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use clap::Parser;

    use super::*;

    #[test]
    fn the_worker_reads_its_services_from_the_folder() {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            engine: EngineFlags,
        }
        let line = Line::parse_from(["up"]);
        let command = worker_command(Path::new("pyrograph"), Path::new("/data"), &line.engine, "info");
        let removed: Vec<_> =
            command.as_std().get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        for name in ["DATABASE_URL", "DATABASE_URL_FILE", "PYROGRAPH_DATABASE_DIRECT_URL", "PYROGRAPH_S3_BUCKET"] {
            assert!(removed.contains(&OsStr::new(name)), "{name}: {removed:?}");
        }
    }

    #[tokio::test]
    async fn a_worker_that_dies_is_started_again_and_one_that_can_never_work_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let starts = folder.path().join("starts");
        // It crashes at its first start and is refused at its second.
        let mut worker = Command::new("/bin/sh");
        worker.args(["-c", r#"echo >>"$0"; [ "$(wc -l <"$0")" -lt 2 ] && exit 1; exit 2"#]).arg(&starts);
        let keeping = keep_worker(worker, WorkerProcess::default(), CancellationToken::new());
        let kept = tokio::time::timeout(Duration::from_secs(30), keeping);
        kept.await.expect("it was started for ever");
        assert_eq!(std::fs::read_to_string(&starts).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_worker_of_up_has_time_to_finish() {
        let drain = worker::WITH_PARENT;
        assert!(
            WORKER_FAREWELL >= drain.finish.max(drain.suspend) + Duration::from_secs(10),
            "it is killed before it is done"
        );
    }

    #[test]
    fn an_end_on_request_is_no_crash() {
        let of = ExitStatus::from_raw;
        assert!([0, 1, 2, 15].into_iter().all(|wait| is_of_request(of(wait))), "exit code 0, or those signals");
        assert!(![1 << 8, 9, 11].into_iter().any(|wait| is_of_request(of(wait))), "exit code 1, kill, crash");
    }
}
