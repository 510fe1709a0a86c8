//! Complete models in one file, as the original authors and most user interfaces write them, and separate files of
//! single parts. The family is detected from the keys, and each part is returned under our keys with its config. The
//! key maps of each family:
//!
//! | file | denoiser | autoencoder | text encoders |
//! |---|---|---|---|
//! | ldm, sgm (Stable Diffusion) | `ldm_unet` | `ldm_vae` | `clip` (1.5, XL), `open_clip` (2.1, XL) |
//! | FLUX.1 of Black Forest Labs, ComfyUI's all-in-one, T5 of llama.cpp | `bfl_flux` | `ldm_vae` | `clip`, `t5` |
//!
//! These files contain no tokenizers: CLIP's `vocab.json` and `merges.txt` and T5's `tokenizer.json` are separate
//! files. [`Family::padding`] has their padding tokens. `networks` defines what is computed with the tensors.

mod bfl_flux;
mod clip;
mod ldm_unet;
mod ldm_vae;
mod open_clip;
mod t5;
pub mod taesd;

use std::path::Path;

use formats::detect::{self, Denoiser, Unsupported};
use formats::{Family, Header, Naming, Part, Place, scaling};
use serde_json::Value;

use super::Checkpoint;
use super::view::Source;
use crate::{Error, Result};

/// Upper limit on the blocks in a list; no network has more.
const MAX_LIST: usize = 10_000;

/// An open file with a complete model or with a single part.
#[derive(Debug, Clone)]
pub struct SingleFile {
    file: Checkpoint,
    header: Header,
    denoiser: Option<Denoiser>,
}

impl SingleFile {
    /// Opens a safetensors or GGUF file and detects its content. Reads no weights. Errors on other files name what the
    /// file looks like.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let header = file.header();
        let refused = |what: Unsupported| Error::malformed(path, what.to_string());
        let denoiser = detect::denoiser(&header).map_err(refused)?;
        if denoiser.is_none() {
            detect::lone_part(&header).map_err(refused)?;
        }
        Ok(Self { file, header, denoiser })
    }

    /// The denoiser; `None` if the file contains only an autoencoder or a text encoder.
    pub fn denoiser(&self) -> Option<Denoiser> {
        self.denoiser
    }

    /// The family of the denoiser, if the file contains one.
    pub fn family(&self) -> Option<Family> {
        self.denoiser.map(|denoiser| denoiser.family)
    }

    /// The parts in the file, or the parts that a single-part file may be. Each can be replaced by a separate file.
    pub fn parts(&self) -> Vec<Part> {
        let families = self.family().map_or_else(|| Family::ALL.to_vec(), |family| vec![family]);
        let is_there = |part: &Part| families.iter().any(|family| self.place(*family, *part).is_some());
        Part::NETWORKS.into_iter().filter(is_there).collect()
    }

    /// Whether the denoiser also takes a mask and a masked picture as input: 9 channels in a UNet, 384 in FLUX.
    pub fn inpaints(&self) -> Result<bool> {
        let Some(family) = self.family() else { return Ok(false) };
        let (config, _) = self.part(family.denoiser())?;
        let channels = |key| config.get(key).and_then(Value::as_u64).unwrap_or(0);
        Ok(match family.denoiser() {
            Part::Transformer => channels("in_channels") == 6 * channels_out(&config),
            _ => channels("in_channels") == 9,
        })
    }

    /// A part of the model: its config in the format of diffusers or transformers, with sizes from the tensors, and the
    /// tensors under our keys.
    pub fn part(&self, part: Part) -> Result<(Value, Checkpoint)> {
        match self.family() {
            Some(family) => self.part_for(family, part),
            None => {
                Err(Error::malformed(self.file.path(), "this is no whole model, so it has to be said of which it is"))
            }
        }
    }

    /// A part for a model of `family`, from a file that contains nothing else: `ae.safetensors`, `clip_l.safetensors`,
    /// `t5xxl_fp16.safetensors`, `t5-v1_1-xxl-encoder-Q8_0.gguf`. The autoencoders of Stable Diffusion 1.5 and XL
    /// cannot be distinguished.
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

    /// `scheduler_config.json` of the family. Stable Diffusion 2.1 and 2.1-base have the same keys. A file is treated
    /// as 2.1, which predicts velocity, unless its header says otherwise (`modelspec.prediction_type`). An inpainting
    /// model is treated as predicting noise. Fails for a single part, whose family is unknown.
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
    file: &'a Checkpoint,
    prefix: &'a str,
}

impl Below<'_> {
    /// Whether a name starts with the prefix.
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

    /// Number of entries in `list0`, `list1`, … of a network.
    fn count(&self, list: &str) -> usize {
        (0..MAX_LIST).take_while(|number| self.has(&format!("{list}{number}."))).count()
    }

    /// The names below the prefix, without ignored ones.
    fn names(&self, ignored: &[&str]) -> impl Iterator<Item = &str> {
        let short = self.file.names().filter_map(|name| name.strip_prefix(self.prefix));
        short.filter(|name| !carries_nothing(name, ignored) && !scaling::is_scaling(name))
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
