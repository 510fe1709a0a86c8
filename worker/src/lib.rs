//! The worker: claims jobs, supervises the engine that does them, and moves bytes in and out.
//!
//! A worker process holds leases and the database connection; a child process, the [`engine`], owns the device. They
//! communicate through [`protocol`]. [`supervisor`] manages the child, [`lease`] and [`attempt`] manage a claimed job,
//! and [`attend`] runs each kind of job: [`generate`], [`train`], [`import`] and [`export`]. Between two jobs, [`swap`]
//! loads and unloads models on request. Jobs arrive through [`backend`], the jobs table as an apalis backend. SQL
//! belongs to `domain`, tensors to `diffusion`; the worker serves no clients.

pub mod attempt;
mod attend;
pub mod backend;
pub mod cache;
mod coalescer;
pub mod config;
mod conversation;
pub mod engine;
mod engine_log;
mod export;
mod fetch;
mod fit;
mod generate;
pub mod health;
mod import;
mod labels;
pub mod lease;
mod output;
pub mod protocol;
mod room;
mod stop;
pub mod supervisor;
mod swap;
mod train;
mod work_dir;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apalis::prelude::{Monitor, WorkerBuilder, WorkerBuilderExt};
use apalis_core::task::data::Data;
use domain::Pools;
use domain::job::{Call, Claim, Doorbell, JobKind, KINDS, Reaper, kind};
use domain::storage::Storage;
use domain::worker::SEEN_EVERY;
use domain::{JobId, WorkerId};
use tokio::sync::{broadcast, watch};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tower::limit::ConcurrencyLimitLayer;

use crate::attempt::WorkerContext;
use crate::backend::{ClaimPolicy, JobBackend};
use crate::cache::Cache;
pub use crate::config::{Drain, HubToken, Imports, Pauses, Silences, WorkerConfig};
pub use crate::engine::{EngineConfig, Fault};
use crate::health::Health;
use crate::supervisor::Engine;
pub use crate::supervisor::EngineCommand;
use crate::swap::Swaps;
use crate::work_dir::WorkDir;

/// The folder of running jobs within a worker's data folder, with a folder for each worker.
const WORK: &str = "work";
/// Time limit for the last messages when the worker stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why a worker does not start: its folder cannot be used. Once it runs, only `shutdown` ends it.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}", path = .path.display())]
pub struct StartError {
    path: PathBuf,
    source: std::io::Error,
}

/// The workers whose processes died on the data folder `folder`. What they left there is removed.
pub fn dead(folder: &Path) -> Vec<WorkerId> {
    ids(&work_dir::remove_abandoned(&folder.join(WORK)).unwrap_or_default())
}

