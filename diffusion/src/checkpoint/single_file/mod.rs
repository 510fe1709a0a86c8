//! Whole models in one file, as the original authors and most user interfaces write them, and parts that are given apart: the
//! families are told from the keys, and each part comes out under our keys with its config. Which of a family's key maps is
//! which:
//!
//! | file | denoiser | autoencoder | text encoders |
//! |---|---|---|---|
//! | ldm, sgm (Stable Diffusion) | `ldm_unet` | `ldm_vae` | `clip` (1.5, XL), `open_clip` (2.1, XL) |
//! | FLUX.1 of Black Forest Labs, ComfyUI's all-in-one, T5 of llama.cpp | `bfl_flux` | `ldm_vae` | `clip`, `t5` |
//!
//! Tokenizers are in none of these files: CLIP's `vocab.json` and `merges.txt` and T5's `tokenizer.json` come from elsewhere.
//! [`Family::padding`] has their padding tokens. What a network does with its tensors belongs to `networks`.

mod bfl_flux;
mod clip;
mod ldm_unet;
mod ldm_vae;
mod open_clip;
mod t5;
pub mod taesd;

use std::path::Path;

use formats::detect::{self, Denoiser};
use formats::{Family, Header, Naming, Part, Place};
use serde_json::Value;

use super::Checkpoint;
use super::view::{SCALING, Source};
use crate::{Error, Result};

/// More blocks than any network has.
const MAX_LIST: usize = 10_000;

/// An open file with a whole model, or with one part of some model.
#[derive(Debug, Clone)]
pub struct SingleFile {
    file: Checkpoint,
    header: Header,
    denoiser: Option<Denoiser>,
}

impl SingleFile {
    /// Opens a safetensors or GGUF file and finds out what it holds. No weights are read. A file of something else is refused
    /// with the name of what it looks like.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let header = file.header();
        let refused = |what: &str| Error::malformed(path, detect::looks_like(what));
        let denoiser = detect::denoiser(&header).map_err(refused)?;
        if denoiser.is_none() {
            detect::lone_part(&header).map_err(|what| refused(&what))?;
        }
        Ok(Self { file, header, denoiser })
    }

    /// The denoiser; none if the file has none, but an autoencoder or a text encoder alone.
    pub fn denoiser(&self) -> Option<Denoiser> {
        self.denoiser
    }

    /// The family of the denoiser, if the file has one.
    pub fn family(&self) -> Option<Family> {
        self.denoiser.map(|denoiser| denoiser.family)
    }

    /// The parts that are in the file, or that a lone part may be. Any of them may be given in a file of its own instead.
    pub fn parts(&self) -> Vec<Part> {
        let families = self.family().map_or_else(|| Family::ALL.to_vec(), |family| vec![family]);
        let is_there = |part: &Part| families.iter().any(|family| self.place(*family, *part).is_some());
        Part::NETWORKS.into_iter().filter(is_there).collect()
    }

    /// Whether the denoiser also reads a mask and a masked picture: 9 channels in a UNet, 384 in FLUX.
    pub fn inpaints(&self) -> Result<bool> {
        let Some(family) = self.family() else { return Ok(false) };
        let (config, _) = self.part(family.denoiser())?;
        let channels = |key| config.get(key).and_then(Value::as_u64).unwrap_or(0);
        Ok(match family.denoiser() {
            Part::Transformer => channels("in_channels") == 6 * channels_out(&config),
            _ => channels("in_channels") == 9,
        })
    }

    /// A part of the model: its config as diffusers or transformers publish it, with the sizes of the tensors, and the tensors
    /// under our keys.
    pub fn part(&self, part: Part) -> Result<(Value, Checkpoint)> {
        match self.family() {
            Some(family) => self.part_for(family, part),
            None => {
                Err(Error::malformed(self.file.path(), "this is no whole model, so it has to be said of which it is"))
            }
        }
    }

    /// A part for a model of `family`, as from a file that holds nothing else: `ae.safetensors`, `clip_l.safetensors`,
    /// `t5xxl_fp16.safetensors`, `t5-v1_1-xxl-encoder-Q8_0.gguf`. An autoencoder of Stable Diffusion does not tell whether it is
    /// one of 1.5 or of XL.
    pub fn part_for(&self, family: Family, part: Part) -> Result<(Value, Checkpoint)> {
        let Some(Place { prefix, naming, .. }) = self.place(family, part) else {
            return Err(Error::malformed(self.file.path(), format!("there is no {part} of {family} in this file")));
        };
        let below = Below { file: &self.file, prefix };
        let base = published(family.published_config(part).unwrap_or("null"));
        let Mapped { config, sources, ignored } = match naming {
            Naming::LdmUnet => ldm_unet::map(&below, base),
            Naming::BflFlux => bfl_flux::map(&below, base),
            Naming::LdmVae => ldm_vae::map(&below, base),
            Naming::Clip => clip::map(&below, base),
            Naming::OpenClip => open_clip::map(&below, base),
            Naming::T5 => t5::map(&below, base),
        }
        .map_err(|reason| Error::malformed(self.file.path(), format!("taken for {family}: {reason}")))?;
        let mut view = self.file.renamed(prefix, sources, |name| carries_nothing(name, &ignored))?;
        view.taken_for = Some(format!("the {part} of {family}"));
        Ok((config, view))
    }

    /// `scheduler_config.json` of the family. Files of Stable Diffusion 2.1 and 2.1-base have the same keys: unless the header
    /// says otherwise (`modelspec.prediction_type`) it is taken for 2.1, which predicts velocity, and an inpainting one for
    /// noise. A whole model must know its family; for a lone part this is an error.
    pub fn scheduler_config(&self) -> Result<Value> {
        let Some(denoiser) = self.denoiser else {
            return Err(Error::malformed(self.file.path(), "this is no whole model, so no scheduler belongs to it"));
        };
        let mut config = published(denoiser.family.published_scheduler(denoiser.guidance_embedded));
        if let Some(prediction) = detect::prediction_type(denoiser.family, &self.header) {
            config["prediction_type"] = prediction.into();
        }
        if self.file.shape("ztsnr").is_ok() {
            config["rescale_betas_zero_snr"] = true.into();
            config["timestep_spacing"] = "trailing".into();
        }
        Ok(config)
    }

    fn place(&self, family: Family, part: Part) -> Option<Place> {
        family.place_of(part, &self.header)
    }
}

