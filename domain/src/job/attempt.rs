//! The history of a job's claims.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::database::bounded;
use crate::{Caller, Database, JobId, ProjectId, Result, WorkerId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum AttemptOutcome {
    Succeeded,
    /// The worker reported an error.
    Failed,
    /// The worker reported that its engine died.
    Crashed,
    /// The lease ran out without a report.
    Expired,
    /// The worker released the job: it stops, or its machine is in trouble.
    Released,
    /// The job did not fit into the worker's memory or onto its disk; another worker may have more.
    Refused,
    Canceled,
}

/// One claim of a job by one worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    pub epoch: i64,
    pub worker: WorkerId,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Set exactly when ended.
    pub outcome: Option<AttemptOutcome>,
    pub error: Option<String>,
}

/// All attempts of a job, oldest first.
pub async fn attempts(caller: &Caller, database: &Database, job: JobId) -> Result<Vec<Attempt>> {
    bounded(
        sqlx::query_as!(
            Attempt,
            r#"SELECT epoch, worker AS "worker: WorkerId", started_at, ended_at, outcome AS "outcome: AttemptOutcome", error
               FROM attempts
               WHERE job_id = $1 AND EXISTS (SELECT FROM jobs WHERE id = $1 AND project_id = $2) ORDER BY epoch"#,
            job.0,
            caller.project() as ProjectId,
        )
        .fetch_all(database.pool(caller)),
    )
    .await
}
