//! Retention: generations and inputs are deleted when they are older than their project keeps them.

use sqlx::PgPool;
use uuid::Uuid;

use crate::{Caller, Database, Error, GenerationId, InputId, ProjectId, Result, Storage, bounded, generation, input};

/// Most rows that are looked up at once.
const BATCH: i64 = 200;

/// Deletes everything that is too old, in all projects. Cheap if no project has a retention.
pub(crate) async fn enforce(pool: &PgPool, storage: &Storage) -> Result<()> {
    let database = Database::new(pool.clone());
    let mut last = Uuid::nil();
    loop {
        let old = sqlx::query!(
            r#"SELECT g.id AS "id: GenerationId", p.id AS "project: ProjectId"
               FROM projects p JOIN generations g ON g.project_id = p.id JOIN jobs j ON j.id = g.job_id
               WHERE p.deleted_at IS NULL AND g.deleted_at IS NULL AND g.id > $1
                 AND j.finished_at < clock_timestamp() - make_interval(days => p.retention_days)
               ORDER BY g.id LIMIT $2"#,
            last,
            BATCH,
        );
        let old = bounded(old.fetch_all(pool)).await?;
        let Some(newest) = old.last() else { break };
        last = newest.id.into();
        for row in &old {
            let deleted = generation::delete(&Caller::operator(row.project), &database, storage, row.id).await;
            unless_done(deleted)?;
        }
    }
    last = Uuid::nil();
    loop {
        let old = sqlx::query!(
            r#"SELECT i.id AS "id: InputId", p.id AS "project: ProjectId"
               FROM projects p JOIN inputs i ON i.project_id = p.id
               WHERE p.deleted_at IS NULL AND i.id > $1
                 AND i.created_at < clock_timestamp() - make_interval(days => p.retention_days)
               ORDER BY i.id LIMIT $2"#,
            last,
            BATCH,
        );
        let old = bounded(old.fetch_all(pool)).await?;
        let Some(newest) = old.last() else { return Ok(()) };
        last = newest.id.into();
        for row in &old {
            unless_done(input::delete(&Caller::operator(row.project), &database, storage, row.id).await)?;
        }
    }
}

/// Someone else has deleted it, or an unfinished generation needs it: it is deleted later.
fn unless_done(deleted: Result<()>) -> Result<()> {
    match deleted {
        Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
        other => other,
    }
}
