//! The checkpoint that comes with the binary: its row, its objects, and their repair.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use sqlx::types::Json;

use super::ModelFile;
use super::file_path::{BINARY, media_type};
use super::intake::{Intake, folder_sha256};
use crate::{Error, ModelId, ProjectId, Result, Storage};

/// Registers the checkpoint that came with the binary, in the project `default`. If it is registered already, files
/// that are missing from the bucket are stored again. A newer one of the same name replaces the older, whose files stay
/// for jobs that still need them.
pub async fn register(pool: &PgPool, storage: &Storage, name: &str, files: &[(String, Bytes)]) -> Result<ModelId> {
    let hashed: Vec<ModelFile> = files
        .iter()
        .map(|(path, bytes)| ModelFile {
            path: path.clone(),
            storage_key: String::new(),
            sha256: hex::encode(Sha256::digest(bytes)),
            bytes: bytes.len() as i64,
        })
        .collect();
    let sha256 = folder_sha256(&hashed);
    let find = async || {
        sqlx::query!(
            r#"SELECT id AS "id: ModelId", files AS "files: Json<Vec<ModelFile>>" FROM models
               WHERE project_id = $1 AND name = $2 AND sha256 = $3 AND built_in AND deleted_at IS NULL"#,
            ProjectId::DEFAULT as ProjectId,
            name,
            sha256,
        )
        .fetch_optional(pool)
        .await
    };
    if let Some(row) = find().await? {
        if let Err(error) = store_missing(storage, &row.files, files).await {
            tracing::error!(%error, name, "could not look for missing files of a built-in model");
        }
        return Ok(row.id);
    }
    let mut intake = Intake::of_project(pool.clone(), storage.clone(), ProjectId::DEFAULT);
    for (path, bytes) in files {
        let mut file = intake.file(path).await?;
        file.write(bytes).await?;
        file.finish().await?;
    }
    let described = intake.describe(name, None, None).await?;
    sqlx::query!(
        "UPDATE models SET deleted_at = clock_timestamp()
         WHERE project_id = $1 AND name = $2 AND sha256 <> $3 AND built_in AND deleted_at IS NULL",
        ProjectId::DEFAULT as ProjectId,
        name,
        sha256,
    )
    .execute(pool)
    .await?;
    match intake.insert(name, described, true).await {
        Ok(model) => Ok(model.id),
        // Another process of ours was faster.
        Err(error @ Error::Conflict { .. }) => find().await?.map(|row| row.id).ok_or(error),
        Err(error) => Err(error),
    }
}

/// Stores objects of a built-in model that are missing from the bucket again, under the keys in its row.
async fn store_missing(storage: &Storage, stored: &[ModelFile], files: &[(String, Bytes)]) -> Result<()> {
    for (path, bytes) in files {
        let Some(file) = stored.iter().find(|file| file.path == *path) else { continue };
        if !storage.holds(&file.storage_key, file.bytes).await? {
            tracing::warn!(path, key = file.storage_key, "a file of a built-in model was missing; it is stored again");
            storage.replace(&file.storage_key, bytes.clone(), media_type(path).unwrap_or(BINARY)).await?;
        }
    }
    Ok(())
}

/// Whether a checkpoint that came with the binary has this name, of this version or an older one.
pub async fn exists(pool: &PgPool, name: &str) -> bool {
    super::find(pool, ProjectId::DEFAULT, name).await.is_ok_and(|model| model.built_in)
}
