//! Finds the parts of a pipeline: in a folder in diffusers' layout, or in the file of a denoiser, which contains the
//! other parts or has them next to it as files or folders.

use std::path::{Path, PathBuf};

use formats::detect::{self, Denoiser};
use formats::scheduler::{Stated, flow};
use formats::{Defaults, Family, Part};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::folder::{Index, read_defaults, read_json};
use crate::checkpoint::{Checkpoint, Reading, SingleFile};
use crate::schedulers;
use crate::tokenizers::clip::ClipTokenizer;
use crate::tokenizers::t5::T5Tokenizer;
use crate::{Error, Result};

/// Extensions of weight files.
const ENDS: [&str; 2] = ["safetensors", "gguf"];
/// The longest prompt, in tokens, that FLUX.1 and its schnell variant were trained with
/// (<https://github.com/black-forest-labs/flux/blob/802fb4713906133fcbd0d8dc5351620ca4773036/src/flux/cli.py#L183-L183>).
const LONGEST: [usize; 2] = [512, 256];

/// A checkpoint in any layout.
#[derive(Debug)]
pub(super) struct Parts {
    layout: Layout,
    reading: Reading,
}

#[derive(Debug)]
enum Layout {
    Folder(PathBuf),
    Files(Box<Files>),
}

/// The file of a denoiser, and the parts next to it.
#[derive(Debug)]
struct Files {
    path: PathBuf,
    main: SingleFile,
    denoiser: Denoiser,
    /// The folder that may hold other parts: `vae.safetensors`, or `vae/` as in diffusers' layout.
    beside: Option<PathBuf>,
}

impl Parts {
    /// Opens a folder with `model_index.json`, the file of a whole model, or a folder with the file of a denoiser. In
    /// the last case, each part that the file lacks is `text_encoder.safetensors` (or `.gguf`) or `text_encoder/`,
    /// and so on. `reading` follows the reading of the weights.
    pub(super) fn open(path: &Path, reading: &Reading) -> Result<Self> {
        Ok(Self { layout: Layout::open(path)?, reading: reading.clone() })
    }

    /// What follows the reading of the weights.
    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// For error messages.
    pub(super) fn path(&self) -> &Path {
        match &self.layout {
            Layout::Folder(path) => path,
            Layout::Files(files) => &files.path,
        }
    }

    /// The contents of `model_index.json`, or what they would be.
    pub(super) fn index(&self) -> Result<Index> {
        match &self.layout {
            Layout::Folder(folder) => Index::read(folder),
            Layout::Files(files) => Ok(Index::of(files.denoiser.family.pipeline_class())),
        }
    }

    /// The family of the pipeline.
    pub(super) fn family(&self) -> Result<Family> {
        match &self.layout {
            Layout::Files(files) => Ok(files.denoiser.family),
            Layout::Folder(folder) => {
                let refused = |reason: String| Error::malformed(folder.join("model_index.json"), reason);
                let class = Index::read(folder)?.class_name;
                let unet: UnetKind = match folder.join("unet/config.json") {
                    config if config.is_file() => read_json(&config)?,
                    _ => UnetKind::default(),
                };
                detect::family_of_class(&class, unet.use_linear_projection.unwrap_or(false)).map_err(refused)
            }
        }
    }

    /// The config of a network and its tensors under this crate's keys.
    pub(super) fn network<C: DeserializeOwned>(&self, part: Part) -> Result<(C, Checkpoint)> {
        let (config, checkpoint) = self.opened(part)?;
        Ok((config, checkpoint.followed_by(&self.reading)))
    }

    fn opened<C: DeserializeOwned>(&self, part: Part) -> Result<(C, Checkpoint)> {
        let place = match (&self.layout, part) {
            // A folder next to a denoiser's file must not replace that file's denoiser.
            (Layout::Files(files), Part::Transformer | Part::Unet) => Place::NoFolder(files),
            _ => self.place(part.as_str(), "config.json"),
        };
        match place {
            Place::Folder(folder) => Ok((read_json(&folder.join("config.json"))?, Checkpoint::open(&folder)?)),
            Place::NoFolder(files) => {
                let (config, checkpoint) = match files.separate(part) {
                    Some(separate) => SingleFile::open(&separate)?.part_for(files.denoiser.family, part)?,
                    None => files.main.part(part)?,
                };
                let malformed = |error: serde_json::Error| Error::malformed(checkpoint.path(), error.to_string());
                Ok((serde_json::from_value(config).map_err(malformed)?, checkpoint))
            }
        }
    }

    /// `scheduler_config.json`, or the family's default.
    pub(super) fn scheduler_config(&self) -> Result<Value> {
        match self.place("scheduler", "scheduler_config.json") {
            Place::Folder(folder) => read_json(&folder.join("scheduler_config.json")),
            Place::NoFolder(files) => files.main.scheduler_config(),
        }
    }

