//! One attempt at a job, whatever its kind: hold the lease, have a folder, report progress, and end it in the database.
//!
//! Every effect goes through `domain` and carries the claim, so an attempt whose lease is lost changes nothing. How
//! a claim becomes pictures, adapters or models is the business of [`crate::generate`],
//! [`crate::train`], [`crate::import`] and [`crate::export`].

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::JobId;
use domain::job::{self, Claim, ErrorClass, JobKind};
use domain::storage::{Storage, Written};
use md5::{Digest, Md5};
use serde_json::Value;
use sqlx::PgPool;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, CacheError};
use crate::coalescer::Coalescer;
use crate::config::WorkerConfig;
use crate::conversation::Conversation;
use crate::lease::Lease;
use crate::supervisor::{Engine, Work};
use crate::{export, generate, import, train};

/// Progress is written at most this often; the first and the last step always are.
const PROGRESS_DISTANCE: Duration = Duration::from_millis(200);
/// How long the last step may take to be written, before the job is finished without it.
const PROGRESS_END: Duration = Duration::from_secs(3);
/// Between two tries while database or storage are away.
const RETRY: Duration = Duration::from_secs(1);
/// Longest time a stopping worker goes on asking a database that is away; after it the lease runs out instead.
const SETTLE_WHILE_DRAINING: Duration = Duration::from_secs(15);
/// How long an object is offered to a storage that is away; a training's result is worth the patience.
const STORE_PATIENCE: Duration = Duration::from_secs(600);
/// The same when the worker stops.
const STORE_WHILE_DRAINING: Duration = Duration::from_secs(20);
/// How long no job is claimed after one was released for want of disk or engine.
const WANT_PAUSE: Duration = Duration::from_secs(30);

/// What all attempts of a worker share.
pub struct WorkerContext {
    pub config: WorkerConfig,
    /// Not shared with requests: a burst of them must not cost a lease.
    pub pool: PgPool,
    pub storage: Storage,
    pub cache: Cache,
    pub engine: Engine,
    /// Jobs whose end somebody just asked for.
    pub cancels: broadcast::Sender<JobId>,
    /// No claim before this instant.
    pub not_before: watch::Sender<Instant>,
    /// Cancelled when the worker shall stop.
    pub draining: CancellationToken,
    /// This worker's own folder for work at hand.
    pub work_dir: std::path::PathBuf,
}

/// Why an attempt ends without success.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// The job is somebody else's; nothing may be written.
    LeaseLost,
    /// Somebody asked for the end of the job.
    Canceled,
    /// Given back without blame: the worker stops, its disk is full, or it has no engine.
    Released(String),
    /// The engine died under it.
    Crashed(String),
    /// It does not fit into the memory that this engine may use, and takes at least so many bytes of another's.
    DoesNotFit(u64, String),
    /// It failed; the class says whether another try makes sense.
    Failed(ErrorClass, String),
}

impl From<domain::Error> for Stop {
    fn from(error: domain::Error) -> Self {
        use domain::Error;
        match error {
            Error::LeaseLost => Self::LeaseLost,
            Error::Unavailable(_) => Self::Failed(ErrorClass::Upstream, error.to_string()),
            Error::Internal(_) => Self::Failed(ErrorClass::Internal, error.to_string()),
            _ => Self::Failed(ErrorClass::InvalidInput, error.to_string()),
        }
    }
}

impl From<CacheError> for Stop {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Full(_) => Self::Released(error.to_string()),
            // The row is there and its object is not, or is another: worth another look, not worth many.
            CacheError::Storage(_) | CacheError::Corrupt { .. } => {
                Self::Failed(ErrorClass::Upstream, error.to_string())
            }
            CacheError::Disk { .. } => Self::Failed(ErrorClass::Resource, error.to_string()),
        }
    }
}

