//! Files built into the binary: the checkpoint `ember`, and the pictures that the demo trains on.

use std::collections::BTreeMap;

use domain::{Storage, model};
use rust_embed::RustEmbed;
use sqlx::PgPool;

use crate::failure::Failure;
use crate::services;

/// Name of the built-in checkpoint.
pub(crate) const CHECKPOINT: &str = "ember";

#[derive(RustEmbed)]
#[folder = "../models/ember"]
#[include = "*.json"]
#[include = "*.txt"]
#[include = "*.model"]
#[include = "*.safetensors"]
#[allow_missing = true]
struct Checkpoint;

#[derive(RustEmbed)]
#[folder = "../datasets"]
#[include = "*.png"]
#[include = "*.txt"]
#[allow_missing = true]
struct Datasets;

/// Registers the built-in checkpoint as a model of this installation; cheap if it is registered already.
pub(crate) async fn register(pool: &PgPool, storage: &Storage) -> Result<(), Failure> {
    let files: Vec<_> = Checkpoint::iter()
        .filter_map(|path| Some((path.to_string(), Checkpoint::get(&path)?.data.into_owned().into())))
        .collect();
    if files.is_empty() {
        tracing::warn!("this build contains no checkpoint; import one with `pyrograph models import`");
        return Ok(());
    }
    let registered = model::built_in::register(pool, storage, CHECKPOINT, &files).await;
    let id = services::answered(registered, "could not register the built-in checkpoint")?;
    tracing::debug!(%id, "{CHECKPOINT} is there");
    Ok(())
}

/// Whether it is registered, in this version or an older one.
pub(crate) async fn is_registered(pool: &PgPool) -> bool {
    model::built_in::exists(pool, CHECKPOINT).await
}

/// A picture of a bundled dataset.
pub(crate) struct BundledPicture {
    /// `photo.png`.
    pub file_name: String,
    pub png: Vec<u8>,
    pub caption: String,
}

/// The pictures of a bundled dataset, by name.
pub(crate) fn dataset(name: &str) -> Vec<BundledPicture> {
    let inside = format!("{name}/");
    let files: BTreeMap<String, Vec<u8>> = Datasets::iter()
        .filter(|path| path.starts_with(&inside))
        .filter_map(|path| Some((path[inside.len()..].to_owned(), Datasets::get(&path)?.data.into_owned())))
        .collect();
    files
        .iter()
        .filter(|(path, _)| path.ends_with(".png"))
        .map(|(path, png)| BundledPicture {
            file_name: path.clone(),
            png: png.clone(),
            caption: files
                .get(&path.replace(".png", ".txt"))
                .map(|text| String::from_utf8_lossy(text).trim().to_owned())
                .unwrap_or_default(),
        })
        .collect()
}
