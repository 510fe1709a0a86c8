//! One attempt at a job of any kind: its folder on disk, its progress, and its calls to the database, storage and
//! engine.
//!
//! Every effect goes through `domain` and carries the claim, so an attempt whose lease is lost changes nothing.
//! [`crate::attend`] decides how each kind of job runs and how an attempt ends.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::JobId;
use domain::job::{self, Claim, Stage, StageProgress};
use domain::storage::{Storage, Written};
use md5::{Digest, Md5};
use serde_json::Value;
use sqlx::PgPool;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::coalescer::Coalescer;
use crate::config::WorkerConfig;
use crate::conversation::Conversation;
use crate::health::Health;
use crate::labels::Labels;
use crate::lease::Lease;
use crate::stop::{Stop, disk};
use crate::supervisor::{Engine, Patience, Work};
use crate::work_dir::Folder;

/// Minimum time between two progress writes. The first and the last step are always written.
const PROGRESS_DISTANCE: Duration = Duration::from_millis(200);
/// How long to wait for the last step to be written before the job is finished without it.
const PROGRESS_END: Duration = Duration::from_secs(3);
/// Pause between two tries while the database or storage is unavailable.
const RETRY: Duration = Duration::from_secs(1);
/// How long a stopping worker retries an unavailable database. After that, the lease expires instead.
const SETTLE_WHILE_DRAINING: Duration = Duration::from_secs(5);
/// How long an upload is retried while storage is unavailable. Long, since the result of a training is worth the wait.
const STORE_PATIENCE: Duration = Duration::from_mins(15);
/// The same, while the worker stops.
const STORE_WHILE_DRAINING: Duration = Duration::from_secs(20);
/// State shared by all attempts of a worker.
pub struct WorkerContext {
    pub config: WorkerConfig,
    /// A separate pool: a burst of requests must not cost a lease.
    pub pool: PgPool,
    pub storage: Storage,
    pub cache: Cache,
    pub engine: Engine,
    /// Jobs for which a cancel was just requested.
    pub cancels: broadcast::Sender<JobId>,
    /// Whether jobs may be claimed.
    pub health: Arc<Health>,
    /// Cancelled when the worker should stop.
    pub draining: CancellationToken,
    /// This worker's working folder.
    pub(crate) work_dir: Arc<Folder>,
}

/// Retries a statement while the database is unavailable and the lease may still be ours; a stopping worker retries
/// only for a limited time. Every statement of an attempt may be repeated: a committed one is not done twice.
pub(crate) async fn until_answered<T, F>(
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
                    tracing::warn!(job = %lease.claim().subject, %error, "the database is away; trying again");
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
    /// Resolves `patience` after the worker was asked to stop; if it is already stopping, `patience` from now.
    async fn drained_for(&self, patience: Duration) {
        self.draining.cancelled().await;
        sleep(patience).await;
    }
}

/// One attempt, with a temporary folder that is deleted when it ends.
pub struct Attempt<'a> {
    pub context: &'a WorkerContext,
    pub lease: &'a Lease,
    /// What the user calls the files of this attempt.
    pub(crate) labels: Arc<Labels>,
    folder: tempfile::TempDir,
}

impl<'a> Attempt<'a> {
    /// Creates the attempt's folder.
    pub fn begin(context: &'a WorkerContext, lease: &'a Lease) -> Result<Self, Stop> {
        let (claim, work_dir) = (lease.claim(), &context.work_dir);
        let prefix = format!("{}-{}-", claim.subject, claim.epoch);
        let folder = work_dir.ensure().and_then(|parent| tempfile::Builder::new().prefix(&prefix).tempdir_in(parent));
        let folder = folder.map_err(|error| disk(work_dir.path(), error))?;
        let labels = Labels::default();
        for folder in [&context.config.data_dir, work_dir.path(), folder.path()] as [&Path; 3] {
            labels.hide(folder);
        }
        Ok(Self { context, lease, labels: Arc::new(labels), folder })
    }

    /// The claim that fences every effect.
    pub fn claim(&self) -> &Claim {
        self.lease.claim()
    }

    /// The attempt's folder on the local disk.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates an empty folder inside the attempt's folder.
    pub fn subfolder(&self, name: &str) -> Result<std::path::PathBuf, Stop> {
        let path = self.folder().join(name);
        std::fs::create_dir(&path).map_err(|error| disk(&path, error))?;
        Ok(path)
    }

