//! Where the parts of a Stable Diffusion pipeline come from: a folder in diffusers' layout, or one file with all of them. What a
//! pipeline makes of its parts is its own matter.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::Defaults;
use super::folder::{Index, read_defaults, read_json, read_text};
use crate::checkpoint::{Checkpoint, Family, Part, SingleFile};
use crate::schedulers;
use crate::tokenizers::clip::ClipTokenizer;
use crate::{Error, Result};

/// A checkpoint in either form.
#[derive(Debug)]
pub(super) enum Parts {
    Folder(PathBuf),
    File(PathBuf, Box<SingleFile>, Family),
}

impl Parts {
    /// A folder with `model_index.json`, a single file, or a folder with nothing but that.
    pub fn open(path: &Path) -> Result<Self> {
        if path.join("model_index.json").is_file() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let file = if path.is_dir() { only_file(path)? } else { path.to_owned() };
        let single = SingleFile::open(&file)?;
        let family = single.family();
        let family =
            family.ok_or_else(|| Error::malformed(&file, "this is one part of a model, and a whole one is needed"))?;
        Ok(Self::File(file, Box::new(single), family))
    }

    /// For error messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::File(path, ..) => path,
        }
    }

    /// What `model_index.json` says, or would say.
    pub fn index(&self) -> Result<Index> {
        match self {
            Self::Folder(folder) => Index::read(folder),
            Self::File(_, _, family) => Ok(Index::of(match family {
                Family::StableDiffusion1 | Family::StableDiffusion2 => "StableDiffusionPipeline",
                Family::StableDiffusionXl => "StableDiffusionXLPipeline",
                Family::FluxDev | Family::FluxSchnell => "FluxPipeline",
            })),
        }
    }

    /// The config of a network and its tensors under our keys.
    pub fn network<C: DeserializeOwned>(&self, part: Part) -> Result<(C, Checkpoint)> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.join(name(part));
                Ok((read_json(&folder.join("config.json"))?, Checkpoint::open(&folder)?))
            }
            Self::File(path, file, _) => {
                let (config, checkpoint) = file.part(part)?;
                let config =
                    serde_json::from_value(config).map_err(|error| Error::malformed(path, error.to_string()))?;
                Ok((config, checkpoint))
            }
        }
    }

    pub fn scheduler(&self) -> Result<schedulers::Config> {
        match self {
            Self::Folder(folder) => {
                schedulers::Config::from_json(&read_text(&folder.join("scheduler/scheduler_config.json"))?)
            }
            Self::File(_, file, _) => schedulers::Config::from_json(&file.scheduler_config()?.to_string()),
        }
    }

    /// The tokenizer of a text encoder. Single files hold none, and all of these families were trained with the same one.
    pub fn clip_tokenizer(&self, part: Part) -> Result<ClipTokenizer> {
        match self {
            Self::Folder(folder) if part == Part::TextEncoder2 => ClipTokenizer::load(&folder.join("tokenizer_2")),
            Self::Folder(folder) => ClipTokenizer::load(&folder.join("tokenizer")),
            Self::File(_, _, family) => ClipTokenizer::published(family.padding(part)),
        }
    }

    /// The family's defaults, and what the checkpoint says instead.
    pub fn defaults(&self, family: Defaults) -> Result<Defaults> {
        match self {
            Self::Folder(folder) => read_defaults(folder, family),
            Self::File(..) => Ok(family),
        }
    }
}

/// The folder of a part in diffusers' layout.
fn name(part: Part) -> &'static str {
    match part {
        Part::Unet => "unet",
        Part::Transformer => "transformer",
        Part::Vae => "vae",
        Part::TextEncoder => "text_encoder",
        Part::TextEncoder2 => "text_encoder_2",
    }
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(Error::file(folder))?;
    let mut files = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => Err(Error::malformed(folder, "there is neither a model_index.json nor one .safetensors file alone")),
    }
}
