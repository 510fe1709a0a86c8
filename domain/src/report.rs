//! What is told about a job, the same for generations and trainings: its status, progress, error and artifacts. Not here: how
//! any of them changes (`job`).

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::artifact::Artifact;
use crate::job::{ErrorClass, JobStatus};

/// Why a job failed.
#[derive(Clone, Debug)]
pub struct JobError {
    pub class: ErrorClass,
    /// A sentence for the user.
    pub message: String,
}

/// A job as its owner sees it.
#[derive(Clone, Debug)]
pub struct Report {
    pub status: JobStatus,
    /// Steps done by the attempt that reported last.
    pub step: i32,
    /// 0 while it is not known.
    pub total_steps: i32,
    /// Data of the last progress report.
    pub progress: Option<Value>,
    /// How often the job was started.
    pub attempts: i64,
    pub error: Option<JobError>,
    pub warnings: Vec<String>,
    pub artifacts: Vec<Artifact>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl Report {
    /// Of a job that was just enqueued.
    pub(crate) fn queued(total_steps: i32) -> Self {
        Self {
            status: JobStatus::Queued,
            step: 0,
            total_steps,
            progress: None,
            attempts: 0,
            error: None,
            warnings: Vec::new(),
            artifacts: Vec::new(),
            started_at: None,
            finished_at: None,
        }
    }
}
