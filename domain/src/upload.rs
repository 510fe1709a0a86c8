//! Uploads of pictures: a presigned PUT by which the client sends the picture directly to the bucket, and the
//! completion, which checks the bytes and makes an example of them. The example gets the upload's id, so completing
//! twice is the same as once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::database::now;
use crate::dataset::intake::Intake;
use crate::dataset::{self, Example, check_caption};
use crate::storage::{PresignedPut, StorageKey};
use crate::{
    Caller, Database, DatasetId, Error, ExampleId, ProjectId, Result, Storage, UploadId, begin, bounded, deletion,
    image_gate, leftover,
};

/// How long the URL for writing is valid.
pub const WRITE_TTL: Duration = Duration::from_hours(1);
/// How long an upload is kept that is not completed, from the end of its URL.
const KEPT: Duration = Duration::from_hours(24);
const MAX_FILE_NAME_CHARS: usize = 255;

/// Media types of pictures that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
pub enum ImageMediaType {
    #[serde(rename = "image/png")]
    Png,
    #[serde(rename = "image/jpeg")]
    Jpeg,
    /// As some programs call JPEG.
    #[serde(rename = "image/jpg")]
    Jpg,
    #[serde(rename = "image/webp")]
    Webp,
    #[serde(rename = "image/gif")]
    Gif,
    #[serde(rename = "image/bmp")]
    Bmp,
    #[serde(rename = "image/tiff")]
    Tiff,
}

impl ImageMediaType {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg | Self::Jpg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
        }
    }
}

/// Parameters to get a presigned PUT.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"file_name": "fox.png", "media_type": "image/png", "caption": "a fox"}))]
pub struct UploadRequest {
    /// Name of the file; only used in messages.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000]*$", example = "fox.png")]
    pub file_name: String,
    /// The Content-Type that the PUT will have; it is part of the signature.
    pub media_type: ImageMediaType,
    /// What the picture shows.
    #[schema(max_length = 10000, pattern = r"^[^\u0000]*$")]
    #[serde(default)]
    pub caption: Option<String>,
}

/// A presigned PUT for bytes that have not arrived yet.
#[derive(Debug)]
pub struct Upload {
    pub id: UploadId,
    pub put: PresignedPut,
    pub expires_at: DateTime<Utc>,
}

/// Creates an upload with its URL. Errors: `NotFound` for the dataset, `Invalid` for a field.
pub async fn create(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    dataset: DatasetId,
    request: UploadRequest,
) -> Result<Upload> {
    let file_name_chars = request.file_name.chars().count();
    if !(1..=MAX_FILE_NAME_CHARS).contains(&file_name_chars) || request.file_name.contains('\0') {
        return Err(Error::invalid("file_name", format!("A file name has 1 to {MAX_FILE_NAME_CHARS} characters.")));
    }
    let caption = request.caption.unwrap_or_default();
    check_caption(&caption)?;
    let id = UploadId::new();
    let key = StorageKey::Upload { upload: id }.to_string();
    let media_type = request.media_type.as_str();
    let put = storage.presign_put(&key, media_type, WRITE_TTL).await?;
    let expires_at = now() + put.ttl;
    let inserted = sqlx::query!(
        "INSERT INTO uploads (id, dataset_id, storage_key, file_name, media_type, caption, expires_at)
         SELECT $1, d.id, $3, $4, $5, $6, $7 FROM datasets d
         WHERE d.id = $2 AND d.project_id = $8 AND d.deleted_at IS NULL FOR KEY SHARE",
        id as UploadId,
        dataset as DatasetId,
        key,
        request.file_name,
        media_type,
        caption,
        expires_at,
        caller.project() as ProjectId,
    )
    .execute(database.pool(caller))
    .await?;
    if inserted.rows_affected() == 0 {
        return Err(Error::not_found("dataset", dataset));
    }
    Ok(Upload { id, put, expires_at })
}

