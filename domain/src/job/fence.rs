//! The fencing token of an attempt. What an attempt may change, and how a claim is made, belongs to the other modules.

use uuid::Uuid;

use super::JobKind;
use crate::{JobId, WorkerId};

/// One claim of a job by a worker. Job, epoch and worker are part of the condition of every change that the attempt makes, so
/// an attempt whose lease was taken away changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub job: JobId,
    /// The public id: that of the generation, training, import or export.
    pub subject: Uuid,
    pub kind: JobKind,
    /// The number of the attempt, from 1.
    pub epoch: i64,
    pub worker: WorkerId,
    /// How many earlier attempts of this job failed.
    pub failures: i32,
    /// How many earlier attempts of this job crashed.
    pub crashes: i32,
    /// How many earlier attempts ended because of trouble with their worker's machine.
    pub setbacks: i32,
}