/// The files are ours and tested, so null never comes out for a part that the family has.
fn published(config: &str) -> Value {
    serde_json::from_str(config).unwrap_or_default()
}

/// What a key map makes of a part.
struct Mapped {
    config: Value,
    sources: Vec<Source>,
    /// Beginnings or ends of names of tensors that carry nothing for this network.
    ignored: Vec<String>,
}

fn carries_nothing(name: &str, ignored: &[impl AsRef<str>]) -> bool {
    ignored.iter().map(AsRef::as_ref).any(|mark| name.starts_with(mark) || name.ends_with(mark))
}

/// The tensors of one part.
struct Below<'a> {
    file: &'a Checkpoint,
    prefix: &'a str,
}

impl Below<'_> {
    /// Whether a name begins so.
    fn has(&self, start: &str) -> bool {
        self.file.has_prefix(&format!("{}{start}", self.prefix))
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>, String> {
        let name = format!("{}{name}", self.prefix);
        self.file.shape(&name).map_err(|_| format!("{name} is missing"))
    }

    fn size(&self, name: &str, axis: usize) -> Result<usize, String> {
        let shape = self.shape(name)?;
        let size = shape.get(axis).copied().filter(|size| *size > 0);
        size.ok_or_else(|| format!("{}{name} has the shape {shape:?}", self.prefix))
    }

    /// The number of entries in `list0`, `list1`, … of a network.
    fn count(&self, list: &str) -> usize {
        (0..MAX_LIST).take_while(|number| self.has(&format!("{list}{number}."))).count()
    }

    /// The names below the prefix that carry something.
    fn names(&self, ignored: &[&str]) -> impl Iterator<Item = &str> {
        let short = self.file.names().filter_map(|name| name.strip_prefix(self.prefix));
        short.filter(|name| !carries_nothing(name, ignored) && !carries_nothing(name, &SCALING))
    }
}

/// Weight and bias of one layer.
fn layer(ours: &str, theirs: &str) -> [Source; 2] {
    ["weight", "bias"].map(|leaf| Source::whole(format!("{ours}.{leaf}"), format!("{theirs}.{leaf}")))
}

fn channels_out(config: &Value) -> u64 {
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    number("out_channels").or_else(|| number("in_channels")).unwrap_or(0)
}