/// Makes an example of the uploaded bytes. Errors: `NotFound`; `Conflict` while nothing was uploaded; those of the
/// image gate, after which the upload can be tried again until its URL expires.
pub async fn complete(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    dataset: DatasetId,
    id: UploadId,
) -> Result<Example> {
    let upload = sqlx::query!(
        "SELECT u.storage_key, u.caption, u.media_type, u.expires_at, u.completed_at
         FROM uploads u JOIN datasets d ON d.id = u.dataset_id
         WHERE u.id = $1 AND u.dataset_id = $2 AND d.project_id = $3 AND d.deleted_at IS NULL",
        id as UploadId,
        dataset as DatasetId,
        caller.project() as ProjectId,
    )
    .fetch_optional(database.pool(caller))
    .await?
    .ok_or_else(|| Error::not_found("upload", id))?;
    let example = ExampleId::from(Uuid::from(id));
    if upload.completed_at.is_some() {
        return completed(caller, database, dataset, example).await;
    }
    let head = match storage.head(&upload.storage_key).await {
        Err(Error::NotFound { .. }) => {
            // Unless a concurrent request has completed it since.
            return completed(caller, database, dataset, example).await.map_err(|error| match error {
                Error::NotFound { .. } => {
                    Error::conflict("Nothing has been uploaded yet; PUT the picture to the upload's url first.")
                }
                other => other,
            });
        }
        head => head?,
    };
    if let Some(why) = image_gate::too_large(head.bytes) {
        // Another picture may be put in its place.
        storage.discard([upload.storage_key]).await;
        return Err(Error::too_large("upload", why));
    }
    let bytes = match storage.get(&upload.storage_key).await {
        Err(Error::NotFound { .. }) => return completed(caller, database, dataset, example).await,
        bytes => bytes?,
    };
    let mut intake = Intake::begin(caller, database, storage, dataset).await?;
    if let Err(error) = intake.add_as(example, "upload", bytes, &upload.caption).await {
        intake.abandon().await;
        return Err(error);
    }
    let pool = database.pool(caller);
    let (deposit, rows) = intake.into_parts();
    let key = upload.storage_key.clone();
    let written = deposit.commit(pool, move |connection| {
        Box::pin(async move {
            let first = sqlx::query!(
                "UPDATE uploads SET completed_at = clock_timestamp() WHERE id = $1 AND completed_at IS NULL",
                id as UploadId
            )
            .execute(&mut *connection)
            .await?;
            if first.rows_affected() == 0 {
                return Err(Error::conflict("Another request is completing this upload."));
            }
            deletion::ask(connection, std::slice::from_ref(&key)).await?;
            leftover::of_uploads(connection, &[(key, upload.expires_at)]).await?;
            rows.insert(connection).await
        })
    });
    match written.await {
        Ok(mut examples) => {
            deletion::now(pool, storage, vec![upload.storage_key]).await;
            examples.pop().ok_or_else(|| Error::internal("the completed upload has no example"))
        }
        // A concurrent request was faster.
        Err(Error::Conflict { .. }) => completed(caller, database, dataset, example).await,
        Err(error) => Err(error),
    }
}

/// Housekeeping, in all projects: deletes uploads that were not completed a day after their URL had expired.
pub(crate) async fn discard_expired(pool: &PgPool, storage: &Storage) -> Result<()> {
    let keys = bounded(async {
        let mut tx = begin(pool).await?;
        let keys = sqlx::query_scalar!(
            "DELETE FROM uploads
             WHERE completed_at IS NULL AND expires_at < clock_timestamp() - make_interval(secs => $1)
             RETURNING storage_key",
            KEPT.as_secs_f64(),
        )
        .fetch_all(&mut *tx)
        .await?;
        deletion::ask(&mut tx, &keys).await?;
        tx.commit().await?;
        Ok::<_, Error>(keys)
    })
    .await?;
    deletion::now(pool, storage, keys).await;
    Ok(())
}

async fn completed(caller: &Caller, database: &Database, dataset: DatasetId, example: ExampleId) -> Result<Example> {
    let (_, examples) = dataset::get(caller, database, dataset).await?;
    examples.into_iter().find(|candidate| candidate.id == example).ok_or_else(|| Error::not_found("image", example))
}
