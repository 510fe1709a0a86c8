//! The small files of a model folder: the pipeline class, the configs of the parts, and request defaults.
//! `checkpoint` reads the weights.

use std::path::Path;

use formats::Defaults;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// Size limit of a config in bytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// The contents of `model_index.json` about the pipeline as a whole.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// SDXL: whether the embedding of an absent negative prompt is zeros.
    #[serde(default)]
    pub force_zeros_for_empty_prompt: Option<bool>,
    /// SDXL: whether the UNet is conditioned on an aesthetic score; only the refiner is.
    #[serde(default)]
    pub requires_aesthetics_score: Option<bool>,
}

impl Index {
    /// The index of a checkpoint without `model_index.json`.
    pub(super) fn of(class_name: &str) -> Self {
        Self { class_name: class_name.to_owned(), force_zeros_for_empty_prompt: None, requires_aesthetics_score: None }
    }

    pub(super) fn read(folder: &Path) -> Result<Self> {
        read_json(&folder.join("model_index.json"))
    }
}

/// The family's defaults, overridden by `pyrograph.json` if there is one.
pub(super) fn read_defaults(folder: &Path, family: Defaults) -> Result<Defaults> {
    let path = folder.join("pyrograph.json");
    if !path.is_file() {
        return Ok(family);
    }
    let stated: Value = read_json(&path)?;
    family.stated_in(&stated).map_err(|error| Error::malformed(&path, error.to_string()))
}

pub(super) fn read_text(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).map_err(Error::file(path))?.len();
    if size > CONFIG_LIMIT {
        return Err(Error::malformed(path, format!("{size} bytes are too many for a config")));
    }
    std::fs::read_to_string(path).map_err(Error::file(path))
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let malformed = |reason: String| Error::malformed(path, reason);
    let value = formats::json::read(read_text(path)?.as_bytes()).map_err(malformed)?;
    serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_only_what_differs_from_the_family() {
        let family = Defaults { width: 512, height: 512, ..Defaults::default() };
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_defaults(folder.path(), family).unwrap(), family);
        let path = folder.path().join("pyrograph.json");
        std::fs::write(&path, r#"{"width": 640, "later": 1}"#).unwrap();
        assert_eq!(read_defaults(folder.path(), family).unwrap(), Defaults { width: 640, ..family });
        std::fs::write(&path, r#"{"width": "wide"}"#).unwrap();
        assert!(read_defaults(folder.path(), family).unwrap_err().to_string().contains("pyrograph.json"));
    }
}
