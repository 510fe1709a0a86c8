//! The configuration of a worker. The values come from the command line; nothing here reads the environment.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use domain::job::kind::Silence;
use domain::job::{JobKind, LeasePolicy};
use outgoing::Guard;
use url::Url;

use crate::supervisor::{EngineCommand, Patience};

/// Configuration of one worker process.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Display name, the same after a restart.
    pub name: String,
    /// Host name, for display.
    pub host: String,
    /// Kinds of job that it takes.
    pub queues: Vec<JobKind>,
    /// How the engine child is started.
    pub engine: EngineCommand,
    /// Data folder: `cache/` for files from storage, `work/` for files of running jobs. Several workers on one machine
    /// may share it.
    pub data_dir: PathBuf,
    /// Size limit of the file cache, in bytes.
    pub cache_limit: u64,
    /// Length of a lease, and the intervals of heartbeats and of the reaper.
    pub lease: LeasePolicy,
    /// How long an engine may work without reporting progress.
    pub silences: Silences,
    /// How long a job may continue while the worker stops.
    pub drain: Drain,
    /// How long no job is claimed while the machine is in trouble.
    pub pauses: Pauses,
    /// Time between two looks for files of deleted models in the cache.
    pub tidy_every: Duration,
    /// Training steps between two checkpoints.
    pub checkpoint_every: usize,
    /// Where models may be imported from.
    pub imports: Imports,
}

/// The operator's settings for imports.
#[derive(Debug, Clone)]
pub struct Imports {
    /// Address of the Hugging Face Hub, or of a mirror.
    pub hub: Url,
    pub hub_token: Option<HubToken>,
    /// Addresses that may be reached.
    pub guard: Guard,
    /// Folder on this machine from which models may be imported; `None` forbids it.
    pub folder: Option<PathBuf>,
}

impl Default for Imports {
    /// The public Hub without a token, the public internet, no local folder.
    fn default() -> Self {
        #[allow(clippy::expect_used, reason = "a constant")]
        let hub = Url::parse("https://huggingface.co").expect("an address");
        Self { hub, hub_token: None, guard: Guard::default(), folder: None }
    }
}

/// A secret: it is sent only to the Hub's own host and is never shown.
#[derive(Clone)]
pub struct HubToken(pub String);

impl std::fmt::Debug for HubToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// The no-progress watchdog: how long an engine may send no report, by kind of job. The table of kinds has the
/// defaults; an operator may change them.
#[derive(Debug, Clone)]
pub struct Silences(HashMap<JobKind, Silence>);

/// For a kind that runs without an engine, in case it uses one after all.
const UNSTATED: Silence = Silence { before_first_step: None, between_steps: Duration::from_mins(10) };

impl Default for Silences {
    fn default() -> Self {
        Self(JobKind::ALL.into_iter().filter_map(|kind| Some((kind, kind.silence()?))).collect())
    }
}

impl Silences {
    /// Changes the limit between two steps for a kind.
    pub fn set(&mut self, kind: JobKind, between_steps: Duration) {
        if let Some(silence) = self.0.get_mut(&kind) {
            silence.between_steps = between_steps;
        }
    }

    /// The limits for a kind.
    pub(crate) fn patience(&self, kind: JobKind) -> Patience {
        let silence = self.0.get(&kind).unwrap_or(&UNSTATED);
        let before_first_step = silence.before_first_step.unwrap_or(silence.between_steps);
        Patience { before_first_step, between_steps: silence.between_steps }
    }
}

/// How long a job may continue while the worker stops, by the drain rule of its kind.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// For a job that may finish; after this time it is released.
    pub finish: Duration,
    /// For a job that stores a checkpoint at its next step.
    pub suspend: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { finish: Duration::from_mins(2), suspend: Duration::from_mins(1) }
    }
}

/// How long a worker in trouble claims nothing.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// After the first trouble; it doubles with each further one.
    pub first: Duration,
    pub longest: Duration,
}

impl Pauses {
    /// The pause after another trouble.
    pub(crate) fn after(&self, troubles: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(troubles)).min(self.longest)
    }
}

impl Default for Pauses {
    fn default() -> Self {
        Self { first: Duration::from_secs(5), longest: Duration::from_mins(1) }
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
            silences: Silences::default(),
            drain: Drain::default(),
            pauses: Pauses::default(),
            tidy_every: Duration::from_secs(20),
            checkpoint_every: 100,
            imports: Imports::default(),
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().to_owned() }
}
