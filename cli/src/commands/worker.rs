//! `pyrograph worker`: takes jobs from the queue and runs them on a device.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use domain::Storage;
use domain::database::PoolSizes;
use domain::job::JobKind;
use domain::storage::{Keys, StorageConfig};
use outbox::Outbox;
use worker::{Drain, EngineCommand, WorkerConfig};

use super::Outcome;
use super::engine_flags::EngineFlags;
use crate::configuration::{Services, duration, imports, lease_policy, number, outbound, worker_dir};
use crate::failure::Failure;
use crate::{services, signal};

/// Limits of a worker of `up`: shorter than usual, since the user waits at the terminal. An interrupted job continues
/// at the next start.
pub(crate) const WITH_PARENT: Drain = Drain { finish: Duration::from_secs(20), suspend: Duration::from_secs(20) };

/// Run a worker
///
/// Leases jobs and runs them in a child process that owns the device. Start one worker per device, on any machine that
/// reaches the database and the bucket. Ctrl-C, SIGTERM or SIGHUP stops it in order: it has two minutes to finish its
/// pictures, or one to store a checkpoint, and returns what it did not finish. The job of a killed worker is claimed by
/// another within 40 s.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Kinds of jobs to run, and `outbox`, which sends what `serve --no-outbox` does not and needs no device
    #[arg(long, value_delimiter = ',', default_value = JobKind::names(), value_name = "QUEUES")]
    queues: Vec<Queue>,
    /// Name of the worker, for display and for requests; need not be unique
    #[arg(long, default_value = "worker", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    #[command(flatten)]
    engine: EngineFlags,
    /// Data folder of a running `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
    /// Stop when stdin closes
    #[arg(long, hide = true)]
    with_parent: bool,
}

/// What a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Jobs(JobKind),
    Outbox,
}

impl FromStr for Queue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "outbox" {
            return Ok(Self::Outbox);
        }
        text.parse().map(Self::Jobs).map_err(|error: <JobKind as FromStr>::Err| format!("{error}, or outbox"))
    }
}

impl Worker {
    /// Runs the command until it is asked to stop.
    pub(crate) async fn run(self) -> Outcome {
        let stop = signal::stop_token(|| ());
        if self.with_parent {
            signal::stop_with_parent(&stop);
        }
        let (sends, kinds) = (self.queues.contains(&Queue::Outbox), self.kinds());
        let outbound = outbound()?;
        let config = if kinds.is_empty() { None } else { Some(self.config(kinds)?) };
        let services = Services::find(&self.data_dir)?;
        let database = services.database();
        let connect = async {
            let pools = services::database(&database, PoolSizes::WORKER).await?;
            services::check_schema(&pools).await?;
            Ok::<_, Failure>(pools)
        };
        let pools = tokio::select! {
            pools = connect => pools?,
            // It may wait for the database for a long time.
            () = stop.cancelled() => return Ok(()),
        };
        let mut storage = Storage::new(&services.storage).context("storage")?;
        if let Keys::Fixed { access_key, .. } = &services.storage.keys
            && let Some(objects) = embedded::S3::objects(&self.data_dir.join("s3"), access_key)
        {
            storage = storage.with_objects(&objects);
        }
        let bucket = tokio::spawn(report_bucket(storage.clone(), services.storage.clone()));
        let archive = if sends { services::archive(&services.storage).await? } else { None };
        let sending = async {
            if sends {
                let outbox = Outbox::new(pools.lease.clone(), storage.clone(), outbound.into());
                archive.into_iter().fold(outbox, Outbox::with_archive).run(None, stop.clone()).await;
            }
        };
        let working = async {
            match config {
                Some(config) => worker::run(config, pools.clone(), storage.clone(), stop.clone()).await,
                None => Ok(()),
            }
        };
        let (ended, ()) = tokio::join!(working, sending);
        bucket.abort();
        let _ = tokio::time::timeout(Duration::from_secs(2), pools.close()).await;
        Ok(ended.context("the worker did not start; PYROGRAPH_WORKER_DIR names another folder")?)
    }

    fn kinds(&self) -> Vec<JobKind> {
        let kind = |queue: &Queue| match queue {
            Queue::Jobs(kind) => Some(*kind),
            Queue::Outbox => None,
        };
        self.queues.iter().filter_map(kind).collect()
    }

    fn config(&self, kinds: Vec<JobKind>) -> Result<WorkerConfig, Failure> {
        let mut config = config(&self.engine, worker_dir(&self.data_dir)?)?;
        config.name = self.name.clone();
        config.queues = kinds;
        if self.with_parent {
            config.drain = WITH_PARENT;
        }
        Ok(config)
    }
}

/// Says at the start if the bucket cannot be used. The worker stays: the bucket may come back, and until then each
/// job is returned.
async fn report_bucket(storage: Storage, config: StorageConfig) {
    if let Err(failure) = services::check_storage(&storage, &config).await {
        tracing::error!("{failure}");
    }
}

/// The configuration of a worker, from engine flags and environment. `up` checks it too, before it starts anything.
///
/// # Errors
/// Faults that would recur at every start: an invalid variable, a named device that does not exist.
pub(crate) fn config(engine: &EngineFlags, folder: PathBuf) -> Result<WorkerConfig, Failure> {
    diffusion::device::choose(engine.device).map_err(|error| match error {
        diffusion::Error::Device(why) => Failure::Usage(format!("--device {}: {why}", engine.device)),
        other => Failure::from(anyhow::Error::new(other)),
    })?;
    let program = std::env::current_exe().context("could not find the path of this program")?;
    let flags = engine.clone().or_environment()?.arguments();
    let kernels = ["--kernels".into(), folder.join("kernels").into()];
    let engine = EngineCommand {
        environment: diffusion::device::environment(&program)
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            // The worker parses these lines and writes them in its own format.
            .chain([("PYROGRAPH_LOG_FORMAT".into(), "json".into())])
            .collect(),
        arguments: std::iter::once(OsString::from("engine")).chain(flags).chain(kernels).collect(),
        program,
    };
    let mut config = WorkerConfig::new(engine, folder);
    config.lease = lease_policy()?;
    if let Some(bytes) = number("PYROGRAPH_CACHE_BYTES", 0..=u64::MAX)? {
        config.cache_limit = bytes;
    }
    if let Some(steps) = number("PYROGRAPH_CHECKPOINT_EVERY", 1..=1_000_000)? {
        config.checkpoint_every = steps;
    }
    config.imports = imports()?;
    for kind in JobKind::ALL.into_iter().filter(|kind| kind.silence().is_some()) {
        let variable = format!("PYROGRAPH_{}_SILENCE_MS", kind.as_str().to_uppercase());
        if let Some(silence) = duration(&variable)? {
            config.silences.set(kind, silence);
        }
    }
    Ok(config)
}
