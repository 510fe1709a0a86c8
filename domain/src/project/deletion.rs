//! The deletion of a project. The request marks the row, which makes the project invisible, and ends keys and jobs.
//! Everything else is removed afterwards in small transactions, by the request's server or by any sweeper. Three kinds
//! of rows stay: the project's own and its revoked keys, for the audit log, and those of deleted models, which jobs of
//! other projects may name.

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool};
use tokio::time::sleep;
use uuid::Uuid;

use super::{Project, lock};
use crate::{
    Caller, Database, Error, ProjectId, Result, Storage, UploadId, audit, begin, bounded, dataset, deletion, job,
    model, named,
};

/// Most jobs, inputs, datasets or models that are removed in one transaction.
const BATCH: i64 = 200;
/// How long a request waits until everything is removed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long its server tries before the sweeper does.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// What a caller states to delete a project.
#[derive(Debug, Default)]
pub struct Deletion {
    /// The name of the project, as confirmation.
    pub confirm: String,
    /// Name or id of the project that gets the shared models.
    pub move_shared_to: Option<String>,
}

/// Deletes a project: its name is free again, its keys are revoked, and its jobs are canceled. What it had is removed
/// by [`purge`], or else by a sweeper.
///
/// # Errors
/// `NotFound`; `Invalid` if `confirm` is another name; `Unknown` for the project that gets the models; `Conflict` for
/// the project `default`, for one that shares models unless another gets them, and if that one has a model of the same
/// name.
pub async fn delete(caller: &Caller, database: &Database, name_or_id: &str, request: &Deletion) -> Result<Project> {
    let pool = database.pool(caller);
    let mut tx = begin(pool).await?;
    let project = lock(&mut tx, name_or_id).await?;
    if project.id == ProjectId::DEFAULT {
        return Err(Error::conflict("The project `default` cannot be deleted."));
    }
    if request.confirm != project.name {
        let message = format!("Confirm with the name of the project, `{}`.", project.name);
        return Err(Error::invalid("confirm", message));
    }
    let moved = move_shared(&mut tx, &project, request.move_shared_to.as_deref()).await?;
    let id = project.id;
    sqlx::query!("UPDATE projects SET deleted_at = clock_timestamp() WHERE id = $1", id as ProjectId)
        .execute(&mut *tx)
        .await?;
    sqlx::query!(
        "UPDATE keys SET revoked_at = clock_timestamp() WHERE project_id = $1 AND revoked_at IS NULL",
        id as ProjectId
    )
    .execute(&mut *tx)
    .await?;
    // Nobody can read the log of the project itself any more.
    let elsewhere = if caller.project() == id { &caller.clone().in_project(ProjectId::DEFAULT) } else { caller };
    let details = json!({ "name": project.name, "moved": moved, "move_shared_to": request.move_shared_to });
    audit::record(&mut tx, elsewhere, "project.delete", id, details).await?;
    tx.commit().await?;
    job::cancel_project(pool, id).await?;
    Ok(project)
}

/// Moves the models that the project shares to another one, and returns their names.
async fn move_shared(connection: &mut PgConnection, from: &Project, to: Option<&str>) -> Result<Vec<String>> {
    const FIELD: &str = "move_shared_to";
    let target = match to {
        None => None,
        Some(name) => match lock(connection, name).await.map_err(|error| error.in_field(FIELD))? {
            target if target.id == from.id => return Err(Error::invalid(FIELD, "It is the project to be deleted.")),
            target => Some(target),
        },
    };
    let shared = sqlx::query_scalar!(
        "SELECT name FROM models WHERE project_id = $1 AND shared AND deleted_at IS NULL ORDER BY name FOR UPDATE",
        from.id as ProjectId,
    )
    .fetch_all(&mut *connection)
    .await?;
    if shared.is_empty() {
        return Ok(shared);
    }
    let Some(target) = target else {
        let names = shared.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let message = format!("The project shares {names}; name a project that gets them, or delete or unshare them.");
        return Err(Error::conflict_in(FIELD, message));
    };
    for name in &shared {
        let free = model::reserve_name(connection, target.id, name).await;
        free.map_err(|error| match error {
            Error::Conflict { message, .. } => Error::conflict_in(FIELD, message),
            other => other,
        })?;
    }
    sqlx::query!(
        "UPDATE models SET project_id = $2, training_id = NULL WHERE project_id = $1 AND shared AND deleted_at IS NULL",
        from.id as ProjectId,
        target.id as ProjectId,
    )
    .execute(connection)
    .await?;
    Ok(shared)
}

