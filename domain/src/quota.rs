//! Quotas of a project, for what it uses at a time or on a day of UTC.
//!
//! They are checked in the transaction that uses them up, under a lock on the project's row, so that they hold however
//! many requests arrive at once. A project without quotas is not locked. What a job will need is not known when it is
//! enqueued, so a project whose device time or storage is used up enqueues nothing. `running_jobs` and
//! `gpu_seconds_per_day` also hold jobs back that are queued: the claim skips them (`job::claim`).
//!
//! Not here: requests per second (`api`), and how quotas are set (`project`).

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Error, ProjectId, Result, integer};

/// What a project may use. Null: any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quotas {
    /// Jobs that are queued at a time.
    pub queued_jobs: Option<i32>,
    /// Jobs that run at a time. Further ones stay queued.
    pub running_jobs: Option<i32>,
    /// Jobs that are enqueued on a day of UTC.
    pub jobs_per_day: Option<i32>,
    /// Seconds for which workers' devices are held on a day of UTC. Once they are used up, jobs stay queued.
    pub gpu_seconds_per_day: Option<i64>,
    /// Bytes that are stored.
    pub stored_bytes: Option<i64>,
}

/// Changes of quotas. Those that are left out stay; null lifts one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaChanges {
    /// Jobs that are queued at a time.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 0, 2_147_483_647>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 2147483647)]
    pub queued_jobs: Option<Option<i32>>,
    /// Jobs that run at a time. Further ones stay queued.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 0, 2_147_483_647>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 2147483647)]
    pub running_jobs: Option<Option<i32>>,
    /// Jobs that are enqueued on a day of UTC.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 0, 2_147_483_647>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 2147483647)]
    pub jobs_per_day: Option<Option<i32>>,
    /// Seconds for which workers' devices are held on a day of UTC. Once they are used up, jobs stay queued.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 0, 1_000_000_000_000>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1000000000000_i64)]
    pub gpu_seconds_per_day: Option<Option<i64>>,
    /// Bytes that are stored.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 0, 1_000_000_000_000_000>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1000000000000000_i64)]
    pub stored_bytes: Option<Option<i64>>,
}

impl QuotaChanges {
    const MOST_JOBS: i64 = i32::MAX as i64;
    const MOST_GPU_SECONDS: i64 = 1_000_000_000_000;
    const MOST_BYTES: i64 = 1_000_000_000_000_000;

    /// Errors: `Invalid` for each value outside its range.
    pub(crate) fn check(&self, faults: &mut crate::faults::Faults) {
        let jobs = |quota: Option<Option<i32>>| quota.flatten().map(i64::from);
        for (field, value, most) in [
            ("quotas.queued_jobs", jobs(self.queued_jobs), Self::MOST_JOBS),
            ("quotas.running_jobs", jobs(self.running_jobs), Self::MOST_JOBS),
            ("quotas.jobs_per_day", jobs(self.jobs_per_day), Self::MOST_JOBS),
            ("quotas.gpu_seconds_per_day", self.gpu_seconds_per_day.flatten(), Self::MOST_GPU_SECONDS),
            ("quotas.stored_bytes", self.stored_bytes.flatten(), Self::MOST_BYTES),
        ] {
            faults.take(value.map_or(Ok(0), |value| requests::in_range(field, value, 0..=most)));
        }
    }

    /// The quotas after the changes.
    pub(crate) fn apply(&self, quotas: Quotas) -> Quotas {
        Quotas {
            queued_jobs: self.queued_jobs.unwrap_or(quotas.queued_jobs),
            running_jobs: self.running_jobs.unwrap_or(quotas.running_jobs),
            jobs_per_day: self.jobs_per_day.unwrap_or(quotas.jobs_per_day),
            gpu_seconds_per_day: self.gpu_seconds_per_day.unwrap_or(quotas.gpu_seconds_per_day),
            stored_bytes: self.stored_bytes.unwrap_or(quotas.stored_bytes),
        }
    }
}

/// How long a client waits whose jobs are queued.
const QUEUE_PAUSE: Duration = Duration::from_secs(5);
/// How long a client waits whose storage is used up: only a deletion helps.
const STORAGE_PAUSE: Duration = Duration::from_mins(5);
/// How far the id of a job that was enqueued today may go back: a day, and what the clocks of servers differ.
const FIRST_ID: TimeDelta = TimeDelta::hours(25);

/// What a project has left of its quotas, as long as the transaction lasts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    quotas: Quotas,
    used: Used,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    queued: i64,
    today: i64,
    gpu_seconds: f64,
    bytes: i64,
    /// Until the next day begins.
    seconds_left: i64,
}

