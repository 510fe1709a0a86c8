//! Loads or unloads a model without making anything with it.

use super::End;
use super::models::Models;
use crate::protocol::Base;

/// As a request would load it, without adapters; models loaded earlier may be dropped.
pub(super) fn load(models: &mut Models, base: &Base) -> diffusion::Result<End> {
    models.load_ahead(base)?;
    Ok(End::Done)
}

/// A model that is not loaded needs no unloading.
pub(super) fn unload(models: &mut Models, sha256: &str) -> diffusion::Result<End> {
    models.unload(sha256);
    Ok(End::Done)
}
