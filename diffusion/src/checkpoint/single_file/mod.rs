//! Open files of complete models or of single parts. `formats::single_file` has the key maps; `taesd` reads the preview
//! decoders, which are no parts of a model.

pub mod taesd;

use std::path::Path;

use formats::detect::{self, Denoiser};
use formats::{Family, Part, single_file};
use serde_json::Value;

use super::Checkpoint;
use crate::{Error, Result};

/// An open file with a complete model or with a single part.
#[derive(Debug, Clone)]
pub struct SingleFile {
    file: Checkpoint,
    denoiser: Option<Denoiser>,
}

impl SingleFile {
    /// Opens a safetensors or GGUF file and detects its content. Reads no weights. Errors on other files name what the
    /// file looks like.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let denoiser = detect::contents(file.header()).map_err(|what| Error::malformed(path, what.to_string()))?;
        Ok(Self { file, denoiser })
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
        let is_there = |part: &Part| families.iter().any(|family| family.place_of(*part, self.file.header()).is_some());
        Part::NETWORKS.into_iter().filter(is_there).collect()
    }

    /// Whether the denoiser also takes a mask and a masked picture as input: 9 channels in a UNet, 384 in FLUX.
    pub fn inpaints(&self) -> Result<bool> {
        let Some(family) = self.family() else { return Ok(false) };
        let (config, _) = self.part(family.denoiser())?;
        let channels = |key| config.get(key).and_then(Value::as_u64);
        let inputs = channels("in_channels").unwrap_or(0);
        Ok(match family.denoiser() {
            Part::Transformer => channels("out_channels").is_some_and(|outputs| inputs == 6 * outputs),
            _ => inputs == 9,
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

    /// A part for a model of `family`, as [`single_file::part`] describes it.
    pub fn part_for(&self, family: Family, part: Part) -> Result<(Value, Checkpoint)> {
        let (config, view) = single_file::part(self.file.header(), family, part)
            .map_err(|reason| Error::malformed(self.file.path(), reason))?;
        Ok((config, self.file.seen_as(view)))
    }

    /// `scheduler_config.json` of the family. Stable Diffusion 2.1 and 2.1-base have the same keys. A file is treated
    /// as 2.1, which predicts velocity, unless its header says otherwise (`modelspec.prediction_type`). An inpainting
    /// model is treated as predicting noise. Fails for a single part, whose family is unknown.
    pub fn scheduler_config(&self) -> Result<Value> {
        let Some(Denoiser { family, guidance_embedded }) = self.denoiser else {
            return Err(Error::malformed(self.file.path(), "this is no whole model, so no scheduler belongs to it"));
        };
        // A built-in file, which is tested.
        let mut config: Value = serde_json::from_str(family.published_scheduler(guidance_embedded)).unwrap_or_default();
        if let Some(prediction) = detect::prediction_type(family, self.file.header()) {
            config["prediction_type"] = prediction.into();
        }
        if self.file.shape("ztsnr").is_ok() {
            config["rescale_betas_zero_snr"] = true.into();
            config["timestep_spacing"] = "trailing".into();
        }
        Ok(config)
    }
}
