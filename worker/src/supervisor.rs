//! Keeps one engine process alive and communicates with it.
//!
//! The supervisor starts the child early, exchanges versions with it, gives it one request at a time, and replaces it
//! when it dies, hangs or has to be killed. It handles processes, pipes and time limits, and knows nothing of leases,
//! the database or jobs. A child cannot outlive it: the child's stdin closes with this process, however it ends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::engine_log;
use crate::protocol::{self, FailureClass, FrameError, Order, PROTOCOL_VERSION, Report, RequestId, Resident};

/// How long a child may take to open its device and report that it is ready. The first CUDA start compiles kernels.
const READY_LIMIT: Duration = Duration::from_mins(2);
/// How long a child may take to exit after it was asked to.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// Pause before a restart; it doubles while children fail to start.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The signal with which the system ends a process when memory runs out.
const SIGKILL: i32 = 9;

/// The command line of the child.
#[derive(Debug, Clone)]
pub struct EngineCommand {
    /// The program: this same binary.
    pub program: PathBuf,
    /// Its arguments, such as `engine --device cpu`.
    pub arguments: Vec<OsString>,
    /// Environment variables in addition to the inherited ones.
    pub environment: Vec<(OsString, OsString)>,
}

/// Work for the engine: the order, built from the request number, and how long the engine may send no report.
pub struct Work {
    order: Box<dyn FnOnce(RequestId) -> Order + Send>,
    patience: Patience,
}

/// The no-progress watchdog of one piece of work.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Limit before the first step, while a model is read from disk or examples are encoded.
    pub before_first_step: Duration,
    /// Limit between later reports.
    pub between_steps: Duration,
}

impl Work {
    /// `order` must put the given number into the order.
    pub fn new(patience: Patience, order: impl FnOnce(RequestId) -> Order + Send + 'static) -> Self {
        Self { order: Box::new(order), patience }
    }
}

/// An event of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The engine sent a report about this request.
    Report(Report),
    /// The engine is gone, and the work with it. No event follows.
    Exited(EngineExit),
}

/// Why an engine is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineExit {
    /// It exited by itself, or broke the protocol; the sentence explains how.
    Crashed(String),
    /// It made no progress within the limit, and was killed.
    Silent(Duration),
    /// The session's owner ended it.
    Killed,
}

enum Control {
    Cancel,
    Suspend,
    Kill,
}

/// One request to the engine. Dropping it before its last event kills the engine, since nobody would receive the
/// result.
pub struct Session {
    events: mpsc::Receiver<Event>,
    control: mpsc::UnboundedSender<Control>,
}

impl Session {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Asks the engine to stop at the next step.
    pub fn cancel(&self) {
        let _ = self.control.send(Control::Cancel);
    }

    /// Asks a training to stop with a checkpoint at the next step.
    pub fn suspend(&self) {
        let _ = self.control.send(Control::Suspend);
    }

    /// Ends the engine at once.
    pub fn kill(&self) {
        let _ = self.control.send(Control::Kill);
    }
}

/// Properties of the running engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its device, for display.
    pub device: String,
    /// What it may use, if its memory is known.
    pub budget: Option<memory::Budget>,
    /// Process id of the child.
    pub process: Option<u32>,
}

struct Assignment {
    work: Work,
    events: mpsc::Sender<Event>,
    control: mpsc::UnboundedReceiver<Control>,
}

/// A handle to the supervisor.
#[derive(Clone)]
pub struct Engine {
    assignments: mpsc::Sender<Assignment>,
    up: watch::Receiver<Option<EngineInfo>>,
    resident: watch::Receiver<Vec<Resident>>,
}

impl Engine {
    /// Starts the supervisor and, at once, the child. When `stop` is cancelled, the child and the task end.
    pub fn start(command: EngineCommand, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (assignments, inbox) = mpsc::channel(1);
        let (up, is_up) = watch::channel(None);
        let (told, resident) = watch::channel(Vec::new());
        let supervisor = Supervisor { command, inbox, up, resident: told, next_request: 1 };
        let task = tokio::spawn(supervisor.run(stop));
        (Self { assignments, up: is_up, resident }, task)
    }

