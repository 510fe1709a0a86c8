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
//! What is padded with is told by [`Family::padding`].
//! What a network does with its tensors belongs to `networks`.

mod bfl_flux;
mod clip;
mod configs;
mod family;
mod ldm_unet;
mod ldm_vae;
mod open_clip;
mod t5;
pub mod taesd;

use std::fmt;
use std::path::Path;

use serde_json::Value;

use super::Checkpoint;
use super::view::{SCALING, Source};
use crate::{Error, Result};

pub use family::Family;

/// A network of a model, by the role that diffusers' folders name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `unet`, Stable Diffusion's denoiser
    Unet,
    /// `transformer`, FLUX's denoiser
    Transformer,
    /// `vae`
    Vae,
    /// `text_encoder`: CLIP ViT-L, or OpenCLIP ViT-H in Stable Diffusion 2
    TextEncoder,
    /// `text_encoder_2`: OpenCLIP ViT-bigG in Stable Diffusion XL, T5 in FLUX
    TextEncoder2,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unet, Self::Transformer, Self::Vae, Self::TextEncoder, Self::TextEncoder2];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unet => "UNet",
            Self::Transformer => "transformer",
            Self::Vae => "autoencoder",
            Self::TextEncoder => "text encoder",
            Self::TextEncoder2 => "second text encoder",
        })
    }
}

/// An open file with a whole model, or with one part of some model.
#[derive(Debug, Clone)]
pub struct SingleFile {
    file: Checkpoint,
    family: Option<Family>,
}

