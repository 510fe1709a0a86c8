//! Artifacts: the results of a succeeded job, one row for each position of a job, written in the transaction that makes
//! it succeed. Not here: the bytes (`storage`), or who may finish a job (`job`).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::delivery::Delivery;
use crate::job::Claim;
use crate::{ArtifactId, JobId, Result};

/// Kind of a job's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ArtifactKind)]
pub enum OutputKind {
    /// A picture.
    Image,
    /// A picture that marks where another one is changed.
    Mask,
    Video,
    Audio,
    /// Weights that change a model.
    #[serde(rename = "lora")]
    Adapter,
    /// A document, such as the verdict of a classifier.
    Json,
}

impl OutputKind {
    pub const ALL: [Self; 6] = [Self::Image, Self::Mask, Self::Video, Self::Audio, Self::Adapter, Self::Json];

    /// The name in rows and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Mask => "mask",
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Adapter => "lora",
            Self::Json => "json",
        }
    }

    /// Whether a CDN shows it to everyone who has its URL: what people make, but not the weights that they train.
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Image | Self::Mask | Self::Video | Self::Audio)
    }
}

/// Media type of adapters, for which none is registered.
pub const ADAPTER_MEDIA_TYPE: &str = "application/octet-stream";

/// The extension of a file of this media type, without the dot.
pub fn extension(media_type: &str) -> &'static str {
    match media_type {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/webp" => "webp",
        "video/mp4" => "mp4",
        "video/webm" => "webm",
        "audio/mpeg" => "mp3",
        "audio/wav" => "wav",
        "application/json" => "json",
        ADAPTER_MEDIA_TYPE => "safetensors",
        _ => "bin",
    }
}

/// A result that a worker made and stored, before its row exists. Images and masks have a width and a height, videos
/// may.
#[derive(Clone, Debug)]
pub struct NewArtifact {
    pub kind: OutputKind,
    pub position: i32,
    pub storage_key: String,
    pub media_type: String,
    /// Width in pixels.
    pub width: Option<i32>,
    /// Height in pixels.
    pub height: Option<i32>,
    pub bytes: i64,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
    /// MD5 of the bytes, lower-case hex.
    pub md5: String,
    pub seed: Option<i64>,
}

/// A row of `artifacts`, as the database's JSON carries it.
#[derive(Clone, Debug, Deserialize)]
pub struct Artifact {
    pub id: ArtifactId,
    pub kind: OutputKind,
    pub position: i32,
    pub storage_key: String,
    pub media_type: String,
    pub width: Option<i32>,
    pub height: Option<i32>,
    pub bytes: i64,
    pub sha256: String,
    pub md5: String,
    pub seed: Option<i64>,
    /// Its upload to a URL of the caller, if it has one.
    pub delivery: Option<Delivery>,
    pub created_at: DateTime<Utc>,
}

impl Artifact {
    /// The name under which a client saves the file, as `ember-7-1a2b3c4d-0.png`. `name` is that of the model or the
    /// training. A part of the id distinguishes results of the same seed.
    pub fn file_name(&self, name: &str) -> String {
        let extension = extension(&self.media_type);
        let id = Uuid::from(self.id).simple().to_string();
        let short = &id[id.len() - 8..];
        match self.seed {
            Some(seed) => format!("{name}-{seed}-{short}-{}.{extension}", self.position),
            None => format!("{name}-{short}.{extension}"),
        }
    }
}

/// Writes the rows, in the transaction that makes the job succeed.
pub(crate) async fn insert(connection: &mut PgConnection, claim: &Claim, artifacts: &[NewArtifact]) -> Result<()> {
    let ids: Vec<Uuid> = artifacts.iter().map(|_| ArtifactId::new().into()).collect();
    let text = |field: fn(&NewArtifact) -> &String| {
        artifacts.iter().map(|artifact| field(artifact).clone()).collect::<Vec<_>>()
    };
    let side = |field: fn(&NewArtifact) -> Option<i32>| artifacts.iter().map(field).collect::<Vec<_>>();
    let kinds: Vec<String> = artifacts.iter().map(|artifact| artifact.kind.as_str().to_owned()).collect();
    let positions: Vec<i32> = artifacts.iter().map(|artifact| artifact.position).collect();
    let bytes: Vec<i64> = artifacts.iter().map(|artifact| artifact.bytes).collect();
    let seeds: Vec<Option<i64>> = artifacts.iter().map(|artifact| artifact.seed).collect();
    sqlx::query!(
        "INSERT INTO artifacts (job_id, epoch, id, kind, position, storage_key, media_type, width, height, bytes, sha256, md5, seed)
         SELECT $1, $2, a.* FROM unnest($3::uuid[], $4::text[], $5::int[], $6::text[], $7::text[], $8::int[], $9::int[], $10::bigint[],
                                        $11::text[], $12::text[], $13::bigint[]) AS a",
        claim.job as JobId,
        claim.epoch,
        &ids,
        &kinds,
        &positions,
        &text(|artifact| &artifact.storage_key),
        &text(|artifact| &artifact.media_type),
        &side(|artifact| artifact.width) as &[Option<i32>],
        &side(|artifact| artifact.height) as &[Option<i32>],
        &bytes,
        &text(|artifact| &artifact.sha256),
        &text(|artifact| &artifact.md5),
        &seeds as &[Option<i64>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        for kind in OutputKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
