//! Models for the tests of this crate.

use std::path::Path;

use formats::{Family, Part};

use crate::{Footprint, Networks};

/// The built-in model, with blocks of 2,560 values and more, so that storage formats differ in size.
pub(crate) fn ember() -> Footprint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ember");
    let config = |part: &Part| {
        let text = std::fs::read_to_string(folder.join(part.as_str()).join("config.json")).unwrap();
        (*part, serde_json::from_str(&text).unwrap())
    };
    let configs = Family::Flux.parts().iter().map(config).collect();
    Footprint::of(Family::Flux, &Networks { configs, text_tokens: 16 }).unwrap()
}

/// A model of a family as it was published.
pub(crate) fn published(family: Family) -> Footprint {
    let config = |part: &Part| (*part, serde_json::from_str(family.published_config(*part).unwrap()).unwrap());
    let configs = family.parts().iter().map(config).collect();
    Footprint::of(family, &Networks { configs, text_tokens: 512 }).unwrap()
}
