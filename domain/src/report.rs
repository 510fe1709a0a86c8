//! What clients see of a job of any kind: its status, progress, error and artifacts. Not here: how any of them changes
//! (`job`).

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::artifact::Artifact;
use crate::delivery::webhook::JobWebhook;
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
    /// Seconds for which workers' devices were held, in attempts that have ended.
    pub gpu_seconds: f64,
    /// The endpoint that its request names.
    pub webhook: Option<JobWebhook>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// A row of `jobs` with its artifacts, as the nouns' queries return it in one column of JSON.
#[derive(Debug, Deserialize)]
pub(crate) struct JobRow {
    status: JobStatus,
    step: i32,
    total_steps: i32,
    progress: Option<Value>,
    epoch: i64,
    error_class: Option<ErrorClass>,
    error_message: Option<String>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    artifacts: Option<Vec<Artifact>>,
    gpu_seconds: f64,
    webhook: Option<JobWebhook>,
}

impl JobRow {
    pub(crate) fn report(self, warnings: Vec<String>) -> Report {
        Report {
            status: self.status,
            step: self.step,
            total_steps: self.total_steps,
            progress: self.progress,
            attempts: self.epoch,
            error: self.error_class.zip(self.error_message).map(|(class, message)| JobError { class, message }),
            warnings,
            artifacts: self.artifacts.unwrap_or_default(),
            gpu_seconds: self.gpu_seconds,
            webhook: self.webhook,
            started_at: self.started_at,
            finished_at: self.finished_at,
        }
    }
}

impl Report {
    /// The report of a job that was just enqueued.
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
            gpu_seconds: 0.0,
            webhook: None,
            started_at: None,
            finished_at: None,
        }
    }
}
