//! Artifacts: what a succeeded job made, one row for each position of a job, written in the transaction that makes it succeed.
//! Not here: the bytes (`storage`), or who may finish a job (`job`).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::job::Claim;
use crate::{ArtifactId, JobId, Result};

/// What kind of thing was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    Image,
    Lora,
}

impl ArtifactKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Lora => "lora",
        }
    }
}

/// What a worker made and stored, before its row exists. Width and height are there for images and only for them.
#[derive(Clone, Debug)]
pub struct NewArtifact {
    pub position: i32,
    pub storage_key: String,
    pub media_type: String,
    /// Pixels.
    pub width: Option<i32>,
    /// Pixels.
    pub height: Option<i32>,
    pub bytes: i64,
    /// Lower-case hex.
    pub sha256: String,
    /// Lower-case hex.
    pub md5: String,
    pub seed: Option<i64>,
}

/// A row of `artifacts`, as the database's JSON carries it.
#[derive(Clone, Debug, Deserialize)]
pub struct Artifact {
    pub id: ArtifactId,
    pub kind: ArtifactKind,
    pub position: i32,
    pub storage_key: String,
    pub media_type: String,
    pub width: Option<i32>,
    pub height: Option<i32>,
    pub bytes: i64,
    pub sha256: String,
    pub md5: String,
    pub seed: Option<i64>,
    pub created_at: DateTime<Utc>,
}

/// Writes the rows, in the transaction that makes the job succeed.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    claim: &Claim,
    kind: ArtifactKind,
    artifacts: &[NewArtifact],
) -> Result<()> {
    let ids: Vec<Uuid> = artifacts.iter().map(|_| ArtifactId::new().into()).collect();
    let text = |field: fn(&NewArtifact) -> &String| {
        artifacts.iter().map(|artifact| field(artifact).clone()).collect::<Vec<_>>()
    };
    let side = |field: fn(&NewArtifact) -> Option<i32>| artifacts.iter().map(field).collect::<Vec<_>>();
    let positions: Vec<i32> = artifacts.iter().map(|artifact| artifact.position).collect();
    let bytes: Vec<i64> = artifacts.iter().map(|artifact| artifact.bytes).collect();
    let seeds: Vec<Option<i64>> = artifacts.iter().map(|artifact| artifact.seed).collect();
    sqlx::query!(
        "INSERT INTO artifacts (job_id, epoch, kind, id, position, storage_key, media_type, width, height, bytes, sha256, md5, seed)
         SELECT $1, $2, $3, a.* FROM unnest($4::uuid[], $5::int[], $6::text[], $7::text[], $8::int[], $9::int[], $10::bigint[],
                                            $11::text[], $12::text[], $13::bigint[]) AS a",
        claim.job as JobId,
        claim.epoch,
        kind.as_str(),
        &ids,
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
