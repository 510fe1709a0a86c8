//! Datasets: named sets of pictures with captions to train on. An example never changes: `dataset::intake` adds it, and
//! it can only be deleted. A training takes a snapshot when it is created, so later changes do not affect it. The bytes
//! must stay while it runs, so deleting what an unfinished training needs is a conflict.

pub mod folder;
pub mod intake;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::limits::check_display_name;
use crate::{
    Caller, Database, DatasetId, Error, ExampleId, Page, PageRequest, ProjectId, Result, Storage, begin, deletion,
    leftover,
};

/// Most characters of a caption.
pub const MAX_CAPTION_CHARS: usize = 10_000;
/// Most characters of a dataset's name.
pub const MAX_NAME_CHARS: usize = 200;

/// Parameters to create a dataset.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "clay animals"}))]
pub struct DatasetRequest {
    /// Display name; need not be unique.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\u0000-\u001f\u007f]+$", example = "clay animals")]
    pub name: String,
}

/// A dataset without its examples.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub id: DatasetId,
    pub name: String,
    pub example_count: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// One picture with its caption.
#[derive(Clone, Debug)]
pub struct Example {
    pub id: ExampleId,
    pub position: i32,
    pub storage_key: String,
    pub sha256: String,
    pub media_type: String,
    pub width: i32,
    pub height: i32,
    pub bytes: i64,
    /// May be empty.
    pub caption: String,
    pub created_at: DateTime<Utc>,
}

/// Creates an empty dataset. Errors: `Invalid` for a name that is empty, too long or holds control characters.
pub async fn create(caller: &Caller, database: &Database, request: DatasetRequest) -> Result<Dataset> {
    let name = request.name;
    check_display_name(&name, MAX_NAME_CHARS)?;
    let id = DatasetId::new();
    let row = sqlx::query!(
        "INSERT INTO datasets (id, project_id, name) VALUES ($1, $2, $3) RETURNING created_at, updated_at",
        id as DatasetId,
        caller.project() as ProjectId,
        name
    )
    .fetch_one(database.pool(caller))
    .await?;
    Ok(Dataset { id, name, example_count: 0, created_at: row.created_at, updated_at: row.updated_at })
}

/// Lists datasets, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Dataset>> {
    let rows = sqlx::query_as!(
        Dataset,
        r#"SELECT id AS "id: DatasetId", name, created_at, updated_at,
                  (SELECT count(*) FROM examples e WHERE e.dataset_id = d.id) AS "example_count!"
           FROM datasets d WHERE project_id = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR id < $2)
           ORDER BY id DESC LIMIT $3"#,
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit(),
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(rows, |dataset| dataset.id.into()))
}

/// The dataset and its examples, by position. Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: DatasetId) -> Result<(Dataset, Vec<Example>)> {
    let pool = database.pool(caller);
    let examples = examples(&mut *pool.acquire().await?, id).await?;
    let dataset = sqlx::query_as!(
        Dataset,
        r#"SELECT id AS "id: DatasetId", name, created_at, updated_at, $3::bigint AS "example_count!"
           FROM datasets WHERE id = $1 AND project_id = $2 AND deleted_at IS NULL"#,
        id as DatasetId,
        caller.project() as ProjectId,
        examples.len() as i64,
    )
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| Error::not_found("dataset", id))?;
    Ok((dataset, examples))
}

/// The number of pictures; 0 without such a dataset.
pub(crate) async fn example_count(caller: &Caller, database: &Database, id: DatasetId) -> Result<usize> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM examples e JOIN datasets d ON d.id = e.dataset_id
           WHERE d.project_id = $1 AND d.id = $2 AND d.deleted_at IS NULL"#,
        caller.project() as ProjectId,
        id as DatasetId,
    );
    let count = count.fetch_one(database.pool(caller)).await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Errors with `NotFound` unless the dataset exists.
pub async fn check_exists(caller: &Caller, database: &Database, id: DatasetId) -> Result<()> {
    let there = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM datasets WHERE id = $1 AND project_id = $2 AND deleted_at IS NULL) AS "there!""#,
        id as DatasetId,
        caller.project() as ProjectId,
    )
    .fetch_one(database.pool(caller))
    .await?;
    if there { Ok(()) } else { Err(Error::not_found("dataset", id)) }
}