impl SingleFile {
    /// Opens a safetensors or GGUF file and finds out what it holds. No weights are read. A file of something else is refused
    /// with the name of what it looks like.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let family = family::recognise(&file)?;
        Ok(Self { file, family })
    }

    /// The family of the denoiser; none if the file has none, but an autoencoder or a text encoder alone.
    pub fn family(&self) -> Option<Family> {
        self.family
    }

    /// The parts that are in the file, or that a lone part may be. Any of them may be given in a file of its own instead.
    pub fn parts(&self) -> Vec<Part> {
        let families = self.family.map_or_else(|| Family::ALL.to_vec(), |family| vec![family]);
        let is_there = |part: &Part| families.iter().any(|family| self.place(*family, *part).is_some());
        Part::ALL.into_iter().filter(is_there).collect()
    }

    /// Whether the denoiser also reads a mask and a masked picture: 9 channels in a UNet, 384 in FLUX.
    pub fn inpaints(&self) -> Result<bool> {
        let Some(family) = self.family else { return Ok(false) };
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
        match self.family {
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
        let Some(Place { prefix, map, .. }) = self.place(family, part) else {
            return Err(Error::malformed(self.file.path(), format!("there is no {part} of {family} in this file")));
        };
        let below = Below { file: &self.file, prefix };
        let base = configs::part(family, part);
        let Mapped { config, sources, ignored } = match map {
            Map::LdmUnet => ldm_unet::map(&below, base),
            Map::BflFlux => bfl_flux::map(&below, base),
            Map::LdmVae => ldm_vae::map(&below, base),
            Map::Clip => clip::map(&below, base),
            Map::OpenClip => open_clip::map(&below, base),
            Map::T5 => t5::map(&below, base),
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
        let Some(family) = self.family else {
            return Err(Error::malformed(self.file.path(), "this is no whole model, so no scheduler belongs to it"));
        };
        let mut config = configs::scheduler(family);
        let stated = self.file.metadata().get("modelspec.prediction_type").map(String::as_str);
        let prediction = match stated {
            Some("epsilon") => Some("epsilon"),
            Some("v" | "v_prediction") => Some("v_prediction"),
            // Fine-tunes of XL to velocity carry this empty tensor.
            _ if self.file.shape("v_pred").is_ok() => Some("v_prediction"),
            _ if family == Family::StableDiffusion2 && self.inpaints()? => Some("epsilon"),
            _ => None,
        };
        if family.denoiser() == Part::Unet
            && let Some(prediction) = prediction
        {
            config["prediction_type"] = prediction.into();
        }
        if self.file.shape("ztsnr").is_ok() {
            config["rescale_betas_zero_snr"] = true.into();
            config["timestep_spacing"] = "trailing".into();
        }
        Ok(config)
    }

    fn place(&self, family: Family, part: Part) -> Option<Place> {
        let is_there = |place: &&Place| self.file.has_prefix(&format!("{}{}", place.prefix, place.mark));
        places(family, part).iter().find(is_there).copied()
    }
}

/// Where a part may be: below `prefix`, if a tensor's name goes on with `mark`.
#[derive(Debug, Clone, Copy)]
struct Place {
    prefix: &'static str,
    mark: &'static str,
    map: Map,
}

#[derive(Debug, Clone, Copy)]
enum Map {
    LdmUnet,
    BflFlux,
    LdmVae,
    Clip,
    OpenClip,
    T5,
}

const fn place(prefix: &'static str, mark: &'static str, map: Map) -> Place {
    Place { prefix, mark, map }
}

/// Where the denoiser of a whole model is, and that of a file without other parts.
const DENOISERS: [&str; 3] = ["model.diffusion_model.", "", "diffusion_model."];

fn places(family: Family, part: Part) -> &'static [Place] {
    const UNET: [Place; 3] = [
        place(DENOISERS[0], "input_blocks.", Map::LdmUnet),
        place(DENOISERS[1], "input_blocks.", Map::LdmUnet),
        place(DENOISERS[2], "input_blocks.", Map::LdmUnet),
    ];
    const FLUX: [Place; 3] = [
        place(DENOISERS[0], "double_blocks.", Map::BflFlux),
        place(DENOISERS[1], "double_blocks.", Map::BflFlux),
        place(DENOISERS[2], "double_blocks.", Map::BflFlux),
    ];
    const VAE: [Place; 3] = [
        place("first_stage_model.", "decoder.", Map::LdmVae),
        place("vae.", "decoder.", Map::LdmVae),
        place("", "decoder.mid.", Map::LdmVae),
    ];
    // Files of the oldest transformers have no `text_model.`
    const CLIP_1: [Place; 3] = [
        place("cond_stage_model.transformer.", "text_model.", Map::Clip),
        place("cond_stage_model.transformer.", "embeddings.", Map::Clip),
        place("", "text_model.", Map::Clip),
    ];
    const CLIP_2: [Place; 2] = [
        place("cond_stage_model.model.", "transformer.resblocks.", Map::OpenClip),
        place("", "transformer.resblocks.", Map::OpenClip),
    ];
    const CLIP_XL: [Place; 2] =
        [place("conditioner.embedders.0.transformer.", "text_model.", Map::Clip), place("", "text_model.", Map::Clip)];
    const BIG_G: [Place; 3] = [
        place("conditioner.embedders.1.model.", "transformer.resblocks.", Map::OpenClip),
        place("", "transformer.resblocks.", Map::OpenClip),
        place("", "text_model.", Map::Clip),
    ];
    const CLIP_FLUX: [Place; 2] =
        [place("text_encoders.clip_l.transformer.", "text_model.", Map::Clip), place("", "text_model.", Map::Clip)];
    const T5: [Place; 3] = [
        place("text_encoders.t5xxl.transformer.", "encoder.block.", Map::T5),
        place("", "encoder.block.", Map::T5),
        place("", "enc.blk.", Map::T5),
    ];

    use Family::{FluxDev, FluxSchnell, StableDiffusion1, StableDiffusion2, StableDiffusionXl};
    match (family, part) {
        (StableDiffusion1 | StableDiffusion2 | StableDiffusionXl, Part::Unet) => &UNET,
        (FluxDev | FluxSchnell, Part::Transformer) => &FLUX,
        (_, Part::Vae) => &VAE,
        (StableDiffusion1, Part::TextEncoder) => &CLIP_1,
        (StableDiffusion2, Part::TextEncoder) => &CLIP_2,
        (StableDiffusionXl, Part::TextEncoder) => &CLIP_XL,
        (StableDiffusionXl, Part::TextEncoder2) => &BIG_G,
        (FluxDev | FluxSchnell, Part::TextEncoder) => &CLIP_FLUX,
        (FluxDev | FluxSchnell, Part::TextEncoder2) => &T5,
        _ => &[],
    }
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

    /// How many of `list0`, `list1`, … are there.
    fn count(&self, list: &str) -> usize {
        (0..).take_while(|number| self.has(&format!("{list}{number}."))).count()
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
