//! Reads one adapter file of any trainer into memory, as a table of updates by network and module path.
//! `formats::adapter` checks names, shapes and data types; the values are checked here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use formats::adapter::keys::Part;
use formats::adapter::{
    self, AdapterFamily, Algorithm, AlphaRule, CHANGES_NOTHING, CONFIG_FILE, Contents, Inspection, MAX_CONFIG_BYTES,
    Network,
};

use super::update::{Array, Delta, LoHa, LoKr, LowRank, Magnitude, Side, Update};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// A validated adapter of FLUX.1 or Stable Diffusion, in memory.
#[derive(Debug, Clone)]
pub struct LoraFile {
    name: String,
    modules: Vec<Adapted>,
    warnings: Vec<String>,
    alpha_source: String,
    metadata: BTreeMap<String, String>,
    /// Scale on the text encoders, if it is not that on the denoiser.
    text_encoder_scale: Option<f64>,
}

/// The updates of a file for one module of a network.
#[derive(Debug, Clone)]
pub(super) struct Adapted {
    pub network: Network,
    pub path: String,
    pub update: Update,
}

impl LoraFile {
    /// Reads a safetensors file, regardless of its name, and PEFT's `adapter_config.json` beside it.
    ///
    /// # Errors
    /// Rejects pickles, unknown algorithms, adapters of other model families, ranks above 512, values that are not
    /// finite, and tensors that do not belong together.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, &path.display().to_string())
    }

    /// The same, with the name that its owner knows it by, for messages.
    pub fn open_as(path: &Path, name: &str) -> Result<Self> {
        Self::read(path, name).map_err(|error| match error {
            Error::Malformed { reason, .. } => Error::malformed(name, reason),
            Error::File { source, .. } => Error::File { path: PathBuf::from(name), source },
            other => other,
        })
    }

    fn read(path: &Path, name: &str) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let contents = Contents::read(file.header(), config_beside(path)?.as_deref());
        let contents = contents.map_err(|reason| Error::malformed(path, reason))?;
        let mut modules = Vec::new();
        for found in &contents.modules {
            modules.extend(Reader { path, file: &file, found }.read(&contents.alpha)?);
        }
        let mut warnings = contents.warnings();
        let is_zero = |name: &&str| file.read_number(name).is_ok_and(|alpha| alpha == 0.0);
        if contents.deciding_alphas().is_some_and(|alphas| alphas.iter().all(is_zero)) {
            warnings.push(CHANGES_NOTHING.to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            modules,
            warnings,
            alpha_source: contents.alpha.source.to_owned(),
            metadata: file.metadata().clone(),
            text_encoder_scale: None,
        })
    }

    /// The name for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The same adapter, attached to text encoders with another scale than to the denoiser.
    #[must_use]
    pub fn with_text_encoder_scale(self, scale: Option<f64>) -> Self {
        Self { text_encoder_scale: scale, ..self }
    }

    /// The scale on a network, of an adapter that is attached with `scale`.
    pub(super) fn scale_on(&self, network: Network, scale: f64) -> f64 {
        match network {
            Network::TextEncoder | Network::TextEncoder2 => self.text_encoder_scale.unwrap_or(scale),
            Network::Transformer | Network::Unet => scale,
        }
    }

    /// Updates by network and path. A module may occur twice.
    pub(super) fn modules(&self) -> &[Adapted] {
        &self.modules
    }

    /// Assumptions and parts without effect, as sentences without a full stop.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn alpha_source(&self) -> &str {
        &self.alpha_source
    }

    /// The metadata strings of its header.
    pub(super) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Bytes of memory in `dtype` if every module of the file is attached.
    pub fn bytes(&self, dtype: DType) -> u64 {
        self.modules.iter().map(|module| module.update.bytes(dtype)).sum()
    }

    /// Whether it has updates for `network`.
    pub fn adapts(&self, network: Network) -> bool {
        self.modules.iter().any(|module| module.network == network)
    }

    /// The model family that it was made for.
    pub fn family(&self) -> AdapterFamily {
        let inputs = |module: &Adapted| module.update.delta.as_ref().map(|delta| delta.shape()[1]);
        let places = self.modules.iter().map(|module| (module.network, &module.path[..], inputs(module)));
        AdapterFamily::of(&places.collect::<Vec<_>>(), &self.metadata)
    }
}

/// Describes a file from its header, and the config beside it.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let file = Checkpoint::open(path)?;
    adapter::inspect(file.header(), config_beside(path)?.as_deref()).map_err(Error::Adapter)
}

/// PEFT's `adapter_config.json` in the same folder.
fn config_beside(path: &Path) -> Result<Option<String>> {
    let beside = path.with_file_name(CONFIG_FILE);
    let Ok(about) = std::fs::metadata(&beside) else { return Ok(None) };
    if about.len() > MAX_CONFIG_BYTES {
        return Err(Error::malformed(path, format!("{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes")));
    }
    std::fs::read_to_string(&beside).map(Some).map_err(Error::file(&beside))
}

/// One module while its values are read.
struct Reader<'a> {
    path: &'a Path,
    file: &'a Checkpoint,
    found: &'a adapter::Adapted,
}