/// Makes the dataset invisible and deletes its rows and bytes. Errors: `NotFound`; `Conflict` while a training needs
/// it.
pub async fn delete(caller: &Caller, database: &Database, storage: &Storage, id: DatasetId) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    lock(caller, &mut tx, id).await?;
    check_unused(&mut tx, id).await?;
    sqlx::query!("UPDATE datasets SET deleted_at = clock_timestamp() WHERE id = $1", id as DatasetId)
        .execute(&mut *tx)
        .await?;
    let mut keys =
        sqlx::query_scalar!("DELETE FROM examples WHERE dataset_id = $1 RETURNING storage_key", id as DatasetId)
            .fetch_all(&mut *tx)
            .await?;
    keys.extend(forget_uploads(&mut tx, &[id.into()]).await?);
    deletion::ask(&mut tx, &keys).await?;
    tx.commit().await?;
    deletion::now(database.pool(caller), storage, keys).await;
    Ok(())
}

/// Deletes the uploads of datasets, in the transaction that deletes these. Returns the keys of their objects, whose
/// deletion is to be asked for.
pub(crate) async fn forget_uploads(connection: &mut PgConnection, datasets: &[Uuid]) -> Result<Vec<String>> {
    let gone =
        sqlx::query!("DELETE FROM uploads WHERE dataset_id = ANY($1) RETURNING storage_key, expires_at", datasets,)
            .fetch_all(&mut *connection)
            .await?;
    // A client may still have the URL.
    let expiries: Vec<_> = gone.iter().map(|upload| (upload.storage_key.clone(), upload.expires_at)).collect();
    leftover::of_uploads(connection, &expiries).await?;
    Ok(gone.into_iter().map(|upload| upload.storage_key).collect())
}

/// Removes one example and its bytes. Errors as [`delete`].
pub async fn delete_example(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    dataset: DatasetId,
    example: ExampleId,
) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    lock(caller, &mut tx, dataset).await?;
    let key = sqlx::query_scalar!(
        "DELETE FROM examples WHERE id = $1 AND dataset_id = $2 RETURNING storage_key",
        example as ExampleId,
        dataset as DatasetId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("image", example))?;
    check_unused(&mut tx, dataset).await?;
    sqlx::query!("UPDATE datasets SET updated_at = clock_timestamp() WHERE id = $1", dataset as DatasetId)
        .execute(&mut *tx)
        .await?;
    let keys = vec![key];
    deletion::ask(&mut tx, &keys).await?;
    tx.commit().await?;
    deletion::now(database.pool(caller), storage, keys).await;
    Ok(())
}

/// The examples of a dataset, by position; empty also if there is no such dataset. Not scoped to a project: check or
/// lock the dataset's row for the caller, too.
pub(crate) async fn examples(connection: &mut PgConnection, id: DatasetId) -> Result<Vec<Example>> {
    Ok(sqlx::query_as!(
        Example,
        r#"SELECT id AS "id: ExampleId", position, storage_key, sha256, media_type, width, height, bytes, caption, created_at
           FROM examples WHERE dataset_id = $1 ORDER BY position"#,
        id as DatasetId,
    )
    .fetch_all(connection)
    .await?)
}

/// Locks the dataset against every other change. Errors: `NotFound`.
pub(crate) async fn lock(caller: &Caller, connection: &mut PgConnection, id: DatasetId) -> Result<()> {
    sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM datasets WHERE id = $1 AND project_id = $2 AND deleted_at IS NULL FOR UPDATE"#,
        id as DatasetId,
        caller.project() as ProjectId,
    )
    .fetch_optional(connection)
    .await?
    .map(drop)
    .ok_or_else(|| Error::not_found("dataset", id))
}

async fn check_unused(connection: &mut PgConnection, id: DatasetId) -> Result<()> {
    let used = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM trainings t JOIN jobs j ON j.id = t.job_id
                          WHERE t.dataset_id = $1 AND j.status IN ('queued', 'running')) AS "used!""#,
        id as DatasetId,
    )
    .fetch_one(connection)
    .await?;
    if used {
        return Err(Error::conflict("A training that is queued or running uses this dataset; cancel it or wait."));
    }
    Ok(())
}

/// Checks a caption: at most 10 000 characters, none of them NUL.
pub fn check_caption(caption: &str) -> Result<()> {
    let count = caption.chars().count();
    if count > MAX_CAPTION_CHARS {
        return Err(Error::invalid(
            "caption",
            format!("The caption has {count} characters; at most {MAX_CAPTION_CHARS} are taken."),
        ));
    }
    if caption.contains('\0') {
        return Err(Error::invalid("caption", "The caption holds a NUL character."));
    }
    Ok(())
}
