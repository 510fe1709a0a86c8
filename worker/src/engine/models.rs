//! The models that this engine has in memory.
//!
//! A pipeline stays loaded under its checkpoint's digest, so that the next request starts at once. Adapters are
//! attached to the loaded pipeline and replaced without reading the base model again. [`super::model_cache`] decides
//! which pipeline is dropped when memory is short.

use std::collections::HashMap;

use diffusion::checkpoint::Reading;
use diffusion::device::{OpenDevice, weight_dtype};
use diffusion::lora::LoraFile;
use diffusion::{Error, Pipeline};
use domain::model::job_warning;
use memory::{Budget, Demand, Footprint, LoadOptions, Picture, TrainingDemand, TrainingPlan, WeightStorage};

use super::model_cache::ModelCache;
use crate::protocol::{self, Adapter, Base, Train};

/// Pipelines on one device.
pub(super) struct Models {
    device: OpenDevice,
    budget: Budget,
    /// Follows all reading of weights.
    reading: Reading,
    resident: ModelCache,
    /// By the model's digest.
    footprints: HashMap<String, Footprint>,
    /// Bytes of the adapters that were opened before, by digest.
    adapters: HashMap<String, u64>,
}

/// A loaded pipeline with the adapters attached to it.
pub(super) struct Resident {
    pub pipeline: Pipeline,
    /// Digest, name and scales of each adapter. The name is part of the warnings.
    attached: Vec<(String, String, [Option<u64>; 2])>,
    warnings: Vec<String>,
    options: LoadOptions,
    /// Bytes of the weights and of the adapters.
    bytes: [u64; 2],
}

impl Models {
    /// With nothing loaded yet.
    pub(super) fn new(device: OpenDevice, budget: Budget, reading: Reading) -> Self {
        // If the amount of memory is unknown, only the current model stays loaded.
        let limit = if budget.bytes == u64::MAX { 0 } else { budget.bytes };
        let (footprints, adapters) = (HashMap::new(), HashMap::new());
        Self { device, budget, reading, resident: ModelCache::new(limit), footprints, adapters }
    }

    /// What follows the reading of weights.
    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// The device that everything runs on.
    pub(super) fn device(&self) -> &OpenDevice {
        &self.device
    }

