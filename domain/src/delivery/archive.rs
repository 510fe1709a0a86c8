//! Pictures for the archive, with the record of how each was made.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use super::Claimed;
use super::request::ResponseFormat;
use crate::database::bounded;
use crate::generation::GenerationParams;
use crate::input::SourceImage;
use crate::{ArtifactId, DeliveryId, Error, GenerationId, InputId, KeyId, ProjectId, Result};

/// What a try needs.
#[derive(Debug, Clone)]
pub struct Archived {
    pub record: Record,
    pub storage_key: String,
}

/// What the archive keeps beside a picture, as `input-{image_hash}.json`. It contains no secret: neither the query of a
/// URL nor the bytes of a picture that the request carried.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Version of Pyrograph.
    pub version: String,
    pub generation: GenerationId,
    pub artifact: ArtifactId,
    pub project: ProjectId,
    /// The key of the caller. Null if it had none.
    pub key: Option<KeyId>,
    /// Position within the generation.
    pub position: i32,
    /// Seed of this picture.
    pub seed: Option<i64>,
    pub model: Weights,
    pub loras: Vec<Lora>,
    /// All parameters, with the defaults of the model filled in.
    pub parameters: requests::GenerationParams<Source>,
    pub response_format: ResponseFormat,
    /// The address to which the picture is uploaded, without its query. Null if it is not.
    pub upload_address: Option<String>,
    pub warnings: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// From the start of the first attempt to the end.
    pub seconds: Option<f64>,
    /// Seconds for which devices were held.
    pub gpu_seconds: f64,
    /// The picture as it was made.
    pub image: Image,
    /// The picture in the archive, `output-{image_hash}.jpg`. Null until it is there.
    pub jpeg: Option<File>,
}

/// A model and the SHA-256 of its weights: of a file, or of the list of several.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Weights {
    pub id: Uuid,
    pub name: String,
    pub sha256: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lora {
    #[serde(flatten)]
    pub model: Weights,
    pub scale: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_encoder_scale: Option<f64>,
}