/// Sees a claimed job to the end of this attempt. Never fails: whatever happens ends up in the database, or, when that
/// cannot be reached, in a lease that runs out.
pub async fn attend(context: Arc<WorkerContext>, claim: Claim) {
    let lease = Arc::new(Lease::hold(context.pool.clone(), claim, context.config.lease, context.cancels.subscribe()));
    let began = Instant::now();
    // A panic of ours must not take the lease and the answer with it.
    let work = tokio::spawn({
        let (context, lease) = (Arc::clone(&context), Arc::clone(&lease));
        async move { Attempt::begin(&context, &lease)?.run().await }
    });
    let outcome = work
        .await
        .unwrap_or_else(|panic| Err(Stop::Failed(ErrorClass::Internal, format!("the worker panicked: {panic}"))));
    let seconds = began.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => tracing::info!(job = %claim.job, epoch = claim.epoch, seconds, "succeeded"),
        Err(stop) => {
            tracing::warn!(job = %claim.job, epoch = claim.epoch, seconds, ?stop, "attempt ended");
            settle(&context, &lease, stop).await;
        }
    }
    // Of this import or of any that nobody came back to.
    if claim.kind == JobKind::Import
        && let Err(error) = domain::import::discard_leftovers(&context.pool, &context.storage).await
    {
        tracing::debug!(%error, "files of an import stay for now");
    }
}

async fn settle(context: &WorkerContext, lease: &Lease, stop: Stop) {
    if stop == Stop::LeaseLost {
        return;
    }
    if let Stop::Released(_) = stop
        && !context.draining.is_cancelled()
    {
        context.not_before.send_replace(Instant::now() + WANT_PAUSE);
    }
    let (pool, claim, policy) = (&context.pool, lease.claim(), &context.config.lease);
    let ended = until_answered(context, lease, || async {
        match &stop {
            Stop::LeaseLost => Err(domain::Error::LeaseLost),
            Stop::Canceled => job::canceled(pool, claim).await,
            Stop::Released(why) => job::release(pool, claim, why).await.map(drop),
            Stop::Crashed(how) => job::crash(pool, claim, policy, how).await.map(drop),
            Stop::DoesNotFit(memory, message) => {
                let memory = i64::try_from(*memory).unwrap_or(i64::MAX);
                job::does_not_fit(pool, claim, memory, message).await.map(drop)
            }
            Stop::Failed(class, message) => job::fail(pool, claim, policy, *class, message).await.map(drop),
        }
    });
    if let Err(error) = ended.await {
        tracing::warn!(job = %claim.job, %error, "the attempt could not be ended; its lease runs out");
    }
}

/// Repeats a statement while the database is away and the lease may still be ours; a stopping worker does so only for
/// a while. Every statement of an attempt may be repeated: what was committed is not done twice.
async fn until_answered<T, F>(
    context: &WorkerContext,
    lease: &Lease,
    mut statement: impl FnMut() -> F,
) -> domain::Result<T>
where
    F: Future<Output = domain::Result<T>>,
{
    let answered = async {
        while lease.holds().await {
            match statement().await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(job = %lease.claim().job, %error, "the database is away; trying again");
                    sleep(RETRY).await;
                }
                answer => return answer,
            }
        }
        Err(domain::Error::LeaseLost)
    };
    tokio::select! {
        answer = answered => answer,
        () = context.drained_for(SETTLE_WHILE_DRAINING) => Err(domain::Error::unavailable("the worker stops")),
    }
}

impl WorkerContext {
    /// Resolves when the worker shall stop and `patience` has passed since, or since now if it stops already.
    async fn drained_for(&self, patience: Duration) {
        self.draining.cancelled().await;
        sleep(patience).await;
    }
}

/// One attempt, with its own folder that is gone afterwards.
pub struct Attempt<'a> {
    pub context: &'a WorkerContext,
    pub lease: &'a Lease,
    folder: tempfile::TempDir,
}

impl<'a> Attempt<'a> {
    fn begin(context: &'a WorkerContext, lease: &'a Lease) -> Result<Self, Stop> {
        let claim = lease.claim();
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-{}-", claim.job, claim.epoch))
            .tempdir_in(&context.work_dir)
            .map_err(|error| disk(&context.work_dir, error))?;
        Ok(Self { context, lease, folder })
    }

    async fn run(&self) -> Result<(), Stop> {
        match self.claim().kind {
            JobKind::Generation => generate::run(self).await,
            JobKind::Training => train::run(self).await,
            JobKind::Import => import::run(self).await,
            JobKind::Export => export::run(self).await,
        }
    }

    /// The claim that fences every effect.
    pub fn claim(&self) -> &Claim {
        self.lease.claim()
    }

