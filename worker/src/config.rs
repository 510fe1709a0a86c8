//! What a worker can be told. The values come from the command line; nothing here reads the environment.

use std::path::PathBuf;
use std::time::Duration;

use domain::job::{JobKind, LeasePolicy};
use url::Url;

use crate::import::guard::Guard;
use crate::supervisor::EngineCommand;

/// One worker process.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Name for people, the same after a restart.
    pub name: String,
    /// Host name, for people.
    pub host: String,
    /// Kinds of job it takes.
    pub queues: Vec<JobKind>,
    /// How the engine child is started.
    pub engine: EngineCommand,
    /// Folder of its own data: `cache/` with files from storage, `work/` with what jobs have at hand. Several workers
    /// of one machine may share it.
    pub data_dir: PathBuf,
    /// Bytes of files from storage that are kept.
    pub cache_limit: u64,
    /// Length of a lease, distance of beats and reaper ticks.
    pub lease: LeasePolicy,
    /// How long an engine may work without a sign of progress.
    pub silence: Silence,
    /// How long a stopping worker lets its job go on.
    pub drain: Drain,
    /// Training steps between two checkpoints.
    pub checkpoint_every: usize,
    /// Where models may come from.
    pub imports: Imports,
}

/// What the operator says about imports.
#[derive(Debug, Clone)]
pub struct Imports {
    /// Address of the Hugging Face Hub, or of a mirror.
    pub hub: Url,
    pub hub_token: Option<HubToken>,
    /// Which addresses may be reached.
    pub guard: Guard,
    /// Folder of this machine that may be imported from; none, if there is none.
    pub folder: Option<PathBuf>,
}

impl Default for Imports {
    /// The public Hub without a token, the public internet, no folder.
    fn default() -> Self {
        #[allow(clippy::expect_used, reason = "a constant")]
        let hub = Url::parse("https://huggingface.co").expect("an address");
        Self { hub, hub_token: None, guard: Guard::default(), folder: None }
    }
}

/// A secret: it goes to the Hub's own host and is never shown.
#[derive(Clone)]
pub struct HubToken(pub String);

impl std::fmt::Debug for HubToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// The no-progress watchdog: a live process that reports nothing this long is replaced.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// Before the first step of pictures: a large model comes from a slow disk.
    pub loading: Duration,
    /// While making pictures.
    pub generation: Duration,
    /// While training, and before its first step, when all examples are encoded.
    pub training: Duration,
}

impl Default for Silence {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        Self { loading: minutes(10), generation: minutes(2), training: minutes(10) }
    }
}

/// Limits on the way out.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Pictures are finished if that takes no longer; else the job is released.
    pub generation: Duration,
    /// A training stops at its next step, leaves a checkpoint and is released.
    pub training: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { generation: Duration::from_secs(120), training: Duration::from_secs(60) }
    }
}

impl WorkerConfig {
    /// The usual worker: all queues, data under `data_dir`, 100 GiB of cache.
    pub fn new(engine: EngineCommand, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: "worker".into(),
            host: host_name(),
            queues: JobKind::ALL.to_vec(),
            engine,
            data_dir: data_dir.into(),
            cache_limit: 100 << 30,
            lease: LeasePolicy::default(),
            silence: Silence::default(),
            drain: Drain::default(),
            checkpoint_every: 100,
            imports: Imports::default(),
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().to_owned() }
}