/// Removes what a deleted project had, and waits for that for a few seconds. Never fails: a sweeper does the rest.
pub async fn purge(caller: &Caller, database: &Database, storage: &Storage, project: ProjectId) {
    let (pool, storage) = (database.pool(caller).clone(), storage.clone());
    let purging = tokio::spawn(async move {
        for _ in 0..TRIES {
            match remove(&pool, &storage, project).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, %project, "a deleted project is not empty yet"),
            }
            sleep(PAUSE).await;
        }
    });
    let _ = tokio::time::timeout(PATIENCE, purging).await;
}

/// Removes what deleted projects had.
pub async fn purge_deleted(pool: &PgPool, storage: &Storage) -> Result<()> {
    let deleted = sqlx::query_scalar!(
        r#"SELECT id AS "id: ProjectId" FROM projects WHERE deleted_at IS NOT NULL AND purged_at IS NULL"#
    );
    for project in bounded(deleted.fetch_all(pool)).await? {
        if remove(pool, storage, project).await? {
            // Requests that were on their way when the project was deleted have ended an hour later.
            let purged = sqlx::query!(
                "UPDATE projects SET purged_at = clock_timestamp()
                 WHERE id = $1 AND deleted_at < clock_timestamp() - interval '1 hour'",
                project as ProjectId,
            );
            bounded(purged.execute(pool)).await?;
        }
    }
    Ok(())
}

/// Removes what the project has, as far as no unfinished job needs it. Returns whether nothing is left.
async fn remove(pool: &PgPool, storage: &Storage, project: ProjectId) -> Result<bool> {
    job::cancel_project(pool, project).await?;
    let running = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM jobs WHERE project_id = $1 AND status = 'running') AS "running!""#,
        project as ProjectId,
    );
    if bounded(running.fetch_one(pool)).await? {
        return Ok(false);
    }
    for kind in [Rows::Jobs, Rows::Inputs, Rows::Datasets, Rows::Models] {
        while remove_some(pool, storage, project, kind).await? {}
    }
    let uploads = sqlx::query_scalar!(
        r#"SELECT id AS "id: UploadId" FROM model_uploads WHERE project_id = $1"#,
        project as ProjectId
    );
    let uploads: Vec<UploadId> = bounded(uploads.fetch_all(pool)).await?;
    model::upload::discard(pool, storage, &uploads).await?;
    let left = sqlx::query_scalar!(
        r#"WITH forgotten AS (DELETE FROM stored_bytes WHERE project_id = $1),
             ended AS (DELETE FROM sessions USING keys WHERE keys.id = key_id AND project_id = $1),
             untold AS (DELETE FROM webhooks WHERE project_id = $1),
             unsigned AS (DELETE FROM webhook_secrets WHERE project_id = $1)
           SELECT EXISTS (SELECT FROM models WHERE project_id = $1 AND deleted_at IS NULL) AS "left!""#,
        project as ProjectId,
    );
    Ok(!bounded(left.fetch_one(pool)).await?)
}

/// The rows that are removed together.
#[derive(Clone, Copy)]
enum Rows {
    Jobs,
    Inputs,
    Datasets,
    Models,
}

/// Removes some rows and their objects; returns whether there were any.
async fn remove_some(pool: &PgPool, storage: &Storage, project: ProjectId, rows: Rows) -> Result<bool> {
    let removed = bounded(async {
        let mut tx = begin(pool).await?;
        let (count, mut keys) = match rows {
            Rows::Jobs => remove_jobs(&mut tx, project).await?,
            Rows::Inputs => remove_inputs(&mut tx, project).await?,
            Rows::Datasets => remove_datasets(&mut tx, project).await?,
            Rows::Models => remove_models(&mut tx, project).await?,
        };
        // A file may belong to a model, too, or to several.
        let named = named::named(&mut tx, &keys).await?;
        keys.retain(|key| !named.contains(key));
        deletion::ask(&mut tx, &keys).await?;
        tx.commit().await?;
        Ok::<_, Error>((count, keys))
    });
    let (count, keys) = removed.await?;
    deletion::now(pool, storage, keys).await;
    Ok(count > 0)
}

