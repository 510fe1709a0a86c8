//! Reads and validates one adapter file of any trainer, as a table of updates by network and module path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::DType;
use formats::adapter::keys::{self, Key, Module, Part};
use formats::adapter::{AdapterFamily, AlphaRule, Inspection, Network};

use super::update::{Array, Delta, HIGHEST_RANK, LoHa, LoKr, LowRank, Magnitude, Side, Update};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// Size limit in bytes for `adapter_config.json`.
const CONFIG_LIMIT: u64 = 1 << 20;

/// A validated adapter of FLUX.1 or Stable Diffusion, in memory.
#[derive(Debug, Clone)]
pub struct LoraFile {
    modules: Vec<Adapted>,
    others: Vec<String>,
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

/// The tensors of one module of a file.
#[derive(Debug)]
struct Parts {
    module: Module,
    tensors: BTreeMap<Part, String>,
}

impl LoraFile {
    /// Reads a safetensors file, regardless of its name.
    ///
    /// # Errors
    /// Rejects pickles, unknown algorithms, adapters of other model families, ranks above 512, values that are not
    /// finite, tensors that do not belong together, and an alpha of 0 everywhere, which would make the adapter a no-op.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
        let mut others = BTreeSet::new();
        for name in &names {
            match keys::parse(name) {
                Key::Unsupported(kind) => {
                    return Err(Error::Adapter(keys::not_used(kind)));
                }
                Key::Other { layer } => {
                    others.insert(layer);
                }
                Key::Known { module, part } => {
                    let parts = modules
                        .entry(module.name.clone())
                        .or_insert_with(|| Parts { module, tensors: BTreeMap::new() });
                    if parts.tensors.insert(part, name.clone()).is_some() {
                        return Err(Error::malformed(path, format!("{} is there twice", parts.module.name)));
                    }
                }
            }
        }
        if modules.is_empty() {
            return Err(Error::Adapter(keys::not_known(&names)));
        }
        let has_alpha = modules.values().any(|parts| parts.tensors.contains_key(&Part::Alpha));
        let rule = AlphaRule::read(file.metadata(), config_beside(path)?.as_deref(), has_alpha)
            .map_err(|reason| Error::malformed(path, reason))?;
        let mut adapted = Vec::new();
        for parts in modules.values() {
            let reader = Reader { path, file: &file, parts };
            adapted.extend(reader.read(&rule)?);
        }
        let idle = |update: &Update| update.scale == 0.0 && update.magnitude.is_none() && update.bias.is_none();
        if adapted.iter().all(|module: &Adapted| idle(&module.update)) {
            return Err(Error::Adapter("its alpha is 0 everywhere, so it would change nothing".into()));
        }
        Ok(Self {
            modules: adapted,
            others: others.into_iter().collect(),
            alpha_source: rule.source.to_owned(),
            metadata: file.metadata().clone(),
            text_encoder_scale: None,
        })
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