    /// Waits until a child is running and has opened its device. `None` when the supervisor has ended.
    pub async fn ready(&self) -> Option<EngineInfo> {
        let mut up = self.up.clone();
        let info = up.wait_for(Option::is_some).await.ok()?;
        info.clone()
    }

    /// The engine that is running now.
    pub fn info(&self) -> Option<EngineInfo> {
        self.up.borrow().clone()
    }

    /// The loaded models; none as soon as the engine is gone.
    pub fn resident(&self) -> watch::Receiver<Vec<Resident>> {
        self.resident.clone()
    }

    /// Assigns work; it begins when the engine is ready. `None` when the supervisor has ended.
    pub async fn begin(&self, work: Work) -> Option<Session> {
        // Large enough that a slow reader does not delay the engine's steps.
        let (events, inbox) = mpsc::channel(1024);
        let (control, wishes) = mpsc::unbounded_channel();
        self.assignments.send(Assignment { work, events, control: wishes }).await.ok()?;
        Some(Session { events: inbox, control })
    }
}

struct Supervisor {
    command: EngineCommand,
    inbox: mpsc::Receiver<Assignment>,
    up: watch::Sender<Option<EngineInfo>>,
    resident: watch::Sender<Vec<Resident>>,
    next_request: RequestId,
}

