//! The engine: a child process that owns the device and runs the models, one request after another.
//!
//! It knows files on the local disk and the messages of [`crate::protocol`], but no database, storage or jobs. One
//! thread (the caller's) owns the device; a second one reads stdin, so that a cancel is seen while the device is busy.
//! When stdin closes, the process exits at once, even in the middle of a step: an engine never outlives its worker. It
//! ignores signals that ask it to stop (SIGTERM, SIGINT, SIGHUP): an init system sends them to all processes of a
//! service, and the worker still needs its engine to finish pictures and to store a checkpoint.

mod control_group;
mod fault;
mod generate;
mod machine;
mod model_cache;
mod models;
mod picture;
mod preview;
mod swap;
#[cfg(test)]
mod tests;
mod train;

use std::any::Any;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use diffusion::checkpoint::{BytesRead, Reading};
use diffusion::device::{DeviceChoice, OpenDevice};
use memory::{Budget, Offload, WeightChoice};

pub use self::fault::Fault;
use self::models::Models;
use crate::cache::is_disk_full;
use crate::protocol::{self, Base, FailureClass, Order, PROTOCOL_VERSION, Report, RequestId, Resident};

/// The exit code of an engine whose device can no longer be trusted. A sticky CUDA error can only be cleared by a new
/// process.
pub const EXIT_BROKEN_DEVICE: u8 = 70;

/// Minimum time between two reports about the reading of weights, and before the first one.
const READ_REPORT: Duration = Duration::from_secs(1);

/// How an engine is started.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The requested device.
    pub device: DeviceChoice,
    /// Folder where compiled kernels are kept for the next engine.
    pub kernels: Option<PathBuf>,
    /// Limit on the device's memory in bytes, for weights and activations; `None` takes most of what there is.
    pub vram_budget: Option<u64>,
    /// How the weights of denoisers are stored.
    pub weights: WeightChoice,
    /// What may be in host memory beside a card.
    pub offload: Offload,
    /// A failure to inject, for tests.
    pub fault: Option<Fault>,
}

/// Serves stdin and stdout until the worker closes them. The body of the hidden `pyrograph engine` command.
pub fn run(config: EngineConfig) -> ExitCode {
    diffusion::device::join_pool(Some(control_group::threads(Path::new(control_group::SYSTEM))));
    if let Some(folder) = &config.kernels {
        diffusion::device::keep_kernels(folder);
    }
    match stdout_for_reports() {
        Ok(output) => serve(std::io::stdin(), output, config, end_at_once),
        Err(error) => {
            tracing::error!(%error, "no pipe to the worker");
            ExitCode::FAILURE
        }
    }
}

/// Reserves stdout for the protocol: anything that a library prints from now on goes to stderr.
fn stdout_for_reports() -> std::io::Result<File> {
    let output = rustix::io::dup(std::io::stdout())?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    Ok(File::from(output))
}

/// Skips exit handlers: those of a GPU driver wait for kernels whose results nobody needs any more.
fn end_at_once() {
    let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    if killed.is_err() {
        std::process::exit(0);
    }
}

