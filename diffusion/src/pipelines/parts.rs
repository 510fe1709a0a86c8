//! Where the parts of a pipeline come from: a folder in diffusers' layout, or the file of a denoiser with the other parts in it,
//! in files beside it or in folders beside it. What a pipeline makes of its parts is its own matter.

use std::path::{Path, PathBuf};

use formats::detect::{self, Denoiser};
use formats::{Defaults, Family, Part};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::folder::{Index, read_defaults, read_json};
use crate::checkpoint::{Checkpoint, SingleFile};
use crate::schedulers;
use crate::tokenizers::clip::ClipTokenizer;
use crate::tokenizers::t5::T5Tokenizer;
use crate::{Error, Result};

/// How files of weights end.
const ENDS: [&str; 2] = ["safetensors", "gguf"];
/// The most tokens of a prompt that FLUX.1 was trained with, and its fast version
/// (<https://github.com/black-forest-labs/flux>).
const LONGEST: [usize; 2] = [512, 256];

/// A checkpoint in any form.
#[derive(Debug)]
pub(super) enum Parts {
    Folder(PathBuf),
    Files(Box<Files>),
}

/// The file of a denoiser, and what lies beside it.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    main: SingleFile,
    denoiser: Denoiser,
    /// Where other parts may be: `vae.safetensors`, or `vae/` as in diffusers' layout.
    beside: Option<PathBuf>,
}

impl Parts {
    /// A folder with `model_index.json`; the file of a whole model; or a folder with the file of a denoiser, in which each
    /// part that the file lacks is `text_encoder.safetensors` (or `.gguf`) or `text_encoder/`, and so on.
    pub fn open(path: &Path) -> Result<Self> {
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

    /// For error messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            Self::Files(files) => &files.path,
        }
    }

    /// What `model_index.json` says, or would say.
    pub fn index(&self) -> Result<Index> {
        match self {
            Self::Folder(folder) => Index::read(folder),
            Self::Files(files) => Ok(Index::of(files.denoiser.family.pipeline_class())),
        }
    }

    /// The family of the pipeline.
    pub fn family(&self) -> Result<Family> {
        match self {
            Self::Files(files) => Ok(files.denoiser.family),
            Self::Folder(folder) => {
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

    /// The config of a network and its tensors under our keys.
    pub fn network<C: DeserializeOwned>(&self, part: Part) -> Result<(C, Checkpoint)> {
        let place = match (self, part) {
            // A folder beside a denoiser's file must not take its place.
            (Self::Files(files), Part::Transformer | Part::Unet) => Place::NoFolder(files),
            _ => self.place(part.as_str(), "config.json"),
        };
        match place {
            Place::Folder(folder) => Ok((read_json(&folder.join("config.json"))?, Checkpoint::open(&folder)?)),
            Place::NoFolder(files) => {
                let (config, checkpoint) = match files.apart(part) {
                    Some(apart) => SingleFile::open(&apart)?.part_for(files.denoiser.family, part)?,
                    None => files.main.part(part)?,
                };
                let malformed = |error: serde_json::Error| Error::malformed(checkpoint.path(), error.to_string());
                Ok((serde_json::from_value(config).map_err(malformed)?, checkpoint))
            }
        }
    }

    /// `scheduler_config.json`, or that of the family.
    pub fn scheduler_config(&self) -> Result<Value> {
        match self.place("scheduler", "scheduler_config.json") {
            Place::Folder(folder) => read_json(&folder.join("scheduler_config.json")),
            Place::NoFolder(files) => files.main.scheduler_config(),
        }
    }

    /// The same, for the families that choose among solvers.
    pub fn scheduler(&self) -> Result<schedulers::Config> {
        schedulers::Config::from_json(&self.scheduler_config()?.to_string())
    }

    /// The tokenizer of a text encoder. Files hold none, and all of these families were trained with the same one.
    pub fn clip_tokenizer(&self, part: Part) -> Result<ClipTokenizer> {
        match self.place(tokenizer_name(part), "tokenizer_config.json") {
            Place::Folder(folder) => ClipTokenizer::load(&folder),
            Place::NoFolder(files) => ClipTokenizer::published(files.denoiser.family.padding(part)),
        }
    }

    /// The tokenizer of FLUX.1's second text encoder.
    pub fn t5_tokenizer(&self) -> Result<T5Tokenizer> {
        match self.place(tokenizer_name(Part::TextEncoder2), "tokenizer_config.json") {
            Place::Folder(folder) => T5Tokenizer::load(&folder),
            Place::NoFolder(_) => T5Tokenizer::published(self.t5_length()?),
        }
    }

    /// How many ids T5 reads of a prompt.
    pub fn t5_length(&self) -> Result<usize> {
        match self.place(tokenizer_name(Part::TextEncoder2), "tokenizer_config.json") {
            Place::Folder(folder) => T5Tokenizer::length_in(&folder),
            Place::NoFolder(files) => Ok(LONGEST[usize::from(!files.denoiser.guidance_embedded)]),
        }
    }

    /// The family's defaults, and what the checkpoint says instead.
    pub fn defaults(&self, family: Defaults) -> Result<Defaults> {
        match self {
            Self::Folder(folder) => read_defaults(folder, family),
            Self::Files(files) => files.beside.as_ref().map_or(Ok(family), |folder| read_defaults(folder, family)),
        }
    }

    /// Whether something is in the folder `name`, which has `file` then. In diffusers' layout it has to be there.
    fn place(&self, name: &str, file: &str) -> Place<'_> {
        match self {
            Self::Folder(folder) => Place::Folder(folder.join(name)),
            Self::Files(files) => {
                let folder = files.beside.as_ref().map(|beside| beside.join(name));
                folder.filter(|folder| folder.join(file).is_file()).map_or(Place::NoFolder(files), Place::Folder)
            }
        }
    }
}

/// Where a component is.
enum Place<'a> {
    Folder(PathBuf),
    NoFolder(&'a Files),
}

impl Files {
    /// The file that a part is given in by itself.
    fn apart(&self, part: Part) -> Option<PathBuf> {
        let stem = self.beside.as_ref()?.join(part.as_str());
        ENDS.iter().map(|end| stem.with_extension(end)).find(|file| file.is_file() && *file != self.path)
    }
}

/// What the config of a UNet tells of its family.
#[derive(Deserialize, Default)]
struct UnetKind {
    use_linear_projection: Option<bool>,
}

/// The folder of a text encoder's tokenizer.
fn tokenizer_name(part: Part) -> &'static str {
    part.tokenizer().unwrap_or("tokenizer")
}

/// The one file of weights that is not a part beside another.
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
