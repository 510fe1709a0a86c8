//! Checks the database afterwards: attempts, events, and the invariants that hold for every row at any time.

use std::collections::BTreeSet;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row};

use crate::wait::seconds;

/// Read access to the tables of one installation.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: PgPool,
}

/// One claim of a job. Times are seconds since 1970 by the database's clock.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub epoch: i64,
    pub worker: String,
    pub started_at: f64,
    pub ended_at: Option<f64>,
    pub outcome: Option<String>,
}

/// Keys of the objects that must be in the bucket.
const OBJECTS: &str = "
    select storage_key from examples union select storage_key from inputs union select storage_key from artifacts
    union select storage_key from training_checkpoints
    union select file->>'storage_key' from models, jsonb_array_elements(files) file where deleted_at is null
    union select file->>'storage_key' from imports, jsonb_array_elements(files) file
    union select picture->>'storage_key' from generations, unnest(array[params->'image', params->'mask']) picture
          where deleted_at is null and picture->>'input' is null and picture->>'storage_key' is not null";

/// A rule, and the query that finds rows that break it.
const RULES: &[(&str, &str)] = &[
    (
        "an unfinished job that needs a deleted model",
        "select j.subject::text from jobs j join job_needs n on n.job_id = j.id join models m on m.id = n.model_id
         where j.status in ('queued', 'running') and m.deleted_at is not null",
    ),
    (
        "a repeated job that did not fail",
        "select j.subject::text from jobs j join jobs o on o.id = j.retry_of
         where o.status <> 'failed' or o.kind <> j.kind",
    ),
    (
        "an import with a model before it succeeded or without one after, or one that ended and still knows a query \
         string",
        "select i.id::text from imports i join jobs j on j.id = i.job_id
         where (j.status = 'succeeded') <> (i.output_model_id is not null)
            or (j.status in ('succeeded', 'failed', 'canceled')
                and (i.url_query is not null or i.part_queries is not null))",
    ),
    (
        "a succeeded export without exactly one file as long as its model is not deleted",
        "select x.id::text from exports x join jobs j on j.id = x.job_id join models m on m.id = x.model_id
         where j.status = 'succeeded'
           and (select count(*) from artifacts a where a.job_id = j.id) <> (m.deleted_at is null)::int",
    ),
    (
        "a succeeded generation whose pictures are not exactly the positions asked for, of one attempt",
        "select g.id::text from generations g join jobs j on j.id = g.job_id left join artifacts a on a.job_id = j.id
         where j.status = 'succeeded' and g.deleted_at is null group by g.id
         having array_agg(a.position order by a.position)
                <> (select array_agg(i) from generate_series(0, (g.params->>'num_images')::int - 1) i)
             or count(distinct a.epoch) <> 1",
    ),
    (
        "a succeeded training without exactly one model, and one adapter as long as neither is deleted",
        "select t.id::text from trainings t join jobs j on j.id = t.job_id
         left join models m on m.id = t.output_model_id and m.training_id = t.id
         where j.status = 'succeeded' and (m.id is null
             or (select count(*) from models n where n.training_id = t.id) <> 1
             or (select count(*) from artifacts a where a.job_id = j.id and a.kind = 'lora')
                <> (m.deleted_at is null and t.deleted_at is null)::int)",
    ),
    (
        "an output of a job that did not succeed",
        "select a.id::text from artifacts a join jobs j on j.id = a.job_id where j.status <> 'succeeded'
         union all select m.id::text from models m join trainings t on t.id = m.training_id
         join jobs j on j.id = t.job_id where j.status <> 'succeeded'",
    ),
    (
        "an output of an attempt that is not the one that succeeded",
        "select a.id::text from artifacts a join attempts t on (t.job_id, t.epoch) = (a.job_id, a.epoch)
         where t.outcome is distinct from 'succeeded'",
    ),
    (
        "a succeeded job without exactly one succeeded attempt",
        "select j.id::text from jobs j where j.status = 'succeeded'
         and (select count(*) from attempts t where t.job_id = j.id and t.outcome = 'succeeded') <> 1",
    ),
    (
        "a terminal job with an open attempt, or a running one without",
        "select j.id::text from jobs j
         where (j.status = 'running')
               <> exists (select 1 from attempts t where t.job_id = j.id and t.ended_at is null)",
    ),
    (
        "a message with a path of a worker",
        "select message from (
             select error_message from jobs union all select error from attempts
             union all select data->>'message' from job_events
             union all select jsonb_array_elements_text(warnings) from generations
             union all select jsonb_array_elements_text(warnings) from trainings) as messages(message)
         where message ~ '/(work|cache)/|/imports/[0-9a-f]{8}-'",
    ),
    (
        "events with a gap, unless a retention has deleted all but the last; or a terminal event that is missing, doubled \
         or not the last",
        "select j.id::text from jobs j left join job_events e on e.job_id = j.id group by j.id
         having max(e.sequence) is distinct from j.last_sequence or count(e.sequence) = 0
             or count(e.sequence) <> j.last_sequence and (count(e.sequence) > 1 or j.finished_at is null)
             or count(*) filter (where e.kind in ('succeeded', 'failed', 'canceled'))
                <> (j.status in ('succeeded', 'failed', 'canceled'))::int
             or (j.status in ('succeeded', 'failed', 'canceled')
                 and j.status <> (array_agg(e.kind order by e.sequence desc))[1])",
    ),
];

