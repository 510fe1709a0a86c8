//! Retention: how long a project keeps what it has. Older rows are deleted, kind by kind, by the functions that delete
//! them for users. A dry run finds them by the same queries. Datasets, models and trainings that succeeded are never
//! deleted by age.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::faults::Faults;
use crate::job::JobKind;
use crate::{Caller, Database, Error, InputId, ProjectId, Result, Storage, bounded, input, integer, jobs};

/// Most rows that are looked up, or events that are deleted, at once.
const BATCH: i64 = 200;
/// Most days.
const MOST: i32 = 36_500;

/// For how many days a project keeps what it has. Null: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Retention {
    /// Generations and exports that succeeded, with their files, from their end.
    pub outputs_days: Option<i32>,
    /// Uploaded inputs, from their upload. One that an unfinished generation needs is kept until that has ended.
    pub inputs_days: Option<i32>,
    /// Events of jobs but the last one, from the end of the job.
    pub events_days: Option<i32>,
    /// Jobs of any kind that failed or were canceled, from their end.
    pub failed_jobs_days: Option<i32>,
}

/// Changes of a retention. Those that are left out stay; null: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionChanges {
    /// Generations and exports that succeeded, with their files, from their end.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 1, 36_500>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 36500)]
    pub outputs_days: Option<Option<i32>>,
    /// Uploaded inputs, from their upload. One that an unfinished generation needs is kept until that has ended.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 1, 36_500>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 36500)]
    pub inputs_days: Option<Option<i32>>,
    /// Events of jobs but the last one, from the end of the job.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 1, 36_500>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 36500)]
    pub events_days: Option<Option<i32>>,
    /// Jobs of any kind that failed or were canceled, from their end.
    #[serde(default, deserialize_with = "integer::nullable::<_, _, 1, 36_500>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 36500)]
    pub failed_jobs_days: Option<Option<i32>>,
}

impl RetentionChanges {
    /// Errors: `Invalid` for each value outside its range.
    pub(crate) fn check(&self, faults: &mut Faults) {
        for (field, value) in [
            ("retention.outputs_days", self.outputs_days),
            ("retention.inputs_days", self.inputs_days),
            ("retention.events_days", self.events_days),
            ("retention.failed_jobs_days", self.failed_jobs_days),
        ] {
            faults.take(value.flatten().map_or(Ok(1), |days| requests::in_range(field, days, 1..=MOST)));
        }
    }

    /// The retention after the changes.
    pub(crate) fn apply(&self, retention: Retention) -> Retention {
        Retention {
            outputs_days: self.outputs_days.unwrap_or(retention.outputs_days),
            inputs_days: self.inputs_days.unwrap_or(retention.inputs_days),
            events_days: self.events_days.unwrap_or(retention.events_days),
            failed_jobs_days: self.failed_jobs_days.unwrap_or(retention.failed_jobs_days),
        }
    }
}

/// Rows that are older than a retention allows, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Expired {
    /// Generations and exports that succeeded.
    pub outputs: Amount,
    /// Uploaded inputs.
    pub inputs: Amount,
    /// Events of jobs.
    pub events: Amount,
    /// Jobs that failed or were canceled.
    pub failed_jobs: Amount,
}

impl Expired {
    /// Whether there is anything.
    pub fn is_empty(&self) -> bool {
        [self.outputs, self.inputs, self.events, self.failed_jobs].iter().all(|amount| amount.count == 0)
    }
}

/// A number of rows with their objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Amount {
    pub count: i64,
    /// Bytes in the bucket; 0 for events, which are in the database only.
    pub bytes: i64,
}

/// Ended jobs of a project ($1) that ended at least some days ago ($2), of some states ($3) and kinds ($4).
macro_rules! ended_jobs {
    ($head:literal, $tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            $head + r#"
            (SELECT j.subject AS id,
                    coalesce((SELECT sum(a.bytes) FROM artifacts a WHERE a.job_id = j.id), 0)::bigint
                    + coalesce((SELECT g.source_bytes FROM generations g WHERE g.job_id = j.id), 0) AS bytes
             FROM jobs j
             WHERE j.project_id = $1 AND j.deleted_at IS NULL
               AND j.finished_at < clock_timestamp() - make_interval(days => $2)
               AND j.status = ANY($3) AND j.kind = ANY($4)) AS old "# + $tail
            $(, $argument)*
        )
    };
}

/// Inputs of a project ($1) that were uploaded at least some days ago ($2) and that no unfinished generation needs.
macro_rules! old_inputs {
    ($head:literal, $tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            $head + r#"
            (SELECT i.id, i.bytes FROM inputs i
             WHERE i.project_id = $1 AND i.created_at < clock_timestamp() - make_interval(days => $2)
               AND i.id::text NOT IN (
                 SELECT needed FROM jobs j JOIN generations g ON g.job_id = j.id
                 CROSS JOIN LATERAL (VALUES (g.params -> 'image' ->> 'input'), (g.params -> 'mask' ->> 'input'))
                     AS pictures (needed)
                 WHERE j.project_id = $1 AND j.status IN ('queued', 'running') AND needed IS NOT NULL)) AS old "#
                + $tail
            $(, $argument)*
        )
    };
}

/// Events of jobs of a project ($1) that ended at least some days ago ($2), but the last event of each, from which a
/// follower learns how the job ended.
macro_rules! old_events {
    ($head:literal, $tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            $head + r#"
            (SELECT e.job_id, e.sequence FROM jobs j JOIN job_events e ON e.job_id = j.id
             WHERE j.project_id = $1 AND j.finished_at < clock_timestamp() - make_interval(days => $2)
               AND e.sequence < j.last_sequence"# + $tail
            $(, $argument)*
        )
    };
}