/// Removes the newest jobs with their generations, trainings, imports and exports: a job is named by those that repeat
/// it, which are newer.
async fn remove_jobs(connection: &mut PgConnection, project: ProjectId) -> Result<(usize, Vec<String>)> {
    let jobs = sqlx::query_scalar!(
        "SELECT id FROM jobs WHERE project_id = $1 ORDER BY subject DESC LIMIT $2",
        project as ProjectId,
        BATCH
    )
    .fetch_all(&mut *connection)
    .await?;
    let keys = sqlx::query_scalar!(
        r#"SELECT storage_key AS "key!" FROM artifacts WHERE job_id = ANY($1)
           UNION ALL
           SELECT picture ->> 'storage_key' FROM generations g
           CROSS JOIN LATERAL (VALUES (g.params -> 'image'), (g.params -> 'mask')) AS p(picture)
           WHERE g.job_id = ANY($1) AND picture ->> 'storage_key' IS NOT NULL AND picture ->> 'input' IS NULL
           UNION ALL
           SELECT c.storage_key FROM training_checkpoints c JOIN trainings t ON t.id = c.training_id
           WHERE t.job_id = ANY($1)
           UNION ALL
           SELECT jsonb_path_query(files, '$[*].storage_key') #>> '{}' FROM imports WHERE job_id = ANY($1)"#,
        &jobs,
    )
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE models SET training_id = NULL WHERE training_id IN (SELECT id FROM trainings WHERE job_id = ANY($1))",
        &jobs
    )
    .execute(&mut *connection)
    .await?;
    // While their job says whose they are.
    sqlx::query!("DELETE FROM artifacts WHERE job_id = ANY($1)", &jobs).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM generations WHERE job_id = ANY($1)", &jobs).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM trainings WHERE job_id = ANY($1)", &jobs).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM imports WHERE job_id = ANY($1)", &jobs).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM exports WHERE job_id = ANY($1)", &jobs).execute(&mut *connection).await?;
    sqlx::query!("DELETE FROM jobs WHERE id = ANY($1)", &jobs).execute(connection).await?;
    Ok((jobs.len(), keys))
}

async fn remove_inputs(connection: &mut PgConnection, project: ProjectId) -> Result<(usize, Vec<String>)> {
    let keys = sqlx::query_scalar!(
        "DELETE FROM inputs WHERE id IN (SELECT id FROM inputs WHERE project_id = $1 LIMIT $2) RETURNING storage_key",
        project as ProjectId,
        BATCH,
    )
    .fetch_all(connection)
    .await?;
    Ok((keys.len(), keys))
}

async fn remove_datasets(connection: &mut PgConnection, project: ProjectId) -> Result<(usize, Vec<String>)> {
    // Those that are deleted have no pictures.
    let datasets = sqlx::query_scalar!("SELECT id FROM datasets WHERE project_id = $1 LIMIT 1", project as ProjectId)
        .fetch_all(&mut *connection)
        .await?;
    let mut keys = dataset::forget_uploads(connection, &datasets).await?;
    let examples =
        sqlx::query_scalar!("DELETE FROM examples WHERE dataset_id = ANY($1) RETURNING storage_key", &datasets);
    keys.extend(examples.fetch_all(&mut *connection).await?);
    sqlx::query!("DELETE FROM datasets WHERE id = ANY($1)", &datasets).execute(connection).await?;
    Ok((datasets.len(), keys))
}

/// Marks models as deleted that no unfinished job of another project needs: one may have been shared before.
async fn remove_models(connection: &mut PgConnection, project: ProjectId) -> Result<(usize, Vec<String>)> {
    model::lock_deletions(connection).await?;
    let models: Vec<Uuid> = sqlx::query_scalar!(
        "SELECT id FROM models m
         WHERE project_id = $1 AND deleted_at IS NULL AND NOT EXISTS (
           SELECT FROM job_needs n JOIN jobs j ON j.id = n.job_id
           WHERE n.model_id = m.id AND (j.status = 'queued' OR j.status = 'running'))
         ORDER BY id LIMIT $2 FOR UPDATE",
        project as ProjectId,
        BATCH,
    )
    .fetch_all(&mut *connection)
    .await?;
    let keys = sqlx::query_scalar!(
        r#"WITH gone AS (UPDATE models SET deleted_at = clock_timestamp() WHERE id = ANY($1) RETURNING files)
           SELECT jsonb_path_query(files, '$[*].storage_key') #>> '{}' AS "key!" FROM gone"#,
        &models,
    )
    .fetch_all(connection)
    .await?;
    Ok((models.len(), keys))
}