impl Supervisor {
    async fn run(mut self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = tokio::select! {
                started = Running::start(&self.command, &self.resident) => started,
                () = stop.cancelled() => return,
            };
            match started {
                Ok((mut child, info)) => {
                    tracing::info!(device = info.device, process = info.process, "engine ready");
                    self.up.send_replace(Some(info));
                    let stopped = self.serve(&mut child, &stop).await;
                    self.up.send_replace(None);
                    child.end(stopped).await;
                    self.resident.send_replace(Vec::new());
                    if stopped {
                        return;
                    }
                    pause = FIRST_PAUSE;
                }
                Err(reason) => tracing::error!(reason, "the engine does not start"),
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Serves assignments until the child has to be replaced (false) or the worker stops (true).
    async fn serve(&mut self, child: &mut Running, stop: &CancellationToken) -> bool {
        loop {
            tokio::select! {
                () = stop.cancelled() => return true,
                heard = child.reports.recv() => match heard {
                    // A late report about a request whose session has ended.
                    Some(Ok(report)) => tracing::debug!(?report, "the idle engine spoke"),
                    Some(Err(error)) => {
                        tracing::error!(error, "the idle engine broke the protocol");
                        return false;
                    }
                    None => {
                        let words = child.last_words().await;
                        tracing::error!(words, "the idle engine ended");
                        return false;
                    }
                },
                assignment = self.inbox.recv() => {
                    let Some(assignment) = assignment else { return true };
                    if assignment.events.is_closed() {
                        // Its owner did not wait for this engine.
                        continue;
                    }
                    let request = self.next_request;
                    self.next_request += 1;
                    if let Err(exit) = child.attend(request, assignment).await {
                        tracing::warn!(?exit, "the engine is replaced");
                        return false;
                    }
                }
            }
        }
    }
}

/// A child that has reported that it is ready.
struct Running {
    child: Child,
    orders: ChildStdin,
    /// Read by a separate task, since half a frame must not be lost when something else happens first.
    reports: mpsc::Receiver<Result<Report, String>>,
    reading: JoinHandle<()>,
    logging: JoinHandle<String>,
}

impl Running {
    async fn start(
        command: &EngineCommand,
        resident: &watch::Sender<Vec<Resident>>,
    ) -> Result<(Self, EngineInfo), String> {
        let mut started = Command::new(&command.program);
        started
            .args(&command.arguments)
            .envs(command.environment.iter().map(|(name, value)| (name, value)))
            // The engine needs no access to the Hub.
            .env_remove("HF_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A separate process group: Ctrl-C in a terminal goes to the worker, which lets the engine finish.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = started.spawn().map_err(|error| format!("{}: {error}", command.program.display()))?;
        let (Some(orders), Some(output), Some(log)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("no pipes to the child".into());
        };
        let process = child.id();
        let logging = tokio::spawn(engine_log::pass_on(log, process));
        let (reading, reports) = read_reports(output, resident.clone());
        let mut running = Self { child, orders, reports, reading, logging };
        match timeout(READY_LIMIT, running.shake_hands()).await {
            Ok(Ok((device, budget))) => Ok((running, EngineInfo { device, budget, process })),
            Ok(Err(reason)) => {
                running.end(false).await;
                Err(reason)
            }
            Err(_) => {
                running.end(false).await;
                Err(format!("no answer within {} s", READY_LIMIT.as_secs()))
            }
        }
    }

    /// The device, and how much of its memory may be used.
    async fn shake_hands(&mut self) -> Result<(String, Option<memory::Budget>), String> {
        let hello = Order::Hello { version: PROTOCOL_VERSION };
        if protocol::send(&mut self.orders, &hello).await.is_err() {
            return Err(self.last_words().await);
        }
        match self.reports.recv().await {
            Some(Ok(Report::Ready { version: PROTOCOL_VERSION, device, why, budget })) => {
                if let Some(why) = why {
                    tracing::info!(device, why, "why this device");
                }
                Ok((device, budget))
            }
            Some(Ok(Report::Ready { version, .. })) => {
                Err(format!("it speaks protocol version {version}, this worker {PROTOCOL_VERSION}"))
            }
            Some(Ok(other)) => Err(format!("it said {other:?} instead of ready")),
            Some(Err(error)) => Err(error),
            None => Err(self.last_words().await),
        }
    }

    /// Runs one request to its end. An error means that this child cannot be used any more; the session has been
    /// notified.
    async fn attend(&mut self, request: RequestId, assignment: Assignment) -> Result<(), EngineExit> {
        let Assignment { work, events, mut control } = assignment;
        let outcome = self.converse(request, work, &events, &mut control).await;
        if let Err(exit) = &outcome {
            // The child is dead before the session is notified: from then on, the work has no more effects.
            self.kill().await;
            let _ = events.send(Event::Exited(exit.clone())).await;
        }
        outcome
    }

    async fn converse(
        &mut self,
        request: RequestId,
        work: Work,
        events: &mpsc::Sender<Event>,
        control: &mut mpsc::UnboundedReceiver<Control>,
    ) -> Result<(), EngineExit> {
        let order = (work.order)(request);
        match self.tell(&order).await {
            Ok(()) => {}
            Err(NotTold::TooLong(message)) => {
                let refused = Report::Failed { request, class: FailureClass::InvalidInput, message, memory: None };
                let _ = events.send(Event::Report(refused)).await;
                return Ok(());
            }
            Err(NotTold::Exited(exit)) => return Err(exit),
        }
        let mut limit = work.patience.before_first_step;
        let mut silent_until = Instant::now() + limit;
        loop {
            tokio::select! {
                heard = self.reports.recv() => match heard {
                    Some(Ok(report)) if report.request() == Some(request) => {
                        if let Report::Progress { .. } = report {
                            limit = work.patience.between_steps;
                        }
                        silent_until = Instant::now() + limit;
                        let last = report.is_last();
                        if events.send(Event::Report(report)).await.is_err() {
                            return if last { Ok(()) } else { Err(EngineExit::Killed) };
                        }
                        if last {
                            return Ok(());
                        }
                    }
                    Some(Ok(stale)) => tracing::debug!(?stale, "about another request"),
                    Some(Err(error)) => return Err(EngineExit::Crashed(error)),
                    None => return Err(EngineExit::Crashed(self.last_words().await)),
                },
                order = control.recv() => match order {
                    Some(Control::Cancel) => self.tell(&Order::Cancel { request }).await.map_err(NotTold::into_exit)?,
                    Some(Control::Suspend) => self.tell(&Order::Suspend { request }).await.map_err(NotTold::into_exit)?,
                    // Dropping the session kills the engine.
                    Some(Control::Kill) | None => return Err(EngineExit::Killed),
                },
                () = sleep_until(silent_until) => return Err(EngineExit::Silent(limit)),
            }
        }
    }

    /// Sends an order; a child that does not read it is treated as dead.
    async fn tell(&mut self, order: &Order) -> Result<(), NotTold> {
        match timeout(READY_LIMIT, protocol::send(&mut self.orders, order)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ FrameError::TooLong(_))) => Err(NotTold::TooLong(error.to_string())),
            Ok(Err(error)) => {
                let words = self.last_words().await;
                Err(NotTold::Exited(EngineExit::Crashed(format!("{words} ({error})"))))
            }
            Err(_) => Err(NotTold::Exited(EngineExit::Crashed("it takes no orders".into()))),
        }
    }

    /// How the child ended, with the last line it logged.
    async fn last_words(&mut self) -> String {
        let status = match timeout(FAREWELL_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) => describe(status),
            Ok(Err(error)) => format!("its end could not be seen: {error}"),
            Err(_) => {
                self.kill().await;
                "it closed its pipe and went on".into()
            }
        };
        let log = timeout(FAREWELL_LIMIT, &mut self.logging).await;
        match log {
            Ok(Ok(line)) if !line.is_empty() => format!("{status}; last log line: {line}"),
            _ => status,
        }
    }