impl Ledger {
    pub async fn open(database_url: &str) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(3)
            .acquire_timeout(seconds(20))
            .connect(database_url)
            .await
            .expect("database");
        Self { pool }
    }

    /// For a journey's own queries.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Panics if any row of any table breaks a rule. The rules hold at any moment, not only at rest.
    pub async fn audit(&self) {
        for (rule, query) in RULES {
            let broken: Vec<String> = sqlx::query_scalar(*query).fetch_all(&self.pool).await.expect("audit query");
            assert!(broken.is_empty(), "{rule}: {broken:?}");
        }
        self.audit_subjects().await;
        let deleted = format!("select key from deletions where done_at is null and key in ({OBJECTS})");
        let broken: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(deleted)).fetch_all(&self.pool).await.expect("audit query");
        assert!(broken.is_empty(), "objects are to be deleted that rows name: {broken:?}");
    }

    /// What the keys of unfinished uploads begin with: clients may have put objects there.
    pub async fn uploads(&self) -> Vec<String> {
        let uploads = "select 'uploads/' || id from uploads where completed_at is null
                       union select 'uploads/' || id || '/' from model_uploads";
        sqlx::query_scalar(uploads).fetch_all(&self.pool).await.expect("uploads")
    }

    /// Keys of the objects that rows name and need.
    pub async fn objects_of_rows(&self) -> BTreeSet<String> {
        let keys: Vec<String> = sqlx::query_scalar(OBJECTS).fetch_all(&self.pool).await.expect("keys");
        keys.into_iter().collect()
    }

    /// Each job that is not deleted has exactly one subject, and each subject its job. Tables of subjects are those that reference each job
    /// once.
    async fn audit_subjects(&self) {
        let tables: Vec<String> = sqlx::query_scalar(
            "select f.conrelid::regclass::text from pg_constraint f
             join pg_constraint u on u.conrelid = f.conrelid and u.conkey = f.conkey
             where f.contype = 'f' and f.confrelid = 'jobs'::regclass and u.contype = 'u' order by 1",
        )
        .fetch_all(&self.pool)
        .await
        .expect("tables");
        assert!(tables.len() >= 4, "{tables:?}");
        let subjects: Vec<String> =
            tables.iter().map(|table| format!("select id, job_id, '{table}' as noun from {table}")).collect();
        let query = format!(
            "select coalesce(j.subject, s.id)::text from jobs j
             full join ({}) as s on s.job_id = j.id and s.id = j.subject
             where j.deleted_at is null or s.id is not null
             group by 1 having count(j.id) <> 1 or count(s.id) <> 1 or bool_or(s.noun not like j.kind || '%')",
            subjects.join(" union all ")
        );
        let broken: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&self.pool).await.expect("audit query");
        assert!(broken.is_empty(), "a job without its subject, or a subject without its job: {broken:?}");
    }

    /// Attempts at a job of any kind, oldest first.
    pub async fn attempts(&self, id: &str) -> Vec<Attempt> {
        sqlx::query(
            "select epoch, worker::text, extract(epoch from started_at)::float8 as started_at,
                    extract(epoch from ended_at)::float8 as ended_at, outcome
             from attempts where job_id = (select id from jobs where subject::text = $1) order by epoch",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await
        .expect("attempts")
        .iter()
        .map(|row| Attempt {
            epoch: row.get("epoch"),
            worker: row.get("worker"),
            started_at: row.get("started_at"),
            ended_at: row.get("ended_at"),
            outcome: row.get("outcome"),
        })
        .collect()
    }

    /// Storage keys of the artifacts of a job of any kind, by position.
    pub async fn storage_keys(&self, id: &str) -> Vec<String> {
        sqlx::query_scalar(
            "select storage_key from artifacts where job_id = (select id from jobs where subject::text = $1)
             order by position",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await
        .expect("artifacts")
    }

    pub async fn count(&self, table: &'static str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {table}")))
            .fetch_one(&self.pool)
            .await
            .expect("count")
    }

    /// A digest of all rows that an attempt can change: equal digests mean that nothing changed.
    pub async fn digest(&self) -> Vec<(&'static str, Option<String>)> {
        let mut all = Vec::new();
        for table in [
            "jobs",
            "attempts",
            "job_events",
            "job_needs",
            "artifacts",
            "generations",
            "trainings",
            "training_checkpoints",
            "models",
            "imports",
            "exports",
        ] {
            let query = format!("select md5(string_agg(row::text, ',' order by row::text)) from {table} row");
            all.push((table, sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool).await.expect("digest")));
        }
        all
    }

    /// Seconds since 1970 by the database's clock, which decides about leases.
    pub async fn now(&self) -> f64 {
        sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8")
            .fetch_one(&self.pool)
            .await
            .expect("clock")
    }
}
