//! The models this engine has in memory.
//!
//! A pipeline stays loaded under its checkpoint's digest, so that the next request starts at once; adapters are
//! attached to the resident pipeline and replaced without reading the base again. Which one has to go when memory is
//! short is decided by [`super::shelf`].

use std::collections::HashMap;
use std::path::Path;

use diffusion::device::{OpenDevice, weight_dtype};
use diffusion::lora::LoraFile;
use diffusion::pipelines::Footprint;
use diffusion::{LoadOptions, PictureRequest, Pipeline, WeightStorage};

use super::budget::{Budget, Demand};
use super::shelf::Shelf;
use crate::protocol::{self, Adapter, Base};

/// Pipelines on one device.
pub(super) struct Models {
    device: OpenDevice,
    budget: Budget,
    resident: Shelf<Resident>,
    /// By digest of the model.
    footprints: HashMap<String, Footprint>,
}

/// A loaded pipeline with the adapters attached to it.
pub(super) struct Resident {
    pub pipeline: Pipeline,
    attached: Vec<(String, u64)>,
    warnings: Vec<String>,
    weights: WeightStorage,
    /// Of the weights, and of the adapters.
    bytes: [u64; 2],
}

impl Models {
    /// Nothing loaded yet.
    pub fn new(device: OpenDevice, budget: Budget) -> Self {
        Self { device, budget, resident: Shelf::new(budget.bytes), footprints: HashMap::new() }
    }

    /// The device everything runs on.
    pub fn device(&self) -> &OpenDevice {
        &self.device
    }

    /// Hands out the pipeline of `base` with exactly `loras` attached, for `request` and within the budget, and what the user
    /// should know about the match. Give it back with [`keep`](Self::keep); a pipeline that a panic left half way is simply not
    /// given back. A request that does not fit is refused before anything is loaded or dropped for it.
    pub fn pipeline(
        &mut self,
        base: &Base,
        loras: &[Adapter],
        request: &PictureRequest,
    ) -> diffusion::Result<(Resident, Vec<String>)> {
        let footprint = self.footprint(base)?;
        let adapters = loras.iter().map(|lora| adapter_bytes(&lora.path)).sum();
        let dtype = weight_dtype(&self.device.device);
        let demand = Demand { footprint: &footprint, request, dtype, adapters };
        let (options, needs) = self.budget.plan(&demand)?;
        let resident = self.resident.take(&base.sha256).filter(|resident| resident.weights == options.weights);
        // What is left is other models', whose place may be needed.
        self.drop_for(needs.total());
        let mut resident = match resident {
            Some(resident) => resident,
            None => self.load(base, options)?,
        };
        resident.pipeline.keep_text_encoders(options.keep_text_encoders);
        resident.bytes[0] = needs.weights - adapters;
        let wanted: Vec<_> = loras.iter().map(|lora| (lora.sha256.clone(), lora.scale.to_bits())).collect();
        if resident.attached != wanted {
            match attach(&mut resident.pipeline, loras) {
                Ok((bytes, warnings)) => {
                    (resident.attached, resident.warnings, resident.bytes[1]) = (wanted, warnings, bytes);
                }
                Err(error) => {
                    // An adapter that does not fit is no reason to load the base again.
                    if resident.pipeline.attach(&[]).is_ok() {
                        (resident.attached, resident.warnings, resident.bytes[1]) = (Vec::new(), Vec::new(), 0);
                        self.keep(base, resident);
                    }
                    return Err(error);
                }
            }
        }
        let warnings = resident.warnings.clone();
        Ok((resident, warnings))
    }

    /// Loads a model as its usual request would, and keeps it.
    pub fn load_ahead(&mut self, base: &Base) -> diffusion::Result<()> {
        let request = self.footprint(base)?.usual_request();
        let (resident, _) = self.pipeline(base, &[], &request)?;
        self.keep(base, resident);
        Ok(())
    }

    /// Keeps a pipeline for the next request.
    pub fn keep(&mut self, base: &Base, resident: Resident) {
        self.resident.put(base.sha256.clone(), resident.bytes.iter().sum(), resident);
    }

    /// What is loaded: all that is kept, and the pipeline that was handed out.
    pub fn list(&self, handed_out: Option<(&Base, &Resident)>) -> Vec<protocol::Resident> {
        let handed_out = handed_out.map(|(base, resident)| (base.sha256.as_str(), resident.bytes.iter().sum()));
        let all = self.resident.list().chain(handed_out);
        all.map(|(sha256, bytes)| protocol::Resident { sha256: sha256.to_owned(), bytes }).collect()
    }