/// Serves one pair of pipes. `orphaned` is called on the reading thread when the worker is gone.
fn serve(
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    config: EngineConfig,
    orphaned: impl FnOnce() + Send + 'static,
) -> ExitCode {
    let session = Arc::new(EngineSession::new(output, config.fault.unwrap_or_default()));
    let (orders, inbox) = mpsc::channel();
    let reader = Arc::clone(&session);
    std::thread::spawn(move || {
        reader.read_orders(input, &orders);
        orphaned();
    });
    // After the reading thread has started: a driver that hangs must not keep an engine whose worker is gone.
    let device = match diffusion::device::open(config.device) {
        Ok(device) => device,
        Err(error) => {
            tracing::error!(%error, "no device");
            return ExitCode::FAILURE;
        }
    };
    let is_gpu = is_gpu(&device);
    let bytes = config.vram_budget.or_else(|| machine::usual(is_gpu));
    if bytes.is_none() {
        tracing::warn!(
            "the card does not tell its memory, so nothing is refused before it runs out; set --vram-budget"
        );
    }
    if let Some(warning) = bytes.filter(|_| !is_gpu).and_then(machine::too_much) {
        tracing::warn!("{warning}");
    }
    let budget = Budget {
        bytes: bytes.unwrap_or(u64::MAX),
        host: is_gpu.then(machine::usual_host),
        compute: diffusion::device::compute_type(&device.device),
        weights: config.weights,
        offload: config.offload,
    };
    let mut models = Models::new(device, budget, reading(&session));
    for order in inbox {
        match order {
            Order::Hello { version } if version == PROTOCOL_VERSION => {
                session.report(&ready(models.device(), bytes.map(|_| budget)));
            }
            Order::Hello { version } => {
                tracing::error!(version, ours = PROTOCOL_VERSION, "the worker speaks another protocol version");
                return ExitCode::FAILURE;
            }
            Order::Generate(order) => {
                let broken = session.attend(order.request, &mut models, |models| {
                    generate::run(models, &order, &session).map_err(|error| in_model(&order.base, error))
                });
                if broken {
                    return ExitCode::from(EXIT_BROKEN_DEVICE);
                }
            }
            Order::Train(order) => {
                let broken = session.attend(order.request, &mut models, |models| {
                    train::run(models, &order, &session).map_err(|error| in_model(&order.base, error))
                });
                if broken {
                    return ExitCode::from(EXIT_BROKEN_DEVICE);
                }
            }
            Order::Load { request, base } => {
                let load = |models: &mut Models| swap::load(models, &base).map_err(|error| in_model(&base, error));
                if session.attend(request, &mut models, load) {
                    return ExitCode::from(EXIT_BROKEN_DEVICE);
                }
            }
            Order::Unload { request, sha256 } => {
                if session.attend(request, &mut models, |models| swap::unload(models, &sha256)) {
                    return ExitCode::from(EXIT_BROKEN_DEVICE);
                }
            }
            Order::Cancel { .. } | Order::Suspend { .. } => {}
            Order::Shutdown => break,
        }
    }
    ExitCode::SUCCESS
}

fn ready(device: &OpenDevice, budget: Option<Budget>) -> Report {
    let (device, why) = (device.name.clone(), device.why.clone());
    Report::Ready { version: PROTOCOL_VERSION, device, why, budget }
}

/// How a request ended if it did not fail.
enum End {
    Done,
    Canceled,
    Suspended,
}

/// Reports the reading of weights, and ends it when the worker wants the current request to stop.
fn reading(session: &Arc<EngineSession>) -> Reading {
    let session = Arc::clone(session);
    Reading::followed_by(move |read| {
        session.fault.at_read();
        let request = session.current.load(Ordering::Relaxed);
        // A training that is to be suspended has nothing to store yet.
        if session.signal(request) != Signal::GoOn {
            return ControlFlow::Break(());
        }
        if let Some(read) = read {
            session.report_reading(request, read);
        }
        ControlFlow::Continue(())
    })
}

/// What the worker wants from the current request, checked between two steps and while weights are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    GoOn,
    Cancel,
    Suspend,
}

/// The engine's side of the conversation: outgoing reports, incoming stop requests, and the injected fault.
struct EngineSession {
    output: Mutex<Box<dyn Write + Send>>,
    /// The last request to cancel and to suspend; request numbers start at 1.
    canceled: AtomicU64,
    suspended: AtomicU64,
    /// The current request.
    current: AtomicU64,
    /// The last report about the reading of weights in the current request, and when it was sent.
    reading_reported: Mutex<Option<(BytesRead, Instant)>>,
    /// The loaded models as last reported to the worker.
    resident: Mutex<Vec<Resident>>,
    fault: Fault,
}

impl EngineSession {
    fn new(output: impl Write + Send + 'static, fault: Fault) -> Self {
        Self {
            output: Mutex::new(Box::new(output)),
            canceled: AtomicU64::new(0),
            suspended: AtomicU64::new(0),
            current: AtomicU64::new(0),
            reading_reported: Mutex::default(),
            resident: Mutex::default(),
            fault,
        }
    }

    /// Forwards orders until the pipe closes. Cancel and suspend take effect here and bypass the queue.
    fn read_orders(&self, mut input: impl Read, orders: &mpsc::Sender<Order>) {
        loop {
            match protocol::read::<Order>(&mut input) {
                Ok(Some(order)) => {
                    match order {
                        Order::Cancel { request } => self.canceled.store(request, Ordering::Relaxed),
                        Order::Suspend { request } => self.suspended.store(request, Ordering::Relaxed),
                        _ => {}
                    }
                    if orders.send(order).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot understand the worker");
                    return;
                }
            }
        }
    }