impl Reader<'_> {
    /// The updates of one module of a file: several if the file fuses layers that this network keeps separate.
    fn read(&self, rule: &AlphaRule) -> Result<Vec<Adapted>> {
        let module = &self.found.module;
        let delta = self.delta()?;
        let alpha = match (self.found.tensors.get(&Part::Alpha), self.found.rank) {
            // LyCORIS writes an arbitrary number where alpha has no meaning.
            (Some(name), Some(_)) => Some(self.file.read_number(name)?),
            _ => None,
        };
        if alpha.is_some_and(|alpha| !alpha.is_finite()) {
            return Err(self.refused("its alpha is not one finite number"));
        }
        let mut adapted = Vec::with_capacity(module.targets.len());
        for (path, share) in &module.targets {
            let scale = match self.found.rank {
                Some(rank) => rule.scale(module.network, &module.names(path), rank, alpha),
                None => 1.0,
            };
            let whole = Update { magnitude: self.magnitude()?, bias: self.bias(scale)?, delta: delta.clone(), scale };
            let update = whole.share(*share).ok_or_else(|| self.refused("its outputs cannot be shared"))?;
            adapted.push(Adapted { network: module.network, path: path.clone(), update });
        }
        // A trainer that fuses layers of which only some are adapted writes zeros for the others.
        let idle = |module: &Adapted| {
            matches!(&module.update.delta, Some(Delta::LowRank(factors)) if factors.is_zero())
                && module.update.magnitude.is_none()
                && module.update.bias.is_none()
        };
        if !adapted.iter().all(idle) {
            adapted.retain(|module| !idle(module));
        }
        Ok(adapted)
    }

    /// ΔW; `None` if only the bias changes.
    fn delta(&self) -> Result<Option<Delta>> {
        let delta = match self.found.algorithm {
            _ if self.found.weight.is_none() => return Ok(None),
            Algorithm::Bias => return Ok(None),
            Algorithm::Lora | Algorithm::Locon => {
                let (down, up) = (self.needed(Part::Down)?, self.needed(Part::Up)?);
                LowRank::new(down, self.array(Part::Mid)?, up).map(Delta::LowRank)
            }
            Algorithm::Loha => {
                let a = [self.needed(Part::HadaW1A)?, self.needed(Part::HadaW2A)?];
                let b = [self.needed(Part::HadaW1B)?, self.needed(Part::HadaW2B)?];
                let cores = match (self.array(Part::HadaT1)?, self.array(Part::HadaT2)?) {
                    (Some(first), Some(second)) => Some([first, second]),
                    _ => None,
                };
                LoHa::new(a, b, cores).map(Delta::LoHa)
            }
            Algorithm::Lokr => {
                let left = self.side(Part::LokrW1, Part::LokrW1A, Part::LokrW1B, None)?;
                let core = self.array(Part::LokrT2)?;
                let right = self.side(Part::LokrW2, Part::LokrW2A, Part::LokrW2B, core)?;
                LoKr::new(left, right).map(Delta::LoKr)
            }
            Algorithm::Full | Algorithm::Norm => Some(Delta::Full(self.needed(Part::Diff)?)),
        };
        delta.map(Some).ok_or_else(|| self.refused("the shapes of its tensors do not belong together"))
    }

    fn side(&self, whole: Part, a: Part, b: Part, core: Option<Array>) -> Result<Side> {
        match self.array(whole)? {
            Some(whole) => Ok(Side::Whole(whole)),
            None => Ok(Side::Factored { a: self.needed(a)?, b: self.needed(b)?, core }),
        }
    }

    fn magnitude(&self) -> Result<Option<Magnitude>> {
        let Some(over) = self.found.magnitude else { return Ok(None) };
        let values = match self.array(Part::MagnitudeVector)? {
            Some(vector) => vector.values,
            None => self.needed(Part::DoraScale)?.values,
        };
        let flat = Array { shape: vec![values.len()], values };
        Ok(Some(match over {
            adapter::Magnitude::Outputs => Magnitude::Outputs(flat),
            adapter::Magnitude::Inputs => Magnitude::Inputs(flat),
        }))
    }

    /// The change of the bias at strength 1. PEFT's is multiplied by the scale.
    fn bias(&self, scale: f64) -> Result<Option<Array>> {
        let scaled = self.array(Part::UpBias)?.map(|bias| Array {
            values: bias.values.iter().map(|value| (f64::from(*value) * scale) as f32).collect(),
            shape: bias.shape,
        });
        match scaled {
            Some(bias) => Ok(Some(bias)),
            None => self.array(Part::DiffBias),
        }
    }

    fn needed(&self, part: Part) -> Result<Array> {
        self.array(part)?.ok_or_else(|| self.refused(&format!("its tensor {part:?} is missing")))
    }

    fn array(&self, part: Part) -> Result<Option<Array>> {
        let Some(name) = self.found.tensors.get(&part) else { return Ok(None) };
        let values = self.file.read_f32(name)?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(self.refused("it holds values that are not finite"));
        }
        Ok(Some(Array { shape: self.file.shape(name)?, values }))
    }

    fn refused(&self, reason: &str) -> Error {
        Error::malformed(self.path, format!("{}: {reason}", self.found.module.name))
    }
}
