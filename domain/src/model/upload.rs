//! Uploads of model files directly to the bucket: a file is put in parts, each by its own presigned PUT. The bucket is
//! asked each time which parts are there, so a client that was interrupted continues with those that are missing. Not
//! here: joining the parts and checking the file, which an import does.

use chrono::{DateTime, Duration, Utc};
use requests::in_range;
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::ToSchema;

use crate::limits::MAX_FILE_BYTES;
use crate::storage::{PresignedPut, READ_TTL, StorageKey};
use crate::{
    Caller, Database, Error, ProjectId, Result, Storage, UploadId, begin, bounded, deletion, integer, leftover, quota,
};

/// Bytes of each part but the last.
pub const PART_BYTES: i64 = 64 * 1024 * 1024;
const MEDIA_TYPE: &str = "application/octet-stream";

/// How long an upload is kept after URLs were asked for, unless an import makes a model of it.
fn life() -> Duration {
    Duration::days(1)
}

/// Parameters to upload a file in parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"bytes": 23802932552_i64}))]
pub struct ModelUploadRequest {
    /// Size of the whole file, in bytes.
    #[schema(minimum = 1, maximum = 68719476736_i64, example = 23802932552_i64)]
    #[serde(deserialize_with = "integer::required::<_, _, 1, { MAX_FILE_BYTES as i64 }>")]
    pub bytes: i64,
}

/// A file that is being uploaded.
#[derive(Debug)]
pub struct ModelUpload {
    pub id: UploadId,
    pub bytes: i64,
    pub parts: Vec<Part>,
    pub expires_at: DateTime<Utc>,
}

/// One part of an upload.
#[derive(Debug)]
pub struct Part {
    /// From 1.
    pub number: i32,
    pub bytes: i64,
    /// Size of the object that was put, if one was.
    found: Option<u64>,
    /// How to send it; `None` once it is there.
    pub put: Option<PresignedPut>,
}

/// Starts an upload. Errors: `Invalid`.
pub async fn create(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    request: ModelUploadRequest,
) -> Result<ModelUpload> {
    in_range("bytes", request.bytes, 1..=MAX_FILE_BYTES as i64)?;
    let pool = database.pool(caller);
    discard_expired(pool, storage).await?;
    let id = UploadId::new();
    let mut tx = begin(pool).await?;
    quota::left(&mut tx, caller.project()).await?.take_bytes(request.bytes)?;
    sqlx::query!(
        "INSERT INTO model_uploads (id, project_id, bytes) VALUES ($1, $2, $3)",
        id as UploadId,
        caller.project() as ProjectId,
        request.bytes,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    get(caller, database, storage, id).await
}

/// The upload with fresh URLs for the missing parts, which prolongs its life. Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, storage: &Storage, id: UploadId) -> Result<ModelUpload> {
    let row = sqlx::query!(
        "UPDATE model_uploads SET used_at = clock_timestamp() WHERE id = $1 AND project_id = $2
         RETURNING bytes, used_at",
        id as UploadId,
        caller.project() as ProjectId,
    )
    .fetch_optional(database.pool(caller))
    .await?
    .ok_or_else(|| Error::not_found("upload", id))?;
    let parts = parts(storage, id, row.bytes).await?;
    Ok(ModelUpload { id, bytes: row.bytes, parts, expires_at: row.used_at + life() })
}

/// Errors: `NotFound`; `Conflict` while a part is missing or has another size.
pub(crate) async fn check_complete(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    id: UploadId,
) -> Result<()> {
    check_parts(id, &get(caller, database, storage, id).await?.parts)
}

/// The parts of a file of `total` bytes, and how to send those that the bucket does not have.
async fn parts(storage: &Storage, id: UploadId, total: i64) -> Result<Vec<Part>> {
    let there = storage.list(&prefix(id)).await?;
    let count = part_count(total);
    let mut parts = Vec::with_capacity(count as usize);
    for (number, key) in (1..).zip(part_keys(id, total)) {
        let bytes = PART_BYTES.min(total - i64::from(number - 1) * PART_BYTES);
        let found = there.iter().find(|(there, _)| *there == key).map(|(_, size)| *size);
        let put = match found {
            Some(size) if size == bytes.unsigned_abs() => None,
            _ => Some(storage.presign_put(&key, MEDIA_TYPE, READ_TTL).await?),
        };
        parts.push(Part { number, bytes, found, put });
    }
    Ok(parts)
}