fn ids(names: &[String]) -> Vec<WorkerId> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Runs one worker until `shutdown` is cancelled and its job has ended or was released.
///
/// After `shutdown` nothing more is claimed. Pictures are finished; a training writes a checkpoint and is released. The
/// limits of [`Drain`] apply to both.
pub async fn run(
    mut config: WorkerConfig,
    pools: Pools,
    storage: Storage,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let worker = WorkerId::new();
    config.data_dir = absolute(&config.data_dir)?;
    let work_dir = WorkDir::open(&config.data_dir.join(WORK), &worker.to_string())?;
    for dead in ids(&work_dir.abandoned) {
        if let Err(error) = domain::worker::stopped(&pools.lease, dead).await {
            tracing::warn!(worker = %dead, %error, "a dead worker is listed for a while");
        }
    }
    let cached = config.data_dir.join("cache");
    let cache =
        Cache::open(&cached, config.cache_limit).map_err(|source| StartError { path: cached.clone(), source })?;
    let engine_stop = CancellationToken::new();
    let (engine, supervisor) = Engine::start(config.engine.clone(), engine_stop.clone());
    let (bell, heard) = watch::channel(0_u64);
    let (cancels, _) = broadcast::channel::<JobId>(64);
    let health = Arc::new(Health::new(config.pauses, storage.clone(), &config.data_dir));
    let name = config.name.clone();
    let context = Arc::new(WorkerContext {
        pool: pools.lease.clone(),
        storage,
        cache,
        engine,
        cancels: cancels.clone(),
        health: Arc::clone(&health),
        draining: shutdown.clone(),
        work_dir: Arc::clone(&work_dir.folder),
        config,
    });
    let claims = ClaimPolicy {
        pool: pools.lease.clone(),
        queues: Vec::new(),
        local: false,
        worker,
        lease: context.config.lease,
        bell: heard,
        health,
        engine: None,
        swaps: None,
        stop: shutdown.clone(),
    };
    let ending = CancellationToken::new();
    let listening = tokio::spawn(listen(pools.clone(), bell, cancels));
    let reaping = tokio::spawn(Reaper::new(context.config.lease).run(pools.lease.clone()));
    let showing = tokio::spawn(show_life(Arc::clone(&context), worker, ending.clone()));
    let tidying = tokio::spawn(tidy(Arc::clone(&context)));
    tracing::info!(%worker, name, queues = ?context.config.queues, "worker started");

    let mut monitor = Monitor::new();
    for lane in lanes(&context.config.queues) {
        let engine = lane.engine.then(|| (context.engine.clone(), Swaps::of(Arc::clone(&context), worker)));
        let (engine, swaps) = engine.unzip();
        let claims = ClaimPolicy { queues: lane.kinds, local: lane.local, engine, swaps, ..claims.clone() };
        let (name, attending) = (format!("{name}-{worker}-{}", lane.name), Arc::clone(&context));
        monitor = monitor.register(move |_| {
            WorkerBuilder::new(name.clone())
                .backend(JobBackend::new(claims.clone()))
                .data(Arc::clone(&attending))
                .layer(ConcurrencyLimitLayer::new(lane.at_once))
                .enable_tracing()
                .build(attend)
        });
    }
    let monitor = monitor.should_restart(|_, error| {
        tracing::error!(%error, "the worker runtime failed and starts again");
        true
    });
    let stopped = monitor
        .run_with_signal(async move {
            shutdown.cancelled().await;
            Ok(())
        })
        .await;
    if let Err(error) = stopped {
        tracing::error!(%error, "the worker runtime ended badly");
    }

    engine_stop.cancel();
    let _ = supervisor.await;
    ending.cancel();
    listening.abort();
    reaping.abort();
    tidying.abort();
    let _ = timeout(FAREWELL, showing).await;
    tracing::info!(%worker, "worker stopped");
    Ok(())
}

/// The folder's absolute path, by which messages recognise paths of this machine. Creates the folder.
fn absolute(folder: &Path) -> Result<PathBuf, StartError> {
    std::fs::create_dir_all(folder)
        .and_then(|()| folder.canonicalize())
        .map_err(|source| StartError { path: folder.to_owned(), source })
}

/// Removes files of deleted models from the cache.
async fn tidy(context: Arc<WorkerContext>) {
    let mut ticks = interval(context.config.tidy_every);
    loop {
        ticks.tick().await;
        if let Err(error) = context.cache.remove_abandoned(&context.pool).await {
            tracing::debug!(%error, "files of deleted models stay in the cache for now");
        }
    }
}

/// Jobs that a worker runs independently of its other jobs.
#[derive(Debug, PartialEq)]
struct Lane {
    name: &'static str,
    kinds: Vec<JobKind>,
    /// How many of them run at the same time.
    at_once: usize,
    /// Whether they run on the engine.
    engine: bool,
    /// Whether it takes only those that ask nothing of the network.
    local: bool,
}

