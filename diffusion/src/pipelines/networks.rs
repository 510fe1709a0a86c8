//! What a checkpoint's files say about its networks, before a weight is read.

use std::path::Path;

use formats::{Family, Part};
use memory::{Footprint, Networks};
use serde_json::Value;

use super::parts::Parts;
use crate::checkpoint::Reading;
use crate::{Error, Result};

/// The networks of the checkpoint that [`super::Pipeline::load`] would load.
pub fn networks(path: &Path) -> Result<Networks> {
    of(&Parts::open(path, &Reading::default())?).map(|(_, networks)| networks)
}

/// Its footprint, with its own defaults.
pub fn footprint(path: &Path) -> Result<Footprint> {
    let parts = Parts::open(path, &Reading::default())?;
    let (family, networks) = of(&parts)?;
    let footprint = Footprint::of(family, &networks).map_err(|reason| Error::malformed(path, reason))?;
    let defaults = parts.defaults(footprint.defaults())?;
    Ok(footprint.with_defaults(defaults))
}

fn of(parts: &Parts) -> Result<(Family, Networks)> {
    let family = parts.family()?;
    let config = |part: &Part| Ok((*part, parts.network::<Value>(*part)?.0));
    let configs = family.parts().iter().map(config).collect::<Result<_>>()?;
    let text_tokens = if family == Family::Flux { parts.t5_length()? } else { 0 };
    Ok((family, Networks { configs, text_tokens }))
}
