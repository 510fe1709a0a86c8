//! Jobs: the row is the queue entry, and the only record of a job's state.
//!
//! `queued → running → succeeded | failed | canceled`, and from running back to queued for another attempt. A claim
//! gives a lease and a fencing epoch; every change of an attempt is made in a transaction that asks for `id AND
//! epoch AND worker`, so an attempt whose lease was taken away changes nothing. Time is the database's.
//!
//! In this folder: the state machine and the queue. What a job is about belongs to its noun (generation, training,
//! import, export), which enqueues it in the transaction of its own row and finishes it in the transaction of its
//! results.

mod attempt;
mod claim;
mod doorbell;
mod elsewhere;
mod fence;
pub mod kind;
mod lease;
mod lifecycle;
mod queue;
mod reaper;
mod stage;

pub use attempt::{Attempt, AttemptOutcome, attempts};
pub use claim::{OVERTAKEN_AT_MOST, PASSED_OVER_AT_MOST, claim, claim_local};
pub use doorbell::{Call, Doorbell, ring};
pub use fence::Claim;
pub use kind::{JobKind, KINDS};
pub use lease::{Beat, LeasePolicy, beat, progress, stage_progress};
pub use lifecycle::{
    Ending, canceled, crash, does_not_fit, fail, no_room, release, restore_budgets, set_back, succeed,
};
pub(crate) use queue::cancel_project;
pub use queue::{NewJob, cancel, enqueue, find, get, hide, wait_terminal};
pub use reaper::Reaper;
pub use stage::{Stage, StageProgress};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{JobId, WorkerId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum JobStatus {
    Queued,
    Running,
    Succeeded,
    Failed,
    Canceled,
}

impl JobStatus {
    pub const ALL: [JobStatus; 5] =
        [JobStatus::Queued, JobStatus::Running, JobStatus::Succeeded, JobStatus::Failed, JobStatus::Canceled];

    pub fn as_str(self) -> &'static str {
        match self {
            JobStatus::Queued => "queued",
            JobStatus::Running => "running",
            JobStatus::Succeeded => "succeeded",
            JobStatus::Failed => "failed",
            JobStatus::Canceled => "canceled",
        }
    }

    pub fn is_terminal(self) -> bool {
        matches!(self, JobStatus::Succeeded | JobStatus::Failed | JobStatus::Canceled)
    }

    /// Whether the trigger `jobs_guard` allows this transition; staying in a status is always allowed.
    pub fn may_become(self, next: JobStatus) -> bool {
        use JobStatus::{Canceled, Failed, Queued, Running, Succeeded};
        matches!((self, next), (Queued, Running | Canceled) | (Running, Queued | Succeeded | Failed | Canceled))
    }
}

/// Why an attempt failed, which decides whether there is another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ErrorClass {
    /// The request cannot be fulfilled; retrying is useless.
    InvalidInput,
    /// Something that we depend on failed: storage, another service.
    Upstream,
    /// Not enough memory or disk on this worker; another worker may have more.
    Resource,
    /// The engine died, or the worker with its lease.
    Crash,
    /// No progress for too long.
    Timeout,
    /// A bug in Pyrograph.
    Internal,
}

impl ErrorClass {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::InvalidInput => "invalid_input",
            ErrorClass::Upstream => "upstream",
            ErrorClass::Resource => "resource",
            ErrorClass::Crash => "crash",
            ErrorClass::Timeout => "timeout",
            ErrorClass::Internal => "internal",
        }
    }

    pub fn is_retried(self) -> bool {
        self != ErrorClass::InvalidInput
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    /// The public id: that of the generation, training, import or export.
    pub subject: Uuid,
    pub kind: JobKind,
    pub status: JobStatus,
    /// Jobs of higher priority are claimed first.
    pub priority: i16,
    /// The job is not claimed before this time.
    pub run_at: DateTime<Utc>,
    /// Fencing token of the last claim, so also the number of attempts.
    pub epoch: i64,
    pub worker: Option<WorkerId>,
    pub lease_until: Option<DateTime<Utc>>,
    pub failures: i32,
    pub crashes: i32,
    pub releases: i32,
    pub cancel_requested_at: Option<DateTime<Utc>>,
    pub step: i32,
    /// 0 = not known.
    pub total_steps: i32,
    /// Data of the last progress report, such as `{"loss": 0.1}`.
    pub progress: Option<Value>,
    /// Set if and only if the job has failed.
    pub error_class: Option<ErrorClass>,
    pub error_message: Option<String>,
    /// Number of the newest event.
    pub last_sequence: i64,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}