    /// Sends a report to the worker. If that fails, the worker is gone; the reading thread notices and ends the
    /// process.
    fn report(&self, report: &Report) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = protocol::write(&mut *output, report) {
            tracing::error!(%error, "cannot reach the worker");
        }
    }

    /// Reports the loaded models if they have changed.
    fn tell_resident(&self, models: Vec<Resident>) {
        let mut told = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != models {
            told.clone_from(&models);
            self.report(&Report::Resident { models });
        }
    }

    /// Reports the bytes read, if reading takes longer than [`READ_REPORT`] and the last report is as long ago. The end
    /// is reported if anything before it was.
    fn report_reading(&self, request: RequestId, read: BytesRead) {
        let BytesRead { bytes, total_bytes, began } = read;
        let mut reported = self.reading_reported.lock().unwrap_or_else(PoisonError::into_inner);
        let is_all = bytes == total_bytes;
        let is_due = match *reported {
            // Several threads read, and an older count may arrive after a newer one.
            Some((last, at)) if last.began == began => bytes > last.bytes && (is_all || at.elapsed() >= READ_REPORT),
            _ => !is_all && began.elapsed() >= READ_REPORT,
        };
        if !is_due {
            return;
        }
        *reported = Some((read, Instant::now()));
        // Before the lock is released, so that reports are sent in their order.
        self.report(&Report::Reading { request, bytes, total_bytes, seconds: began.elapsed().as_secs_f64() });
    }

    fn signal(&self, request: RequestId) -> Signal {
        if self.canceled.load(Ordering::Relaxed) == request {
            Signal::Cancel
        } else if self.suspended.load(Ordering::Relaxed) == request {
            Signal::Suspend
        } else {
            Signal::GoOn
        }
    }

    /// Runs one request and reports how it ended. Returns true if the device must not be used any more.
    fn attend(
        &self,
        request: RequestId,
        models: &mut Models,
        work: impl FnOnce(&mut Models) -> diffusion::Result<End>,
    ) -> bool {
        self.current.store(request, Ordering::Relaxed);
        *self.reading_reported.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.report(&Report::Loading { request });
        // A panic in model code must not end the conversation. Anything that it left half-done is dropped.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut *models)));
        let (report, panicked) = match outcome {
            Ok(Ok(End::Done)) => (Report::Done { request }, false),
            Ok(Err(diffusion::Error::Canceled)) if self.signal(request) == Signal::Suspend => {
                (Report::Suspended { request }, false)
            }
            Ok(Ok(End::Canceled) | Err(diffusion::Error::Canceled)) => (Report::Canceled { request }, false),
            Ok(Ok(End::Suspended)) => (Report::Suspended { request }, false),
            Ok(Err(error)) => {
                tracing::warn!(%error, request, "request failed");
                let memory = match &error {
                    diffusion::Error::Memory { needed, .. } => Some(*needed),
                    _ => None,
                };
                (Report::Failed { request, class: class(&error), message: error.to_string(), memory }, false)
            }
            Err(panic) => {
                models.clear();
                let message = format!("the engine panicked: {}", panic_text(panic.as_ref()));
                (Report::Failed { request, class: FailureClass::Internal, message, memory: None }, true)
            }
        };
        // Before the final report: the worker chooses its next job by the loaded models.
        self.tell_resident(models.list(None));
        self.report(&report);
        panicked && is_gpu(models.device())
    }
}

/// Whether the device is a GPU, whose state does not survive a failure inside a kernel.
fn is_gpu(device: &OpenDevice) -> bool {
    !device.name.to_ascii_lowercase().contains("cpu")
}

/// An error about a file of `base`, with its path within the model.
fn in_model(base: &Base, error: diffusion::Error) -> diffusion::Error {
    error.within(&base.folder, &base.name)
}

/// Which class of failure an error belongs to.
pub(crate) fn class(error: &diffusion::Error) -> FailureClass {
    use diffusion::Error;
    match error {
        // A retry on this machine would find the same memory.
        Error::Memory { .. }
        | Error::Malformed { .. }
        | Error::Weights { .. }
        | Error::Invalid(_)
        | Error::Adapter(_) => FailureClass::InvalidInput,
        Error::File { source, .. } if is_disk_full(source) => FailureClass::Disk,
        // All files of a model were fetched, so another attempt would miss the same one.
        Error::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => FailureClass::InvalidInput,
        Error::File { .. } | Error::Device(_) => FailureClass::Resource,
        Error::Canceled => FailureClass::Internal,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