    /// Forgets a model.
    pub fn unload(&mut self, sha256: &str) {
        if self.resident.take(sha256).is_some() {
            tracing::info!(sha256, "model unloaded");
        }
    }

    /// Makes room for a training on `base`, which loads its own copy and needs about as much again for activations.
    pub fn make_room_for_training(&mut self, base: &Base) {
        let bytes = self.weight(&base.folder);
        self.drop_for(2 * bytes);
    }

    /// Forgets everything, after a defect that may have left a model or the device in a strange state.
    pub fn clear(&mut self) {
        self.resident.clear();
    }

    fn footprint(&mut self, base: &Base) -> diffusion::Result<Footprint> {
        if let Some(footprint) = self.footprints.get(&base.sha256) {
            return Ok(footprint.clone());
        }
        let footprint = Footprint::read(&base.folder)?;
        self.footprints.insert(base.sha256.clone(), footprint.clone());
        Ok(footprint)
    }

    fn load(&mut self, base: &Base, options: LoadOptions) -> diffusion::Result<Resident> {
        let started = std::time::Instant::now();
        let pipeline = Pipeline::load_with(&base.folder, &self.device.device, options)?;
        let LoadOptions { weights, keep_text_encoders } = options;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(model = base.name, %weights, keep_text_encoders, seconds, "model loaded");
        Ok(Resident { pipeline, attached: Vec::new(), warnings: Vec::new(), weights, bytes: [0; 2] })
    }

    fn drop_for(&mut self, bytes: u64) {
        for key in self.resident.make_room(bytes) {
            tracing::info!(sha256 = key, "model dropped to make room");
        }
    }

    /// Bytes of the weights once loaded: as in the files on a GPU (bf16); widened to f32, so at most twice, on the CPU.
    fn weight(&self, folder: &Path) -> u64 {
        safetensors_bytes(folder) * if super::is_gpu(&self.device) { 1 } else { 2 }
    }
}

impl Resident {
    /// How the weights of its denoiser are stored.
    pub fn weights(&self) -> WeightStorage {
        self.weights
    }
}

/// At most this much, before the file is read: its factors are half precision, and f32 beside their layers.
fn adapter_bytes(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |about| 2 * about.len())
}

/// Bytes that hang on the pipeline now, and what the user should know.
fn attach(pipeline: &mut Pipeline, loras: &[Adapter]) -> diffusion::Result<(u64, Vec<String>)> {
    let files = loras.iter().map(|lora| LoraFile::open(&lora.path)).collect::<diffusion::Result<Vec<_>>>()?;
    let scaled: Vec<_> = files.iter().zip(loras).map(|(file, lora)| (file, lora.scale)).collect();
    let reports = pipeline.attach(&scaled)?;
    let bytes = reports.iter().map(|report| report.bytes).sum();
    let warnings = loras
        .iter()
        .zip(reports)
        .filter(|(_, report)| !report.unmatched.is_empty())
        .map(|(lora, report)| partial_match(&lora.name, report.matched, &report.unmatched));
    Ok((bytes, warnings.collect()))
}

/// A sentence about an adapter of which only a part fits.
fn partial_match(name: &str, matched: usize, unmatched: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = unmatched.len().saturating_sub(SHOWN);
    let keys = unmatched.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("LoRA {name}: {matched} layers attached, {} not in this model: {keys}{rest}", unmatched.len())
}

fn safetensors_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| {
            let path = entry.path();
            match std::fs::metadata(&path) {
                Ok(about) if about.is_dir() => safetensors_bytes(&path),
                Ok(about) if path.extension().is_some_and(|end| end == "safetensors") => about.len(),
                _ => 0,
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_match_names_the_first_keys() {
        let keys: Vec<_> = (0..5).map(|i| format!("k{i}")).collect();
        assert_eq!(
            partial_match("ink", 7, &keys),
            "LoRA ink: 7 layers attached, 5 not in this model: k0, k1, k2 and 2 more"
        );
    }

    #[test]
    fn only_weights_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("vae")).unwrap();
        std::fs::write(folder.path().join("vae/a.safetensors"), [0; 10]).unwrap();
        std::fs::write(folder.path().join("b.safetensors"), [0; 5]).unwrap();
        std::fs::write(folder.path().join("config.json"), [0; 99]).unwrap();
        assert_eq!(safetensors_bytes(folder.path()), 15);
    }
}