    /// The attempt's folder on the local disk.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes an empty folder in the attempt's folder.
    pub fn subfolder(&self, name: &str) -> Result<std::path::PathBuf, Stop> {
        let path = self.folder().join(name);
        std::fs::create_dir(&path).map_err(|error| disk(&path, error))?;
        Ok(path)
    }

    /// Hands work to the engine.
    pub async fn converse(&self, work: Work) -> Result<Conversation<'a>, Stop> {
        let session = self.context.engine.begin(work).await;
        let session = session.ok_or_else(|| Stop::Released("the worker stops".into()))?;
        Ok(Conversation::new(session, self.lease, self.context.draining.clone(), self.context.config.drain))
    }

    /// Reads or writes the database in the name of this attempt, with patience while it is away.
    pub async fn ask<T, F>(&self, statement: impl FnMut() -> F) -> Result<T, Stop>
    where
        F: Future<Output = domain::Result<T>>,
    {
        Ok(until_answered(self.context, self.lease, statement).await?)
    }

    /// Reports progress from now on.
    pub fn progress(&self) -> Progress {
        Progress::start(self.context.pool.clone(), *self.claim())
    }

    /// Does what comes before the engine's work, unless the attempt ends first: nothing is lost with it then.
    pub async fn prepare<T>(&self, work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.lease.lost() => Err(Stop::LeaseLost),
            () = self.lease.canceled() => Err(Stop::Canceled),
            () = self.context.draining.cancelled() => Err(Stop::Released("the worker stops".into())),
            done = work => done,
        }
    }

    /// Puts a file into storage under a key of this attempt, with patience while storage is away.
    pub async fn store(&self, path: &Path, key: &str, media_type: &str) -> Result<Stored, Stop> {
        let written = tokio::select! {
            biased;
            () = self.lease.lost() => Err(Stop::LeaseLost),
            written = self.put(path, key, media_type) => written,
            () = self.context.drained_for(STORE_WHILE_DRAINING) => Err(Stop::Released("the worker stops".into())),
        }?;
        let md5 = md5_of(path.to_owned()).await.map_err(|error| disk(path, error))?;
        Ok(Stored { bytes: written.bytes as i64, sha256: written.sha256, md5 })
    }

    async fn put(&self, path: &Path, key: &str, media_type: &str) -> Result<Written, Stop> {
        let began = Instant::now();
        while self.lease.holds().await {
            match self.context.storage.put_file(key, path, media_type).await {
                Err(error) if error.is_transient() && began.elapsed() < STORE_PATIENCE => {
                    tracing::warn!(key, %error, "storage is away; trying again");
                    sleep(RETRY).await;
                }
                written => return Ok(written?),
            }
        }
        Err(Stop::LeaseLost)
    }
}

/// What lies in storage now.
pub struct Stored {
    pub bytes: i64,
    pub sha256: String,
    pub md5: String,
}

async fn md5_of(path: std::path::PathBuf) -> std::io::Result<String> {
    let hashing = tokio::task::spawn_blocking(move || {
        let mut hash = Md5::new();
        std::io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
        Ok(hex::encode(hash.finalize()))
    });
    hashing.await.map_err(std::io::Error::other)?
}

/// A failure of the local disk.
pub fn disk(path: &Path, error: std::io::Error) -> Stop {
    if crate::cache::is_disk_full(&error) {
        Stop::Released(format!("the disk under {} is full", path.display()))
    } else {
        Stop::Failed(ErrorClass::Resource, format!("{}: {error}", path.display()))
    }
}

/// Writes progress down as it is told.
pub struct Progress(Coalescer<Step>);

#[derive(Debug, Clone)]
struct Step {
    step: u32,
    total_steps: u32,
    data: Value,
}

impl Progress {
    fn start(pool: PgPool, claim: Claim) -> Self {
        Self(Coalescer::start(claim.job, PROGRESS_DISTANCE, move |Step { step, total_steps, data }| {
            let pool = pool.clone();
            async move { job::progress(&pool, &claim, step, total_steps, data).await.map(drop) }
        }))
    }

    /// Tells a step.
    pub fn set(&self, step: usize, total_steps: usize, data: Value) {
        let [step, total_steps] = [step, total_steps].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        self.0.set(Step { step, total_steps, data });
    }

    /// Waits, not long, until the last step told is written.
    pub async fn end(self) {
        self.0.end(PROGRESS_END).await;
    }
}
