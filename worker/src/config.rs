//! What a worker can be told. The values come from the command line; nothing here reads the environment.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use domain::job::kind::Silence;
use domain::job::{JobKind, LeasePolicy};
use url::Url;

use crate::import::guard::Guard;
use crate::supervisor::{EngineCommand, Patience};

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
    pub silences: Silences,
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

/// The no-progress watchdog: how long an engine may report nothing, by kind of job. The table of kinds says it; an operator may
/// change it.
#[derive(Debug, Clone)]
pub struct Silences(HashMap<JobKind, Silence>);

/// Of a kind that runs without an engine, should it use one all the same.
const UNSTATED: Silence = Silence { before_first_step: None, between_steps: Duration::from_mins(10) };

impl Default for Silences {
    fn default() -> Self {
        Self(JobKind::ALL.into_iter().filter_map(|kind| Some((kind, kind.silence()?))).collect())
    }
}

impl Silences {
    /// Changes the silence between two steps of a kind.
    pub fn set(&mut self, kind: JobKind, between_steps: Duration) {
        if let Some(silence) = self.0.get_mut(&kind) {
            silence.between_steps = between_steps;
        }
    }

    /// The limits of a kind.
    pub(crate) fn patience(&self, kind: JobKind) -> Patience {
        let silence = self.0.get(&kind).unwrap_or(&UNSTATED);
        let before_first_step = silence.before_first_step.unwrap_or(silence.between_steps);
        Patience { before_first_step, between_steps: silence.between_steps }
    }
}

/// How long a stopping worker lets a job go on, by the rule of its kind.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Of a job that may finish; then it is released.
    pub finish: Duration,
    /// Of one that leaves a checkpoint at its next step, until that is stored.
    pub suspend: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { finish: Duration::from_mins(2), suspend: Duration::from_mins(1) }
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
            checkpoint_every: 100,
            imports: Imports::default(),
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().to_owned() }
}