    /// The same for families with a choice of solvers.
    pub(super) fn noise_scheduler(&self) -> Result<Stated<schedulers::Config>> {
        Stated::of_noise(&self.scheduler_config()?).map_err(|reason| self.malformed_scheduler(&reason))
    }

    /// The same for FLUX.1.
    pub(super) fn flow_scheduler(&self) -> Result<Stated<flow::Config>> {
        Stated::of_flow(&self.scheduler_config()?).map_err(|reason| self.malformed_scheduler(&reason))
    }

    fn malformed_scheduler(&self, reason: &str) -> Error {
        Error::malformed(self.path(), format!("scheduler_config.json: {reason}"))
    }

    /// The tokenizer of a text encoder. Single files hold none; all of these families use the same one.
    pub(super) fn clip_tokenizer(&self, part: Part) -> Result<ClipTokenizer> {
        match self.place(tokenizer_name(part), "tokenizer_config.json") {
            Place::Folder(folder) => ClipTokenizer::load(&folder),
            Place::NoFolder(files) => ClipTokenizer::published(files.denoiser.family.padding(part)),
        }
    }

    /// The tokenizer of FLUX.1's second text encoder.
    pub(super) fn t5_tokenizer(&self) -> Result<T5Tokenizer> {
        match self.place(tokenizer_name(Part::TextEncoder2), "tokenizer_config.json") {
            Place::Folder(folder) => T5Tokenizer::load(&folder),
            Place::NoFolder(_) => T5Tokenizer::published(self.t5_length()?),
        }
    }

    /// Number of T5 tokens per prompt.
    pub(super) fn t5_length(&self) -> Result<usize> {
        match self.place(tokenizer_name(Part::TextEncoder2), "tokenizer_config.json") {
            Place::Folder(folder) => T5Tokenizer::length_in(&folder),
            Place::NoFolder(files) => Ok(LONGEST[usize::from(!files.denoiser.guidance_embedded)]),
        }
    }

    /// The family's defaults, overridden by those of the checkpoint.
    pub(super) fn defaults(&self, family: Defaults) -> Result<Defaults> {
        match &self.layout {
            Layout::Folder(folder) => read_defaults(folder, family),
            Layout::Files(files) => files.beside.as_ref().map_or(Ok(family), |folder| read_defaults(folder, family)),
        }
    }

    /// The folder `name` if it contains `file`. In diffusers' layout it must exist.
    fn place(&self, name: &str, file: &str) -> Place<'_> {
        match &self.layout {
            Layout::Folder(folder) => Place::Folder(folder.join(name)),
            Layout::Files(files) => {
                let folder = files.beside.as_ref().map(|beside| beside.join(name));
                folder.filter(|folder| folder.join(file).is_file()).map_or(Place::NoFolder(files), Place::Folder)
            }
        }
    }
}

impl Layout {
    fn open(path: &Path) -> Result<Self> {
        if path.join("model_index.json").is_file() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let beside = path.is_dir().then(|| path.to_owned());
        let path = if path.is_dir() { main_file(path)? } else { path.to_owned() };
        let main = SingleFile::open(&path)?;
        let denoiser = main.denoiser();
        let denoiser = denoiser
            .ok_or_else(|| Error::malformed(&path, "this is one part of a model, and a whole one is needed"))?;
        Ok(Self::Files(Box::new(Files { path, main, denoiser, beside })))
    }
}

/// Where a part is stored.
enum Place<'a> {
    Folder(PathBuf),
    NoFolder(&'a Files),
}

impl Files {
    /// The separate file of a part.
    fn separate(&self, part: Part) -> Option<PathBuf> {
        let stem = self.beside.as_ref()?.join(part.as_str());
        ENDS.iter().map(|end| stem.with_extension(end)).find(|file| file.is_file() && *file != self.path)
    }
}

/// Fields of a UNet config that identify its family.
#[derive(Deserialize, Default)]
struct UnetKind {
    use_linear_projection: Option<bool>,
}

/// The folder of a text encoder's tokenizer.
fn tokenizer_name(part: Part) -> &'static str {
    part.tokenizer().unwrap_or("tokenizer")
}

/// The only weight file that is not a part of another one.
fn main_file(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(Error::file(folder))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| ENDS.iter().any(|known| end == *known)) && path.is_file());
    let is_beside = |path: &PathBuf| {
        path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| Part::named(stem).is_some())
    };
    if files.len() > 1 {
        files.retain(|path| !is_beside(path));
    }
    match files.as_slice() {
        [file] => Ok(file.clone()),
        _ => Err(Error::malformed(
            folder,
            "there is neither a model_index.json nor one file of weights that is no text encoder and no autoencoder",
        )),
    }
}