/// Which ended jobs: the states and the kinds.
struct Which {
    states: Vec<String>,
    kinds: Vec<String>,
}

impl Which {
    fn outputs() -> Self {
        let kinds = [JobKind::Generation, JobKind::Export];
        Self { states: vec!["succeeded".to_owned()], kinds: kinds.map(|kind| kind.as_str().to_owned()).into() }
    }

    fn failed() -> Self {
        let states = ["failed", "canceled"].map(str::to_owned).into();
        Self { states, kinds: JobKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect() }
    }
}

/// Counts what a project has that is older than `retention` allows.
pub(super) async fn expired(
    connection: &mut PgConnection,
    project: ProjectId,
    retention: &Retention,
) -> Result<Expired> {
    let mut expired = Expired::default();
    for (days, which, amount) in [
        (retention.outputs_days, Which::outputs(), &mut expired.outputs),
        (retention.failed_jobs_days, Which::failed(), &mut expired.failed_jobs),
    ] {
        let Some(days) = days else { continue };
        let found = ended_jobs!(
            r#"SELECT count(*) AS "count!", coalesce(sum(bytes), 0)::bigint AS "bytes!" FROM"#,
            "",
            project as ProjectId,
            days,
            &which.states,
            &which.kinds,
        );
        let found = bounded(found.fetch_one(&mut *connection)).await?;
        *amount = Amount { count: found.count, bytes: found.bytes };
    }
    if let Some(days) = retention.inputs_days {
        let found = old_inputs!(
            r#"SELECT count(*) AS "count!", coalesce(sum(bytes), 0)::bigint AS "bytes!" FROM"#,
            "",
            project as ProjectId,
            days,
        );
        let found = bounded(found.fetch_one(&mut *connection)).await?;
        expired.inputs = Amount { count: found.count, bytes: found.bytes };
    }
    if let Some(days) = retention.events_days {
        let found = old_events!(r#"SELECT count(*) AS "count!" FROM"#, ") AS old", project as ProjectId, days);
        expired.events.count = bounded(found.fetch_one(&mut *connection)).await?.count;
    }
    Ok(expired)
}

/// Deletes everything that is too old, in all projects. Cheap if no project has a retention.
pub(crate) async fn enforce(pool: &PgPool, storage: &Storage) -> Result<()> {
    let projects = sqlx::query!(
        r#"SELECT id AS "id: ProjectId", keep_outputs_days, keep_inputs_days, keep_events_days, keep_failed_jobs_days
           FROM projects
           WHERE deleted_at IS NULL
             AND num_nonnulls(keep_outputs_days, keep_inputs_days, keep_events_days, keep_failed_jobs_days) > 0"#
    );
    for project in bounded(projects.fetch_all(pool)).await? {
        let old = Old { pool, storage, database: Database::new(pool.clone()), project: project.id };
        if let Some(days) = project.keep_outputs_days {
            old.delete_jobs(days, &Which::outputs()).await?;
        }
        if let Some(days) = project.keep_failed_jobs_days {
            old.delete_jobs(days, &Which::failed()).await?;
        }
        if let Some(days) = project.keep_inputs_days {
            old.delete_inputs(days).await?;
        }
        if let Some(days) = project.keep_events_days {
            old.delete_events(days).await?;
        }
    }
    Ok(())
}

/// One project whose old rows are deleted.
struct Old<'a> {
    pool: &'a PgPool,
    storage: &'a Storage,
    database: Database,
    project: ProjectId,
}

impl Old<'_> {
    async fn delete_jobs(&self, days: i32, which: &Which) -> Result<()> {
        let mut last = Uuid::nil();
        loop {
            let old = ended_jobs!(
                "SELECT id FROM",
                "WHERE id > $5 ORDER BY id LIMIT $6",
                self.project as ProjectId,
                days,
                &which.states,
                &which.kinds,
                last,
                BATCH,
            );
            let old = bounded(old.fetch_all(self.pool)).await?;
            let Some(newest) = old.last() else { return Ok(()) };
            last = newest.id;
            for job in &old {
                let caller = Caller::operator(self.project);
                unless_done(jobs::delete(&caller, &self.database, self.storage, job.id).await)?;
            }
        }
    }

    async fn delete_inputs(&self, days: i32) -> Result<()> {
        let mut last = Uuid::nil();
        loop {
            let old = old_inputs!(
                r#"SELECT id AS "id: InputId" FROM"#,
                "WHERE id > $3 ORDER BY id LIMIT $4",
                self.project as ProjectId,
                days,
                last,
                BATCH,
            );
            let old = bounded(old.fetch_all(self.pool)).await?;
            let Some(newest) = old.last() else { return Ok(()) };
            last = newest.id.into();
            for input in &old {
                let caller = Caller::operator(self.project);
                unless_done(input::delete(&caller, &self.database, self.storage, input.id).await)?;
            }
        }
    }

    async fn delete_events(&self, days: i32) -> Result<()> {
        loop {
            let deleted = old_events!(
                "DELETE FROM job_events WHERE (job_id, sequence) IN",
                " LIMIT $3)",
                self.project as ProjectId,
                days,
                BATCH,
            );
            if bounded(deleted.execute(self.pool)).await?.rows_affected() < BATCH.unsigned_abs() {
                return Ok(());
            }
        }
    }
}

/// Someone else has deleted it, or needs it since: it is deleted later.
fn unless_done(deleted: Result<()>) -> Result<()> {
    match deleted {
        Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
        other => other,
    }
}
