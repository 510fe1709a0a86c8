//! What the schema itself refuses: the last line of defence behind the code.

use domain::JobId;
use domain::job::JobStatus;
use sqlx::PgPool;

use super::{Database, claim, enqueue, patient};

/// Statements that bring a fresh job into a status.
fn way_to(status: JobStatus) -> Vec<&'static str> {
    const RUN: &str = "UPDATE jobs SET status = 'running', epoch = epoch + 1, worker = gen_random_uuid(), \
         lease_until = now(), started_at = now() WHERE id = $1";
    match status {
        JobStatus::Queued => vec![],
        JobStatus::Running => vec![RUN],
        JobStatus::Succeeded => vec![RUN, SUCCEED],
        JobStatus::Failed => vec![RUN, FAIL],
        JobStatus::Canceled => vec![CANCEL],
    }
}

const SUCCEED: &str =
    "UPDATE jobs SET status = 'succeeded', worker = NULL, lease_until = NULL, finished_at = now() WHERE id = $1";
const FAIL: &str = "UPDATE jobs SET status = 'failed', worker = NULL, lease_until = NULL, finished_at = now(), \
     error_class = 'crash', error_message = 'x' WHERE id = $1";
const CANCEL: &str = "UPDATE jobs SET status = 'canceled', worker = NULL, lease_until = NULL, finished_at = now(), \
     cancel_requested_at = now() WHERE id = $1";

/// A statement that moves to a status and fulfils every CHECK, so that only the transition can be wrong.
fn step_to(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Queued => {
            "UPDATE jobs SET status = 'queued', worker = NULL, lease_until = NULL, finished_at = NULL, \
             error_class = NULL, error_message = NULL WHERE id = $1"
        }
        JobStatus::Running => {
            "UPDATE jobs SET status = 'running', epoch = epoch + (status <> 'running')::int,
                 worker = coalesce(worker, gen_random_uuid()), lease_until = now(),
                 started_at = now(), finished_at = NULL, error_class = NULL, error_message = NULL WHERE id = $1"
        }
        JobStatus::Succeeded => {
            "UPDATE jobs SET status = 'succeeded', worker = NULL, lease_until = NULL, finished_at = now(), \
             error_class = NULL, error_message = NULL WHERE id = $1"
        }
        JobStatus::Failed => FAIL,
        JobStatus::Canceled => {
            "UPDATE jobs SET status = 'canceled', worker = NULL, lease_until = NULL, finished_at = now(), \
             cancel_requested_at = now(), error_class = NULL, error_message = NULL WHERE id = $1"
        }
    }
}

async fn run(pool: &PgPool, statement: &'static str, job: JobId) -> Result<(), String> {
    match sqlx::query(statement).bind(job.0).execute(pool).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .map(std::borrow::Cow::into_owned)
            .unwrap()),
    }
}

#[tokio::test]
async fn every_pair_of_statuses() {
    let database = Database::fresh().await;
    let pool = database.pool();
    for from in JobStatus::ALL {
        for to in JobStatus::ALL {
            let job = enqueue(pool, 0).await;
            for statement in way_to(from) {
                run(pool, statement, job).await.unwrap();
            }
            let result = run(pool, step_to(to), job).await;
            let expected = if from.is_terminal() {
                Err("PJ003".to_owned())
            } else if from == to || from.may_become(to) {
                Ok(())
            } else {
                Err("PJ002".to_owned())
            };
            assert_eq!(result, expected, "{from:?} → {to:?}");
        }
    }
}

#[tokio::test]
async fn rows_that_make_no_sense() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, 0).await;
    claim(pool, &patient()).await.unwrap();
    let check = "23514";
    for (statement, code) in [
        ("UPDATE jobs SET epoch = epoch + 1 WHERE id = $1", "PJ004"),
        ("UPDATE jobs SET epoch = epoch - 1 WHERE id = $1", "PJ004"),
        ("UPDATE jobs SET worker = gen_random_uuid() WHERE id = $1", "PJ004"),
        ("UPDATE jobs SET lease_until = NULL WHERE id = $1", check),
        ("UPDATE jobs SET finished_at = now() WHERE id = $1", check),
        ("UPDATE jobs SET failures = max_failures + 1 WHERE id = $1", check),
        ("UPDATE jobs SET crashes = max_crashes + 1 WHERE id = $1", check),
        ("UPDATE jobs SET step = total_steps + 1 WHERE id = $1", check),
        ("UPDATE jobs SET error_class = 'crash' WHERE id = $1", check),
        ("UPDATE jobs SET status = 'paused' WHERE id = $1", "PJ002"),
        ("UPDATE job_events SET data = '{}' WHERE job_id = $1", "PJ005"),
        (
            "INSERT INTO attempts (job_id, epoch, worker, project_id, holds_device)
             SELECT id, 2, gen_random_uuid(), project_id, true FROM jobs WHERE id = $1",
            "23505",
        ),
        (
            "INSERT INTO jobs (project_id, id, kind, status)
             SELECT project_id, gen_random_uuid(), kind, 'running' FROM jobs WHERE id = $1",
            "PJ001",
        ),
        ("UPDATE jobs SET subject = NULL WHERE id = $1", "23502"),
        (
            "INSERT INTO jobs (project_id, id, subject, kind)
             SELECT project_id, gen_random_uuid(), subject, kind FROM jobs WHERE id = $1",
            "23505",
        ),
    ] {
        assert_eq!(run(pool, statement, job).await, Err(code.to_owned()), "{statement}");
    }
}

#[tokio::test]
async fn every_column_is_commented_and_beats_stay_in_place() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> '_sqlx_migrations'
           AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(bare, Vec::<String>::new());

    // An index that named a column of the heartbeat would make every beat write all indexes.
    let touched: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT a.attname::text FROM pg_index i
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
         WHERE i.indrelid = 'jobs'::regclass",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    for column in ["lease_until", "step", "total_steps", "progress", "last_sequence"] {
        assert!(!touched.iter().any(|name| name == column), "{column} is indexed");
    }
}
