//! The parts of a complete model in one file, as the original authors and most user interfaces write it, and separate
//! files of single parts, under our keys and with a config each. `detect` finds the family. The key maps of each
//! family:
//!
//! | file | denoiser | autoencoder | text encoders |
//! |---|---|---|---|
//! | ldm, sgm (Stable Diffusion) | `ldm_unet` | `ldm_vae` | `clip` (1.5, XL), `open_clip` (2.1, XL) |
//! | FLUX.1 of Black Forest Labs, ComfyUI's all-in-one, T5 of llama.cpp | `bfl_flux` | `ldm_vae` | `clip`, `t5` |
//!
//! These files contain no tokenizers: CLIP's `vocab.json` and `merges.txt` and T5's `tokenizer.json` are separate
//! files. [`Family::padding`] has their padding tokens. `networks` lists the parameters that the keys stand for.

mod bfl_flux;
mod clip;
mod ldm_unet;
mod ldm_vae;
mod open_clip;
mod t5;

use serde_json::Value;

use crate::networks::{self, MAX_BLOCKS, Parameters};
use crate::view::{Source, View};
use crate::{Family, Header, Naming, Part, Place, detect, scaling};

/// Limit on a size that a config states: of the largest vocabulary.
const MAX_SIZE: usize = 1 << 20;

/// A part of a model of `family`, from a file of the whole model or of this part alone (`ae.safetensors`,
/// `clip_l.safetensors`, `t5xxl_fp16.safetensors`, `t5-v1_1-xxl-encoder-Q8_0.gguf`): its config in the format of
/// diffusers or transformers, with sizes from the tensors, and the tensors under our keys. The autoencoders of Stable
/// Diffusion 1.5 and XL cannot be distinguished.
///
/// # Errors
/// A part of a sentence, if the part is not in the file, or a tensor that states its sizes.
pub fn part(header: &Header, family: Family, part: Part) -> Result<(Value, View), String> {
    let Some(Place { prefix, naming, .. }) = family.place_of(part, header) else {
        return Err(format!("there is no {part} of {family} in this file"));
    };
    let below = Below { header, prefix };
    let base = published(family.published_config(part).unwrap_or("null"));
    let Mapped { config, sources, ignored } = match naming {
        Naming::LdmUnet => ldm_unet::map(&below, base),
        Naming::BflFlux => bfl_flux::map(&below, base),
        Naming::LdmVae => ldm_vae::map(&below, base),
        Naming::Clip => clip::map(&below, base),
        Naming::OpenClip => open_clip::map(&below, base),
        Naming::T5 => t5::map(&below, base),
    }
    .map_err(|reason| format!("taken for {family}: {reason}"))?;
    let view = View::renamed(header, prefix, sources, |name| carries_nothing(name, &ignored))?;
    Ok((config, view.taken_for(format!("the {part} of {family}"))))
}

/// Whether the engine can load a part from the file. Returns the part's config.
///
/// # Errors
/// A part of a sentence, with the first missing, unused and wrongly shaped tensors.
pub fn check(header: &Header, family: Family, part: Part) -> Result<Value, String> {
    detect::contents(header).map_err(|what| what.to_string())?;
    let (config, view) = self::part(header, family, part)?;
    networks::check(family, part, &Parameters::of(family, part, &config)?, view)?;
    Ok(config)
}

/// These files are built in and tested: a part that the family has is never null.
fn published(config: &str) -> Value {
    serde_json::from_str(config).unwrap_or_default()
}

/// How a key map describes a part.
struct Mapped {
    config: Value,
    sources: Vec<Source>,
    /// Prefixes or suffixes of tensors that this network does not use.
    ignored: Vec<String>,
}

fn carries_nothing(name: &str, ignored: &[impl AsRef<str>]) -> bool {
    ignored.iter().map(AsRef::as_ref).any(|mark| name.starts_with(mark) || name.ends_with(mark))
}

/// The tensors of one part.
struct Below<'a> {
    header: &'a Header,
    prefix: &'a str,
}

impl Below<'_> {
    /// Whether a name starts with the prefix.
    fn has(&self, start: &str) -> bool {
        self.header.has(&format!("{}{start}", self.prefix))
    }

    fn shape(&self, name: &str) -> Result<&[usize], String> {
        let name = format!("{}{name}", self.prefix);
        self.header.shape(&name).ok_or_else(|| format!("{name} is missing"))
    }

    fn size(&self, name: &str, axis: usize) -> Result<usize, String> {
        let shape = self.shape(name)?;
        let size = shape.get(axis).copied().filter(|size| (1..=MAX_SIZE).contains(size));
        size.ok_or_else(|| format!("{}{name} has the shape {shape:?}", self.prefix))
    }

    /// Number of entries in `list0`, `list1`, … of a network.
    fn count(&self, list: &str) -> usize {
        (0..MAX_BLOCKS).take_while(|number| self.has(&format!("{list}{number}."))).count()
    }

    /// The names below the prefix, without ignored ones.
    fn names(&self, ignored: &[&str]) -> impl Iterator<Item = &str> {
        let short = self.header.tensors.keys().filter_map(|name| name.strip_prefix(self.prefix));
        short.filter(|name| !carries_nothing(name, ignored) && !scaling::is_scaling(name))
    }
}

/// Weight and bias of one layer.
fn layer(ours: &str, theirs: &str) -> [Source; 2] {
    ["weight", "bias"].map(|leaf| Source::whole(format!("{ours}.{leaf}"), format!("{theirs}.{leaf}")))
}