/// Locks a project that has quotas until the transaction ends, and finds what it has left of them. Locks and reads
/// nothing of one without. Before locks on models. Errors: `NotFound` for a project that was deleted.
pub(crate) async fn left(connection: &mut PgConnection, project: ProjectId) -> Result<Left> {
    let row = sqlx::query!(
        r#"SELECT max_queued_jobs, max_jobs_per_day, max_gpu_seconds_per_day, max_stored_bytes,
                  deleted_at IS NOT NULL AS "deleted!"
           FROM projects WHERE id = $1 AND limited FOR NO KEY UPDATE"#,
        project as ProjectId,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(Left::default()) };
    if row.deleted {
        return Err(Error::not_found("project", project));
    }
    let quotas = Quotas {
        queued_jobs: row.max_queued_jobs,
        // The claim enforces it.
        running_jobs: None,
        jobs_per_day: row.max_jobs_per_day,
        gpu_seconds_per_day: row.max_gpu_seconds_per_day,
        stored_bytes: row.max_stored_bytes,
    };
    let first_id = (Utc::now() - FIRST_ID).timestamp_millis().unsigned_abs();
    // A separate statement, which sees what those wrote that held the lock.
    let used = sqlx::query_as!(
        Used,
        r#"SELECT
             CASE WHEN $2 THEN (SELECT count(*) FROM jobs WHERE status = 'queued' AND project_id = $1) ELSE 0 END
               AS "queued!",
             CASE WHEN $3 THEN (
               SELECT count(*) FROM jobs
               WHERE project_id = $1 AND subject >= $6
                 AND created_at >= date_trunc('day', statement_timestamp(), 'UTC'))
             ELSE 0 END AS "today!",
             CASE WHEN $4 THEN gpu_seconds_today($1) ELSE 0 END AS "gpu_seconds!",
             CASE WHEN $5 THEN (SELECT coalesce(sum(bytes), 0)::bigint FROM stored_bytes WHERE project_id = $1)
             ELSE 0 END AS "bytes!",
             86400 - (extract(epoch FROM statement_timestamp())::bigint % 86400) AS "seconds_left!""#,
        project as ProjectId,
        quotas.queued_jobs.is_some(),
        quotas.jobs_per_day.is_some(),
        quotas.gpu_seconds_per_day.is_some(),
        quotas.stored_bytes.is_some(),
        uuid::Builder::from_unix_timestamp_millis(first_id, &[0; 10]).into_uuid() as Uuid,
    )
    .fetch_one(connection)
    .await?;
    Ok(Left { quotas, used })
}

impl Left {
    /// Takes a job, whose request itself stores `bytes`. Errors: `OverQuota`.
    pub(crate) fn take_job(&mut self, bytes: i64) -> Result<()> {
        let (quotas, used) = (self.quotas, self.used);
        let tomorrow = Duration::from_secs(used.seconds_left.unsigned_abs());
        if let Some(most) = quotas.queued_jobs.filter(|most| used.queued >= i64::from(*most)) {
            let message = format!("The project may have {most} queued jobs, and has {}.", used.queued);
            return Err(Error::over_quota("queued_jobs", message, QUEUE_PAUSE));
        }
        if let Some(most) = quotas.jobs_per_day.filter(|most| used.today >= i64::from(*most)) {
            let message = format!("The project may ask for {most} jobs a day, and did; the day ends at 0:00 UTC.");
            return Err(Error::over_quota("jobs_per_day", message, tomorrow));
        }
        if let Some(most) = quotas.gpu_seconds_per_day.filter(|most| used.gpu_seconds >= *most as f64) {
            let message = format!("The project may use {most} GPU-seconds a day, and did; the day ends at 0:00 UTC.");
            return Err(Error::over_quota("gpu_seconds_per_day", message, tomorrow));
        }
        // Its results need room, too.
        self.take_bytes(bytes.max(1))?;
        self.used.bytes -= bytes.max(1) - bytes;
        self.used.queued += 1;
        self.used.today += 1;
        Ok(())
    }

    /// Takes room for `bytes`. Errors: `OverQuota`.
    pub(crate) fn take_bytes(&mut self, bytes: i64) -> Result<()> {
        if let Some(most) = self.quotas.stored_bytes
            && self.used.bytes.saturating_add(bytes) > most
        {
            let stored = self.used.bytes;
            let message = format!("The project may store {most} bytes, and has stored {stored}; delete something.");
            return Err(Error::over_quota("stored_bytes", message, STORAGE_PAUSE));
        }
        self.used.bytes = self.used.bytes.saturating_add(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(error: &Error) -> &str {
        let Error::OverQuota { quota, .. } = error else { panic!("{error:?}") };
        quota
    }

    #[test]
    fn a_quota_is_used_up_by_the_last_that_fits() {
        let quotas = Quotas { queued_jobs: Some(3), stored_bytes: Some(100), ..Quotas::default() };
        let mut left = Left { quotas, used: Used { queued: 1, bytes: 40, ..Used::default() } };
        left.take_job(10).unwrap();
        assert_eq!(quota(&left.take_job(51).unwrap_err()), "stored_bytes");
        left.take_job(50).unwrap();
        assert_eq!(quota(&left.take_job(0).unwrap_err()), "queued_jobs");
        assert_eq!(quota(&left.take_bytes(1).unwrap_err()), "stored_bytes");
        left.take_bytes(0).unwrap();
    }

    #[test]
    fn without_room_for_results_no_job_is_taken() {
        let quotas = Quotas { stored_bytes: Some(100), ..Quotas::default() };
        let mut left = Left { quotas, used: Used { bytes: 99, ..Used::default() } };
        left.take_job(0).unwrap();
        left.take_bytes(1).unwrap();
        assert_eq!(quota(&left.take_job(0).unwrap_err()), "stored_bytes");
    }

    #[test]
    fn what_is_left_out_stays_and_null_lifts() {
        let quotas = Quotas { queued_jobs: Some(3), jobs_per_day: Some(5), ..Quotas::default() };
        let changes: QuotaChanges = serde_json::from_str(r#"{"queued_jobs": null, "stored_bytes": 7}"#).unwrap();
        let expected = Quotas { jobs_per_day: Some(5), stored_bytes: Some(7), ..Quotas::default() };
        assert_eq!(changes.apply(quotas), expected);
        assert_eq!(serde_json::to_string(&changes).unwrap(), r#"{"queued_jobs":null,"stored_bytes":7}"#);
    }

    #[test]
    fn any_amount_fits_without_quotas() {
        let mut left = Left::default();
        left.take_job(i64::MAX).unwrap();
        left.take_job(i64::MAX).unwrap();
    }
}
