//! The kinds of jobs, one row of [`KINDS`] each. Everything that differs between kinds, except their work, is stated
//! here: names, routes, lanes, and the limits that a worker enforces. How a kind is requested is in its noun's module;
//! how it runs, in the worker.

use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, Scope};

/// What a job is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum JobKind {
    Generation,
    Training,
    Import,
    Export,
}

/// One kind of job.
#[derive(Debug)]
pub struct KindSpec {
    pub kind: JobKind,
    /// In rows and responses, and as the name of a queue.
    pub name: &'static str,
    /// Collection of the REST API: `generations` is `/v1/generations`.
    pub collection: &'static str,
    /// Tag of its routes in the OpenAPI document.
    pub tag: &'static str,
    /// What a caller needs to create, cancel, repeat or delete one.
    pub scope: Scope,
    /// Where a worker runs it.
    pub lane: Lane,
    /// What a stopping worker does with it.
    pub drain: DrainRule,
}

/// Where in a worker the jobs of a kind run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// On the engine, which does one job at a time.
    Engine {
        /// How long the engine may report nothing.
        silence: Silence,
        /// It runs on checkpoints that stay loaded, so a worker that takes it can be asked to load and unload them.
        keeps_models: bool,
    },
    /// Beside the engine, on a lane of this kind alone.
    Beside {
        /// How many jobs of the kind a worker runs at the same time.
        at_once: usize,
        /// How many more, of those that ask nothing of the network.
        local_at_once: usize,
    },
}

/// The no-progress watchdog: an engine that reports nothing for this long is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Before the first step, while models are loaded; `None` means as between steps.
    pub before_first_step: Option<Duration>,
    pub between_steps: Duration,
}

/// What a stopping worker does with a job of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainRule {
    /// Lets it finish, within a limit; then it is released.
    Finish,
    /// Asks the engine for a checkpoint, within a limit, and releases it: another attempt continues from there.
    Suspend,
    /// Cancels the work and releases it at once.
    Release,
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// Every kind, in the order of [`JobKind::ALL`].
pub const KINDS: [KindSpec; 4] = [
    KindSpec {
        kind: JobKind::Generation,
        name: "generation",
        collection: "generations",
        tag: "generations",
        scope: Scope::Generate,
        lane: Lane::Engine {
            silence: Silence { before_first_step: Some(minutes(10)), between_steps: minutes(2) },
            keeps_models: true,
        },
        drain: DrainRule::Finish,
    },
    KindSpec {
        kind: JobKind::Training,
        name: "training",
        collection: "trainings",
        tag: "trainings",
        scope: Scope::Train,
        // All examples are encoded before the first step.
        lane: Lane::Engine {
            silence: Silence { before_first_step: None, between_steps: minutes(10) },
            keeps_models: false,
        },
        drain: DrainRule::Suspend,
    },
    KindSpec {
        kind: JobKind::Import,
        name: "import",
        collection: "imports",
        tag: "models",
        scope: Scope::Models,
        // One download may take hours, and files that are here already do not wait for it.
        lane: Lane::Beside { at_once: 2, local_at_once: 1 },
        drain: DrainRule::Release,
    },
    KindSpec {
        kind: JobKind::Export,
        name: "export",
        collection: "exports",
        tag: "models",
        scope: Scope::Models,
        // The worker holds several copies of the whole LoRA in memory.
        lane: Lane::Beside { at_once: 1, local_at_once: 0 },
        drain: DrainRule::Release,
    },
];

impl JobKind {
    pub const ALL: [JobKind; KINDS.len()] = {
        let mut all = [JobKind::Generation; KINDS.len()];
        let mut index = 0;
        while index < all.len() {
            all[index] = KINDS[index].kind;
            index += 1;
        }
        all
    };

    /// Its row of [`KINDS`].
    pub const fn spec(self) -> &'static KindSpec {
        &KINDS[self as usize]
    }

    pub const fn as_str(self) -> &'static str {
        self.spec().name
    }

    /// Path of one thing of this kind in the REST API, such as `/v1/generations/{id}`.
    pub fn path(self, id: impl std::fmt::Display) -> String {
        format!("/v1/{}/{id}", self.spec().collection)
    }

    /// Whether workers that take this kind keep checkpoints loaded.
    pub const fn keeps_models(self) -> bool {
        matches!(self.spec().lane, Lane::Engine { keeps_models: true, .. })
    }

    /// Whether an attempt holds the device of its worker: the engine does one job at a time.
    pub const fn holds_device(self) -> bool {
        matches!(self.spec().lane, Lane::Engine { .. })
    }

    /// How long an engine may report nothing; `None` for a kind that runs without one.
    pub const fn silence(self) -> Option<Silence> {
        match self.spec().lane {
            Lane::Engine { silence, .. } => Some(silence),
            Lane::Beside { .. } => None,
        }
    }

    /// All names, separated by commas, as `--queues` takes them.
    pub fn names() -> &'static str {
        static NAMES: LazyLock<String> = LazyLock::new(|| JobKind::ALL.map(JobKind::as_str).join(","));
        &NAMES
    }

    /// The kind of this name. Errors: `Invalid` about `field`, listing the names that there are.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        JobKind::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let names = JobKind::ALL.map(|kind| format!("`{}`", kind.as_str())).join(", ");
            Error::invalid(field, format!("`{name}` is not a kind of job; there are {names}."))
        })
    }
}

impl std::str::FromStr for JobKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        JobKind::parse("queues", name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_kind_once_in_the_order_of_the_enum() {
        for (kind, spec) in JobKind::ALL.into_iter().zip(&KINDS) {
            assert_eq!(kind.spec().kind, kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), spec.name, "rows and answers spell it alike");
            assert_eq!(spec.name.parse::<JobKind>().unwrap(), kind);
            assert!(spec.collection.starts_with(spec.name));
        }
        assert_eq!(JobKind::names(), "generation,training,import,export");
    }

    #[test]
    fn an_unknown_name_is_told_the_names_that_there_are() {
        let error = JobKind::parse("kind", "paint").unwrap_err().to_string();
        assert_eq!(
            error,
            "kind: `paint` is not a kind of job; there are `generation`, `training`, `import`, `export`."
        );
    }
}