    async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::debug!(%error, "the engine is gone already");
        }
    }

    /// Ends the child: gracefully if it is idle and the worker stops, otherwise at once.
    async fn end(mut self, in_peace: bool) {
        if in_peace {
            let _ = protocol::send(&mut self.orders, &Order::Shutdown).await;
            let _ = timeout(FAREWELL_LIMIT, self.child.wait()).await;
        }
        self.kill().await;
        self.reading.abort();
        // Its reports are not read from here on.
        let _ = self.reading.await;
    }
}

/// Why an order did not reach the child.
enum NotTold {
    /// The order itself is at fault; the child is not affected.
    TooLong(String),
    Exited(EngineExit),
}

impl NotTold {
    fn into_exit(self) -> EngineExit {
        match self {
            Self::TooLong(message) => EngineExit::Crashed(message),
            Self::Exited(exit) => exit,
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the engine exited with code {code}"),
        (None, Some(SIGKILL)) => {
            format!("the engine was ended by signal {SIGKILL}, probably by the system because memory ran out")
        }
        (None, Some(signal)) => format!("the engine was ended by signal {signal}"),
        (None, None) => "the engine ended".into(),
    }
}

/// Records the loaded models on the way, so that they are known before the end of a request is received.
fn read_reports(
    mut output: ChildStdout,
    resident: watch::Sender<Vec<Resident>>,
) -> (JoinHandle<()>, mpsc::Receiver<Result<Report, String>>) {
    let (reports, inbox) = mpsc::channel(64);
    let task = tokio::spawn(async move {
        loop {
            let report = match protocol::receive::<Report>(&mut output).await {
                Ok(Some(Report::Resident { models })) => {
                    resident.send_replace(models);
                    continue;
                }
                Ok(Some(report)) => Ok(report),
                Ok(None) => return,
                // A child that dies in the middle of a frame has crashed; the truncated frame is not worth reporting.
                Err(protocol::FrameError::Pipe(error)) => {
                    tracing::debug!(%error, "pipe to the engine broke");
                    return;
                }
                Err(error) => Err(error.to_string()),
            };
            let broken = report.is_err();
            if reports.send(report).await.is_err() || broken {
                return;
            }
        }
    });
    (task, inbox)
}