    /// Returns the pipeline of `base` with exactly `loras` attached, for `picture` and within the budget, together with
    /// notes for the user about how the adapters match. Give the pipeline back with [`keep`](Self::keep); after a panic
    /// it is simply not given back. A request that does not fit is refused before anything is loaded or dropped for it.
    pub(super) fn pipeline(
        &mut self,
        base: &Base,
        loras: &[Adapter],
        picture: Picture,
    ) -> diffusion::Result<(Resident, Vec<String>)> {
        let footprint = self.footprint(base)?;
        let adapters = self.adapter_bytes(loras)?;
        let demand = Demand { footprint: &footprint, picture, adapters };
        let (options, needs) = self.budget.plan(&demand)?;
        let resident = self.resident.take::<Resident>(&base.sha256);
        let resident =
            resident.filter(|resident| resident.options == LoadOptions { keep: resident.options.keep, ..options });
        // The remaining entries are other models, whose space may be needed.
        self.drop_for(needs.total());
        let mut resident = match resident {
            Some(resident) => resident,
            None => {
                tracing::info!(model = base.name, how = %options, estimate = needs.total(), "loading a model");
                self.load(base, options)?
            }
        };
        resident.options = options;
        resident.pipeline.keep(options.keep);
        resident.bytes[0] = needs.weights - adapters;
        let scales = |lora: &Adapter| [Some(lora.scale), lora.text_encoder_scale].map(|scale| scale.map(f64::to_bits));
        let wanted: Vec<_> = loras.iter().map(|lora| (lora.sha256.clone(), lora.name.clone(), scales(lora))).collect();
        if resident.attached != wanted {
            match attach(&mut resident.pipeline, loras) {
                Ok((bytes, warnings)) => {
                    (resident.attached, resident.warnings, resident.bytes[1]) = (wanted, warnings, bytes);
                }
                Err(error) => {
                    // An adapter that does not fit is no reason to load the base model again.
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
    pub(super) fn load_ahead(&mut self, base: &Base) -> diffusion::Result<()> {
        let picture = self.footprint(base)?.usual_picture();
        let (resident, _) = self.pipeline(base, &[], picture)?;
        self.keep(base, resident);
        Ok(())
    }

    /// Keeps a pipeline for the next request.
    pub(super) fn keep(&mut self, base: &Base, resident: Resident) {
        let mut resident = resident;
        // A failed request may have left encoders loaded without room for them.
        resident.pipeline.keep(resident.options.keep);
        self.resident.put(base.sha256.clone(), resident.bytes.iter().sum(), resident);
    }

    /// The loaded models: everything that is kept, and the pipeline in use.
    pub(super) fn list(&self, handed_out: Option<(&Base, &Resident)>) -> Vec<protocol::Resident> {
        let handed_out = handed_out.map(|(base, resident)| (base.sha256.as_str(), resident.bytes.iter().sum()));
        let all = self.resident.list().chain(handed_out);
        all.map(|(sha256, bytes)| protocol::Resident { sha256: sha256.to_owned(), bytes }).collect()
    }

    /// Drops a model.
    pub(super) fn unload(&mut self, sha256: &str) {
        if self.resident.discard(sha256) {
            tracing::info!(sha256, "model unloaded");
        }
    }

    /// Makes room for a training, which loads its own copy of the model. Returns how it stays within the budget. A
    /// training that does not fit is refused before anything is loaded or dropped for it.
    pub(super) fn make_room_for_training(&mut self, order: &Train) -> diffusion::Result<TrainingPlan> {
        // Before anything is estimated from the values.
        order.params.check().map_err(|error| Error::Invalid(error.to_string()))?;
        let footprint = self.footprint(&order.base)?;
        let demand = TrainingDemand { footprint: &footprint, params: &order.params, examples: order.examples.len() };
        let planned = self.budget.plan_training(&demand);
        let planned = planned.ok_or_else(|| Error::Invalid("models of this family cannot be trained".into()))?;
        let (plan, needs) = planned?;
        self.drop_for(needs.total());
        tracing::info!(model = order.base.name, how = %plan.options, estimate = needs.total(), "loading a base model");
        Ok(plan)
    }

    /// Drops everything, after a defect that may have left a model or the device in an undefined state.
    pub(super) fn clear(&mut self) {
        self.resident.clear();
    }

    fn footprint(&mut self, base: &Base) -> diffusion::Result<Footprint> {
        if let Some(footprint) = self.footprints.get(&base.sha256) {
            return Ok(footprint.clone());
        }
        let footprint = diffusion::pipelines::footprint(&base.folder)?;
        self.footprints.insert(base.sha256.clone(), footprint.clone());
        Ok(footprint)
    }

    /// The memory that adapters take once they are attached to a model.
    fn adapter_bytes(&mut self, loras: &[Adapter]) -> diffusion::Result<u64> {
        let dtype = weight_dtype(&self.device.device);
        let mut sum = 0;
        for lora in loras {
            sum += if let Some(bytes) = self.adapters.get(&lora.sha256) {
                *bytes
            } else {
                let bytes = open(lora)?.bytes(dtype);
                self.adapters.insert(lora.sha256.clone(), bytes);
                bytes
            };
        }
        Ok(sum)
    }

    fn load(&mut self, base: &Base, options: LoadOptions) -> diffusion::Result<Resident> {
        let started = std::time::Instant::now();
        let pipeline = Pipeline::load_followed(&base.folder, &self.device.device, options, &self.reading)?;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(model = base.name, how = %options, seconds, "model loaded");
        Ok(Resident { pipeline, attached: Vec::new(), warnings: Vec::new(), options, bytes: [0; 2] })
    }

    fn drop_for(&mut self, bytes: u64) {
        for key in self.resident.make_room(bytes) {
            tracing::info!(sha256 = key, "model dropped to make room");
        }
    }
}

impl Resident {
    /// The format in which the weights of its denoiser are stored.
    pub(super) fn weights(&self) -> WeightStorage {
        self.options.weights
    }
}

/// The file of an adapter. Messages about it name the model.
fn open(lora: &Adapter) -> diffusion::Result<LoraFile> {
    LoraFile::open_as(&lora.path, &lora.name).map(|file| file.with_text_encoder_scale(lora.text_encoder_scale))
}

/// Bytes of the adapters now attached to the pipeline, and notes for the user.
fn attach(pipeline: &mut Pipeline, loras: &[Adapter]) -> diffusion::Result<(u64, Vec<String>)> {
    let files = loras.iter().map(open).collect::<diffusion::Result<Vec<_>>>()?;
    let scaled: Vec<_> = files.iter().zip(loras).map(|(file, lora)| (file, lora.scale)).collect();
    let reports = pipeline.attach(&scaled)?;
    let bytes = reports.iter().map(|report| report.bytes).sum();
    let mut warnings = Vec::new();
    for ((lora, file), report) in loras.iter().zip(&files).zip(&reports) {
        warnings.extend(file.warnings().iter().map(|warning| job_warning(&lora.name, warning)));
        if !report.unmatched.is_empty() {
            warnings.push(partial_match(&lora.name, report.matched, &report.unmatched));
        }
    }
    Ok((bytes, warnings))
}

/// A note about an adapter that fits only in part.
fn partial_match(name: &str, matched: usize, unmatched: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = unmatched.len().saturating_sub(SHOWN);
    let keys = unmatched.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let warning = format!("{matched} layers attached, {} not in this model: {keys}{rest}", unmatched.len());
    job_warning(name, &warning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named_as_its_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let adapter = Adapter {
            name: "ink".into(),
            path: path.clone(),
            sha256: String::new(),
            scale: 1.0,
            text_encoder_scale: None,
        };
        for bytes in [None, Some("no weights at all")] {
            bytes.iter().for_each(|bytes| std::fs::write(&path, bytes).unwrap());
            let message = open(&adapter).unwrap_err().to_string();
            assert!(message.starts_with("ink: ") && !message.contains("weights.safetensors"), "{message}");
        }
    }

    #[test]
    fn a_partial_match_names_the_first_keys() {
        let keys: Vec<_> = (0..5).map(|i| format!("k{i}")).collect();
        assert_eq!(
            partial_match("ink", 7, &keys),
            "ink: 7 layers attached, 5 not in this model: k0, k1, k2 and 2 more"
        );
    }
}