/// A picture that the generation starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    pub input: Option<InputId>,
    pub sha256: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl From<SourceImage> for Source {
    fn from(image: SourceImage) -> Self {
        Self { input: image.input, sha256: image.sha256, width: image.width, height: image.height }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    pub media_type: String,
    /// Width in pixels.
    pub width: Option<i32>,
    /// Height in pixels.
    pub height: Option<i32>,
    #[serde(flatten)]
    pub file: File,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub bytes: i64,
    /// Lower-case hex.
    pub md5: String,
    /// Lower-case hex.
    pub sha256: String,
}

/// Errors: `LeaseLost` if the row was changed or deleted meanwhile.
pub async fn load(pool: &PgPool, claimed: &Claimed) -> Result<Archived> {
    let row = bounded(
        sqlx::query!(
            r#"SELECT g.id AS "generation: GenerationId", g.project_id AS "project: ProjectId", j.key_id AS "key: KeyId",
                      g.params AS "params: Json<GenerationParams>", g.response_format AS "format: ResponseFormat",
                      g.warnings AS "warnings: Json<Vec<String>>", g.created_at, j.started_at, j.finished_at,
                      (SELECT coalesce(sum(t.gpu_seconds), 0) FROM attempts t WHERE t.job_id = j.id) AS "gpu_seconds!",
                      m.id AS model_id, m.name AS model_name, m.sha256 AS model_sha256,
                      coalesce((SELECT jsonb_agg(jsonb_build_object('id', n.id, 'name', n.name, 'sha256', n.sha256,
                                    'scale', l.scale, 'text_encoder_scale', l.text_encoder_scale) ORDER BY l.position)
                                FROM generation_loras l JOIN models n ON n.id = l.model_id
                                WHERE l.generation_id = g.id), '[]') AS "loras!: Json<Vec<Lora>>",
                      (SELECT u.url FROM deliveries u WHERE u.job_id = d.job_id AND u.target = 'upload'
                         AND u.position = d.position) AS upload_address,
                      a.id AS "artifact: ArtifactId", a.position, a.storage_key, a.media_type, a.width, a.height,
                      a.bytes, a.md5, a.sha256, a.seed
               FROM deliveries d JOIN artifacts a ON a.job_id = d.job_id AND a.position = d.position
               JOIN jobs j ON j.id = d.job_id JOIN generations g ON g.job_id = j.id JOIN models m ON m.id = g.model_id
               WHERE d.id = $1 AND d.epoch = $2 AND d.sender = $3 AND g.deleted_at IS NULL"#,
            claimed.id as DeliveryId,
            claimed.epoch,
            claimed.sender,
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or(Error::LeaseLost)?;
    let seconds = row.started_at.zip(row.finished_at).map(|(start, end)| (end - start).as_seconds_f64());
    let [image, mask] = [row.params.image.clone(), row.params.mask.clone()].map(|picture| picture.map(Source::from));
    let record = Record {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: row.generation,
        artifact: row.artifact,
        project: row.project,
        key: row.key,
        position: row.position,
        seed: row.seed,
        model: Weights { id: row.model_id, name: row.model_name, sha256: row.model_sha256 },
        loras: row.loras.0,
        parameters: row.params.0.with_pictures(image, mask),
        response_format: row.format,
        upload_address: row.upload_address,
        warnings: row.warnings.0,
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
        seconds,
        gpu_seconds: row.gpu_seconds,
        image: Image {
            media_type: row.media_type,
            width: row.width,
            height: row.height,
            file: File { bytes: row.bytes, md5: row.md5, sha256: row.sha256 },
        },
        jpeg: None,
    };
    Ok(Archived { record, storage_key: row.storage_key })
}

/// The `image_hash` of the pictures that should be in the archive because they were finished at `since` or later, and
/// of which the archive has not failed; oldest first. Those whose delivery is due are left out.
pub async fn delivered_since(pool: &PgPool, since: DateTime<Utc>) -> Result<Vec<String>> {
    bounded(
        sqlx::query_scalar!(
            "SELECT a.md5 FROM deliveries d JOIN artifacts a ON a.job_id = d.job_id AND a.position = d.position
             WHERE d.target = 'archive' AND d.status = 'succeeded' AND d.created_at >= $1
             ORDER BY d.created_at, d.position",
            since,
        )
        .fetch_all(pool),
    )
    .await
}

/// Number of pictures that were finished at `since` or later and are not to be archived: the server that took their
/// request had no archive, or their project wants none.
pub async fn left_out_since(pool: &PgPool, since: DateTime<Utc>) -> Result<i64> {
    bounded(
        sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM artifacts a JOIN jobs j ON j.id = a.job_id
               WHERE j.kind = 'generation' AND j.deleted_at IS NULL AND a.created_at >= $1
                 AND NOT EXISTS (SELECT FROM deliveries d
                                 WHERE d.job_id = a.job_id AND d.position = a.position AND d.target = 'archive')"#,
            since,
        )
        .fetch_one(pool),
    )
    .await
}

/// A delivery to the archive that has not been made, for people.
#[derive(Debug, Clone)]
pub struct Missing {
    pub generation: Uuid,
    pub position: i32,
    pub attempts: i32,
    pub error: Option<String>,
}

/// Pictures that were finished at `since` or later and are not in the archive yet, or cannot be.
pub async fn missing_since(pool: &PgPool, since: DateTime<Utc>) -> Result<Vec<Missing>> {
    bounded(
        sqlx::query_as!(
            Missing,
            r#"SELECT j.subject AS generation, d.position AS "position!", d.attempts, d.error
               FROM deliveries d JOIN jobs j ON j.id = d.job_id
               WHERE d.target = 'archive' AND d.status IN ('pending', 'failed') AND d.created_at >= $1
               ORDER BY d.created_at, d.position"#,
            since,
        )
        .fetch_all(pool),
    )
    .await
}