    /// Sends work to the engine.
    pub async fn converse(&self, work: Work) -> Result<Conversation<'a>, Stop> {
        let session = self.context.engine.begin(work).await;
        let session = session.ok_or_else(|| Stop::Released("the worker stops".into()))?;
        let draining = self.context.draining.clone();
        Ok(Conversation::new(session, self.lease, Arc::clone(&self.labels), draining, self.context.config.drain))
    }

    /// Reads or writes the database for this attempt, with retries while the database is unavailable.
    pub async fn ask<T, F>(&self, statement: impl FnMut() -> F) -> Result<T, Stop>
    where
        F: Future<Output = domain::Result<T>>,
    {
        until_answered(self.context, self.lease, statement).await.map_err(|error| match error {
            // It is retried until the worker stops.
            domain::Error::Unavailable(_) => Stop::Released("the worker stops".into()),
            other => other.into(),
        })
    }

    /// How long the engine may send no report while it works on a job of this kind.
    pub fn patience(&self) -> Patience {
        self.context.config.silences.patience(self.claim().kind)
    }

    /// Starts reporting progress.
    pub fn progress(&self) -> Progress {
        Progress::start(self.context.pool.clone(), *self.claim())
    }

    /// Does the preparation before the engine's work. Stops when the attempt ends first, since nothing is lost then.
    pub async fn prepare<T>(&self, work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.lease.lost() => Err(Stop::LeaseLost),
            () = self.lease.canceled() => Err(Stop::Canceled),
            () = self.context.draining.cancelled() => Err(Stop::Released("the worker stops".into())),
            done = work => done,
        }
    }

    /// Uploads a file to storage under a key of this attempt, with retries while storage is unavailable. Stops when a
    /// user cancels the job, which would otherwise occupy its lane until storage is available again.
    pub async fn store(&self, path: &Path, key: &str, media_type: &str) -> Result<Stored, Stop> {
        let written = tokio::select! {
            biased;
            () = self.lease.lost() => Err(Stop::LeaseLost),
            () = self.lease.canceled() => Err(Stop::Canceled),
            written = self.put(path, key, media_type) => written,
            () = self.context.drained_for(STORE_WHILE_DRAINING) => Err(Stop::Released("the worker stops".into())),
        }?;
        let md5 = md5_of(path.to_owned()).await.map_err(|error| disk(path, error))?;
        Ok(Stored { bytes: written.bytes as i64, sha256: written.sha256, md5 })
    }

    async fn put(&self, path: &Path, key: &str, media_type: &str) -> Result<Written, Stop> {
        let began = Instant::now();
        loop {
            let holds = tokio::select! {
                holds = self.lease.holds() => holds,
                () = self.context.drained_for(SETTLE_WHILE_DRAINING) => {
                    return Err(Stop::Released("the worker stops".into()));
                }
            };
            if !holds {
                return Err(Stop::LeaseLost);
            }
            match self.context.storage.put_file(key, path, media_type).await {
                Err(error) if error.is_transient() && began.elapsed() < STORE_PATIENCE => {
                    tracing::warn!(key, %error, "storage is away; trying again");
                    sleep(RETRY).await;
                }
                written => return Ok(written?),
            }
        }
    }
}

/// The object that is now in storage.
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

/// Writes the progress of an attempt to the database.
pub struct Progress(Coalescer<Reached>);

#[derive(Debug, Clone)]
enum Reached {
    Step { step: u32, total_steps: u32, data: Value },
    Stage(Option<StageProgress>),
}

impl Progress {
    fn start(pool: PgPool, claim: Claim) -> Self {
        Self(Coalescer::start(claim.subject, PROGRESS_DISTANCE, move |reached| {
            let pool = pool.clone();
            async move {
                let written = match reached {
                    Reached::Step { step, total_steps, data } => {
                        job::progress(&pool, &claim, step, total_steps, data).await
                    }
                    Reached::Stage(stage) => job::stage_progress(&pool, &claim, stage.as_ref()).await,
                };
                written.map(drop)
            }
        }))
    }

    /// Reports a step.
    pub fn set(&self, step: usize, total_steps: usize, data: Value) {
        let [step, total_steps] = [step, total_steps].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        self.0.set(Reached::Step { step, total_steps, data });
    }

    /// Reports how far a stage before the first step is.
    pub(crate) fn stage(&self, stage: StageProgress) {
        self.0.set(Reached::Stage(Some(stage)));
    }

    /// Reports that a stage is over.
    pub(crate) fn stage_over(&self) {
        self.0.set(Reached::Stage(None));
    }

    /// Reports what the engine has read of the weights of `model`, which ends the stage if it is everything.
    pub(crate) fn read(&self, model: &str, bytes: u64, total_bytes: u64, seconds: f64) {
        if bytes == total_bytes {
            return self.stage_over();
        }
        let elapsed = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.stage(StageProgress::after(elapsed, Stage::Loading, Some(model.into()), bytes, Some(total_bytes)));
    }

    /// Waits briefly until the last reported step is written.
    pub async fn end(self) {
        self.0.end(PROGRESS_END).await;
    }
}