fn check_parts(id: UploadId, parts: &[Part]) -> Result<()> {
    let mut open = parts.iter().filter(|part| part.put.is_some());
    let Some(first) = open.next() else { return Ok(()) };
    let Part { number, bytes, .. } = first;
    let what = match first.found {
        Some(found) => format!("Part {number} of the upload {id} has {found} bytes, and has to have {bytes}."),
        None => format!("Part {number} of the upload {id} is not there yet; it has {bytes} bytes."),
    };
    let others = match open.count() {
        0 => String::new(),
        1 => " Another part is not complete either.".to_owned(),
        others => format!(" {others} other parts are not complete either."),
    };
    Err(Error::conflict(what + &others))
}

/// For the worker that imports it: storage keys of the parts in order, and the size of the whole.
/// Errors: `NotFound`; `Conflict` while parts are missing.
pub async fn whole(pool: &PgPool, storage: &Storage, id: UploadId) -> Result<(Vec<String>, i64)> {
    let bytes = sqlx::query_scalar!("SELECT bytes FROM model_uploads WHERE id = $1", id as UploadId)
        .fetch_optional(pool)
        .await?
        .ok_or_else(|| Error::not_found("upload", id))?;
    let parts = parts(storage, id, bytes).await?;
    check_parts(id, &parts)?;
    Ok((part_keys(id, bytes).collect(), bytes))
}

/// For the worker that imported them, and for housekeeping: deletes uploads and their parts, of any project.
pub async fn discard(pool: &PgPool, storage: &Storage, ids: &[UploadId]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let uuids: Vec<uuid::Uuid> = ids.iter().map(|id| (*id).into()).collect();
    let keys = bounded(async {
        let mut tx = begin(pool).await?;
        let gone = sqlx::query!(
            r#"DELETE FROM model_uploads WHERE id = ANY($1) RETURNING id AS "id: UploadId", bytes, used_at"#,
            &uuids
        )
        .fetch_all(&mut *tx)
        .await?;
        // A client may still have URLs.
        let expiries: Vec<_> =
            gone.iter().map(|row| (format!("{}/", prefix(row.id)), row.used_at + READ_TTL)).collect();
        leftover::of_uploads(&mut tx, &expiries).await?;
        let keys: Vec<String> = gone.into_iter().flat_map(|row| part_keys(row.id, row.bytes)).collect();
        deletion::ask(&mut tx, &keys).await?;
        tx.commit().await?;
        Ok::<_, Error>(keys)
    })
    .await?;
    deletion::now(pool, storage, keys).await;
    Ok(())
}

/// Housekeeping, in all projects.
pub(crate) async fn discard_expired(pool: &PgPool, storage: &Storage) -> Result<()> {
    let expired = bounded(
        sqlx::query_scalar!(
            r#"SELECT id AS "id: UploadId" FROM model_uploads u WHERE used_at < $1 AND NOT EXISTS (
                 SELECT 1 FROM imports i JOIN jobs j ON j.id = i.job_id
                 WHERE j.status IN ('queued', 'running')
                   AND position(u.id::text IN concat(i.source, i.parts)) > 0) LIMIT 10"#,
            Utc::now() - life(),
        )
        .fetch_all(pool),
    )
    .await?;
    discard(pool, storage, &expired).await
}

fn part_keys(id: UploadId, bytes: i64) -> impl Iterator<Item = String> {
    (1..=part_count(bytes)).map(move |number| StorageKey::UploadPart { upload: id, number }.to_string())
}

fn part_count(bytes: i64) -> i32 {
    bytes.unsigned_abs().div_ceil(PART_BYTES.unsigned_abs()) as i32
}

fn prefix(id: UploadId) -> String {
    StorageKey::Upload { upload: id }.to_string()
}