    /// Layers of the file that are unknown.
    pub(super) fn others(&self) -> &[String] {
        &self.others
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

/// Describes a file from its header alone.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let file = Checkpoint::open(path)?;
    formats::adapter::inspect_header(&file.header()).map_err(Error::Adapter)
}

/// PEFT's `adapter_config.json` in the same folder.
fn config_beside(path: &Path) -> Result<Option<String>> {
    let beside = path.with_file_name("adapter_config.json");
    let there = std::fs::metadata(&beside).is_ok_and(|file| file.is_file() && file.len() <= CONFIG_LIMIT);
    there.then(|| std::fs::read_to_string(&beside).map_err(Error::file(&beside))).transpose()
}

/// The tensors of one module while it is read.
struct Reader<'a> {
    path: &'a Path,
    file: &'a Checkpoint,
    parts: &'a Parts,
}

impl Reader<'_> {
    /// The updates of one module of a file: several if the file fuses layers that this network keeps separate.
    fn read(&self, rule: &AlphaRule) -> Result<Vec<Adapted>> {
        for name in self.parts.tensors.values() {
            if self.file.shape(name)?.contains(&0) {
                return Err(self.refused(&format!("a tensor is empty; ranks of 1 to {HIGHEST_RANK} are possible")));
            }
        }
        let delta = self.delta()?;
        let alpha = match (self.parts.tensors.get(&Part::Alpha), &delta) {
            // LyCORIS writes an arbitrary number where alpha has no meaning.
            (Some(name), Some(delta)) if delta.rank().is_some() => match self.file.read_f32(name)?.as_slice() {
                [alpha] if alpha.is_finite() => Some(f64::from(*alpha)),
                _ => return Err(self.refused("its alpha is not one finite number")),
            },
            _ => None,
        };
        let Module { network, targets, .. } = &self.parts.module;
        let mut adapted = Vec::with_capacity(targets.len());
        for (path, share) in targets {
            let scale = match delta.as_ref().and_then(Delta::rank) {
                // A fused layer may hold the factors of each part side by side.
                Some(rank) if rank > HIGHEST_RANK * targets.len() => {
                    return Err(self.refused(&format!("its rank is {rank}; 1 to {HIGHEST_RANK} is possible")));
                }
                Some(rank) => rule.scale(*network, path, rank, alpha),
                None => 1.0,
            };
            if !scale.is_finite() {
                return Err(self.refused("its alpha is not finite"));
            }
            let whole = Update {
                magnitude: self.magnitude(delta.as_ref())?,
                bias: self.bias(scale)?,
                delta: delta.clone(),
                scale,
            };
            let update = whole.share(*share).ok_or_else(|| {
                let outputs = delta.as_ref().map_or(0, |delta| delta.shape()[0]);
                self.refused(&format!("{outputs} outputs cannot be shared among the layers it fuses"))
            })?;
            adapted.push(Adapted { network: *network, path: path.clone(), update });
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
        let has = |parts: &[Part]| parts.iter().any(|part| self.parts.tensors.contains_key(part));
        let low_rank = has(&[Part::Down, Part::Up, Part::Mid]);
        let loha = has(&[Part::HadaW1A, Part::HadaW1B, Part::HadaW2A, Part::HadaW2B]);
        let lokr = has(&[Part::LokrW1, Part::LokrW1A, Part::LokrW1B, Part::LokrW2, Part::LokrW2A, Part::LokrW2B]);
        let full = has(&[Part::Diff]);
        let delta = match (low_rank, loha, lokr, full) {
            (true, false, false, false) => {
                let (down, up) = (self.needed(Part::Down)?, self.needed(Part::Up)?);
                LowRank::new(down, self.array(Part::Mid)?, up).map(Delta::LowRank)
            }
            (false, true, false, false) => {
                let a = [self.needed(Part::HadaW1A)?, self.needed(Part::HadaW2A)?];
                let b = [self.needed(Part::HadaW1B)?, self.needed(Part::HadaW2B)?];
                let cores = match (self.array(Part::HadaT1)?, self.array(Part::HadaT2)?) {
                    (Some(first), Some(second)) => Some([first, second]),
                    (None, None) => None,
                    _ => return Err(self.refused("one of its two cores is missing")),
                };
                LoHa::new(a, b, cores).map(Delta::LoHa)
            }
            (false, false, true, false) => {
                let left = self.side(Part::LokrW1, Part::LokrW1A, Part::LokrW1B, None)?;
                let core = self.array(Part::LokrT2)?;
                let right = self.side(Part::LokrW2, Part::LokrW2A, Part::LokrW2B, core)?;
                LoKr::new(left, right).map(Delta::LoKr)
            }
            (false, false, false, true) => Some(self.needed(Part::Diff)?).filter(Array::is_weight).map(Delta::Full),
            (false, false, false, false) if has(&[Part::DiffBias]) => return Ok(None),
            (false, false, false, false) => return Err(self.refused("its factors are missing")),
            _ => return Err(self.refused("it holds tensors of several algorithms")),
        };
        delta.map(Some).ok_or_else(|| {
            let shapes: Vec<String> = self
                .parts
                .tensors
                .values()
                .filter_map(|name| Some(format!("{:?}", self.file.shape(name).ok()?)))
                .collect();
            self.refused(&format!("the shapes of its tensors do not belong together: {}", shapes.join(", ")))
        })
    }

    fn side(&self, whole: Part, a: Part, b: Part, core: Option<Array>) -> Result<Side> {
        match self.array(whole)? {
            Some(whole) => Ok(Side::Whole(whole)),
            None => Ok(Side::Factored { a: self.needed(a)?, b: self.needed(b)?, core }),
        }
    }

    fn magnitude(&self, delta: Option<&Delta>) -> Result<Option<Magnitude>> {
        let Some(outputs) = delta.map(|delta| delta.shape()[0]) else { return Ok(None) };
        let flat = |array: Array| Array { shape: vec![array.values.len()], values: array.values };
        if let Some(vector) = self.array(Part::MagnitudeVector)? {
            return if vector.values.len() == outputs {
                Ok(Some(Magnitude::Outputs(flat(vector))))
            } else {
                Err(self.refused("its magnitudes are not one for each output"))
            };
        }
        let Some(scale) = self.array(Part::DoraScale)? else { return Ok(None) };
        match (scale.shape.first() == Some(&outputs), scale.values.len() == outputs) {
            (true, true) => Ok(Some(Magnitude::Outputs(flat(scale)))),
            (true, false) if outputs > 1 => Err(self.refused("its magnitudes are not one for each output")),
            // The number of inputs is known only once the layer is: LyCORIS flattens kernels.
            _ => Ok(Some(Magnitude::Inputs(flat(scale)))),
        }
    }

    /// The change of the bias at strength 1. PEFT's is multiplied by the scale.
    fn bias(&self, scale: f64) -> Result<Option<Array>> {
        let scaled = self.array(Part::UpBias)?.map(|bias| Array {
            values: bias.values.iter().map(|value| (f64::from(*value) * scale) as f32).collect(),
            shape: bias.shape,
        });
        let bias = match scaled {
            Some(bias) => Some(bias),
            None => self.array(Part::DiffBias)?,
        };
        match bias {
            Some(bias) if bias.shape.len() != 1 => Err(self.refused("its bias is no vector")),
            bias => Ok(bias),
        }
    }

    fn needed(&self, part: Part) -> Result<Array> {
        self.array(part)?.ok_or_else(|| self.refused(&format!("one of its factors is missing ({part:?})")))
    }

    fn array(&self, part: Part) -> Result<Option<Array>> {
        let Some(name) = self.parts.tensors.get(&part) else { return Ok(None) };
        let values = self.file.read_f32(name)?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(self.refused("it holds values that are not finite"));
        }
        Ok(Some(Array { shape: self.file.shape(name)?, values }))
    }

    fn refused(&self, reason: &str) -> Error {
        Error::malformed(self.path, format!("{}: {reason}", self.parts.module.name))
    }
}