/// One lane for all kinds that need the engine, and one for each other kind; a further one for those of its jobs that
/// ask nothing of the network.
fn lanes(queues: &[JobKind]) -> Vec<Lane> {
    let mut engine = Lane { name: "engine", kinds: Vec::new(), at_once: 1, engine: true, local: false };
    let mut lanes = Vec::new();
    for spec in KINDS.iter().filter(|spec| queues.contains(&spec.kind)) {
        let beside = |name, at_once, local| Lane { name, kinds: vec![spec.kind], at_once, engine: false, local };
        match spec.lane {
            kind::Lane::Engine { .. } => engine.kinds.push(spec.kind),
            kind::Lane::Beside { at_once, local_at_once } => {
                lanes.push(beside(spec.collection, at_once, false));
                lanes.push(beside("local", local_at_once, true));
            }
        }
    }
    std::iter::once(engine).chain(lanes).filter(|lane| !lane.kinds.is_empty() && lane.at_once > 0).collect()
}

/// The handler that apalis calls. It runs in a separate task, so that the attempt runs to its end even if the stream
/// that drives it is dropped.
async fn attend(claim: Claim, context: Data<Arc<WorkerContext>>) {
    let context = Arc::clone(&context);
    if let Err(panic) = tokio::spawn(attend::attend(context, claim)).await {
        tracing::error!(%panic, "an attempt panicked; its lease runs out");
    }
}

/// Forwards the doorbell's signals: work to the claim loop, cancels to the holder of that job.
async fn listen(pools: Pools, bell: watch::Sender<u64>, cancels: broadcast::Sender<JobId>) {
    let mut doorbell = Doorbell::listen(&pools.listen).await;
    loop {
        match doorbell.next().await {
            Call::Work => bell.send_modify(|rings| *rings += 1),
            // An error only means that no job is running here.
            Call::Cancel(job) => drop(cancels.send(job)),
        }
    }
}

/// Keeps this worker's row up to date: that it is alive, which models are loaded, and why it pauses. A failure only
/// means an old row.
async fn show_life(context: Arc<WorkerContext>, worker: WorkerId, ending: CancellationToken) {
    let Some(info) = (tokio::select! {
        info = context.engine.ready() => info,
        () = ending.cancelled() => None,
    }) else {
        return;
    };
    let WorkerConfig { name, host, queues, .. } = &context.config;
    let mut registered = false;
    let mut resident = context.engine.resident();
    let mut health = context.health.watch();
    let mut shown = None;
    let mut ticks = interval(SEEN_EVERY);
    loop {
        tokio::select! {
            () = ending.cancelled() => break,
            _ = ticks.tick() => {}
            told = resident.changed(), if registered => if told.is_err() { break },
            _ = health.changed(), if registered => {}
        }
        let told = if registered {
            let paused = context.health.reason();
            let told = if paused == shown {
                Ok(())
            } else {
                domain::worker::pause(&context.pool, worker, paused.as_deref()).await.map(|()| shown = paused)
            };
            told.and(swap::tell_resident(&context, worker).await)
        } else {
            let version = env!("CARGO_PKG_VERSION");
            let budget = info.budget.as_ref();
            domain::worker::register(&context.pool, worker, name, host, &info.device, queues, version, budget).await
        };
        match told {
            Ok(()) => registered = true,
            Err(error) => tracing::debug!(%error, "no sign of life"),
        }
    }
    if registered && let Err(error) = domain::worker::stopped(&context.pool, worker).await {
        tracing::debug!(%error, "no farewell");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_without_an_engine_have_lanes_of_their_own() {
        let lanes = lanes(&JobKind::ALL);
        let [engine, beside @ ..] = lanes.as_slice() else { panic!("{lanes:?}") };
        assert_eq!((engine.kinds.as_slice(), engine.at_once), (&[JobKind::Generation, JobKind::Training][..], 1));
        assert!(beside.iter().all(|lane| !lane.engine && lane.kinds.len() == 1 && lane.at_once >= 1), "{beside:?}");
        let (local, any): (Vec<_>, Vec<_>) = lanes.iter().partition(|lane| lane.local);
        assert_eq!(any.iter().map(|lane| lane.kinds.len()).sum::<usize>(), JobKind::ALL.len());
        assert!(matches!(local[..], [Lane { at_once: 1, .. }]), "imports of files that are here: {local:?}");
        assert!(super::lanes(&[JobKind::Export]).iter().all(|lane| !lane.engine));
        assert!(super::lanes(&[]).is_empty());
    }
}
