//! Decides, before anything is loaded, whether a request fits into the memory that this engine may use, and at which
//! precision weights can be stored. `diffusion` estimates what a request takes; [`super::models`] knows what is already
//! in memory.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use diffusion::device::DType;
use diffusion::pipelines::{Footprint, Needs};
use diffusion::{Error, LoadOptions, PictureRequest, WeightStorage};
use requests::{TrainingParams, training_limits as limits};

/// In every family, the sides of pictures are multiples of this many pixels, or of a smaller number.
const GRID: usize = 16;
/// To find a smaller picture that would fit, sizes are tried in steps of 1 / `SCALES`.
const SCALES: usize = 16;

/// How the weights of denoisers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightChoice {
    /// Choose the highest precision that fits, for each request.
    #[default]
    Auto,
    /// Store the weights in this format; refuse a request for which they do not fit.
    Always(WeightStorage),
}

/// How many bytes of the device's memory may be used, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub bytes: u64,
    pub weights: WeightChoice,
}

/// A model from which pictures are requested.
pub(super) struct Demand<'a> {
    pub footprint: &'a Footprint,
    pub request: &'a PictureRequest,
    pub dtype: diffusion::device::DType,
    /// Bytes of the adapters.
    pub adapters: u64,
}

/// A training that is requested.
pub(super) struct TrainingDemand<'a> {
    pub footprint: &'a Footprint,
    pub params: &'a TrainingParams,
    pub examples: usize,
    pub dtype: diffusion::device::DType,
}

impl Budget {
    /// The highest precision of weights at which the request fits; text encoders stay loaded if there is room. The
    /// answer for a request does not depend on what is in memory. A refusal states the estimate and what would fit
    /// instead.
    pub(super) fn plan(&self, demand: &Demand) -> diffusion::Result<(LoadOptions, Needs)> {
        let allowed: &[WeightStorage] = match &self.weights {
            WeightChoice::Auto => &WeightStorage::ALL,
            WeightChoice::Always(storage) => std::slice::from_ref(storage),
        };
        match self.widest(demand, allowed, demand.request) {
            Some(found) => Ok(found),
            None => Err(self.refusal(demand, allowed)),
        }
    }

    /// Whether a training recomputes activations: only if they do not fit, or if the model is large. Its weights are
    /// always at full precision. The answer for a request does not depend on what is in memory. A refusal states the
    /// estimate and what would fit instead.
    pub(super) fn plan_training(&self, demand: &TrainingDemand) -> diffusion::Result<(bool, Needs)> {
        // Before anything is estimated from the values.
        demand.params.check().map_err(|error| Error::Invalid(error.to_string()))?;
        match self.fastest(demand, demand.params) {
            Some(found) => Ok(found),
            None => Err(self.refused_training(demand)),
        }
    }

    fn fastest(&self, demand: &TrainingDemand, params: &TrainingParams) -> Option<(bool, Needs)> {
        let ways: &[bool] = if demand.footprint.recomputes() { &[true] } else { &[false, true] };
        let mut planned = ways.iter().filter_map(|recompute| {
            let needs = demand.footprint.training(params, demand.examples, demand.dtype, *recompute)?;
            Some((*recompute, needs))
        });
        planned.find(|(_, needs)| needs.total() <= self.bytes)
    }

    fn refused_training(&self, demand: &TrainingDemand) -> Error {
        let TrainingParams { batch_size, resolution, rank, .. } = *demand.params;
        let least = |dtype| demand.footprint.training(demand.params, demand.examples, dtype, true);
        let (Some(needs), Some(least)) = (least(demand.dtype), least(DType::BF16)) else {
            return Error::Invalid("models of this family cannot be trained".into());
        };
        let fits = |batch_size, resolution, rank| {
            let params = TrainingParams { batch_size, resolution, rank, ..demand.params.clone() };
            self.fastest(demand, &params).is_some()
        };
        let batch = (1..batch_size).rev().find(|batch| fits(*batch, resolution, rank));
        let scaled = |parts: u32| resolution * parts / SCALES as u32 / GRID as u32 * GRID as u32;
        let smaller = |batch| {
            let sides = (1..SCALES as u32).rev().map(scaled).filter(|side| limits::RESOLUTION.contains(side));
            sides.into_iter().find(|side| fits(batch, *side, rank))
        };
        let narrower = (1..rank).rev().find(|rank| fits(batch_size, resolution, *rank));
        let mut help = Vec::new();
        help.extend(batch.map(|batch| format!("a batch size of {batch}")));
        match smaller(batch_size) {
            Some(side) => help.push(format!("a resolution of {side}")),
            None if batch.is_none() => {
                help.extend(smaller(1).map(|side| format!("a batch size of 1 at a resolution of {side}")));
            }
            None => {}
        }
        help.extend(narrower.map(|rank| format!("a rank of {rank}")));
        let help = if help.is_empty() {
            "nothing smaller would fit either".to_owned()
        } else {
            format!("what would fit is {}", help.join(", or "))
        };
        let reason = format!(
            "a training at {resolution}×{resolution} with batches of {batch_size} and rank {rank} takes about {} of \
             memory, {} of it weights, and the engine may use {} (--vram-budget): {help}",
            ByteSize(needs.total()),
            ByteSize(needs.weights),
            ByteSize(self.bytes)
        );
        Error::Memory { needed: least.total(), reason }
    }

    fn widest(
        &self,
        demand: &Demand,
        allowed: &[WeightStorage],
        request: &PictureRequest,
    ) -> Option<(LoadOptions, Needs)> {
        let ways = allowed.iter().flat_map(|weights| [(*weights, true), (*weights, false)]);
        let planned = ways.map(|(weights, keep_text_encoders)| {
            let options = LoadOptions { weights, keep_text_encoders };
            (options, demand.footprint.needs(request, options, demand.dtype, demand.adapters))
        });
        planned.into_iter().find(|(_, needs)| needs.total() <= self.bytes)
    }

    fn refusal(&self, demand: &Demand, allowed: &[WeightStorage]) -> Error {
        let narrowest = allowed.last().copied().unwrap_or_default();
        let options = LoadOptions { weights: narrowest, keep_text_encoders: false };
        let PictureRequest { width, height, .. } = *demand.request;
        let needs = demand.footprint.needs(demand.request, options, demand.dtype, demand.adapters);
        let scaled = |parts: usize| PictureRequest {
            width: width * parts / SCALES / GRID * GRID,
            height: height * parts / SCALES / GRID * GRID,
            ..demand.request.clone()
        };
        let smaller = (1..SCALES).rev().map(scaled).filter(|request| request.width.min(request.height) > 0);
        let fitting = smaller.into_iter().find(|request| self.widest(demand, allowed, request).is_some());
        let mut help = Vec::new();
        if let Some(fitting) = fitting {
            help.push(format!("a picture of {}×{}", fitting.width, fitting.height));
        }
        let narrower = WeightStorage::ALL.into_iter().filter(|storage| *storage > narrowest);
        let narrower: Vec<_> =
            narrower.filter(|storage| self.widest(demand, &[*storage], demand.request).is_some()).collect();
        if let Some(storage) = narrower.first() {
            help.push(format!("weights in {storage} (--weights)"));
        }
        let one = PictureRequest { num_images: 1, ..demand.request.clone() };
        if demand.request.num_images > 1 && self.widest(demand, allowed, &one).is_some() {
            help.push("one picture at a time".into());
        }
        let help = if help.is_empty() {
            "nothing smaller would fit either".to_owned()
        } else {
            format!("what would fit is {}", help.join(", or "))
        };
        let reason = format!(
            "{width}×{height} takes about {} of memory, {} of it weights in {narrowest}, and the engine may use {} \
             (--vram-budget): {help}",
            ByteSize(needs.total()),
            ByteSize(needs.weights),
            ByteSize(self.bytes)
        );
        // The minimum on any device and setting: the narrowest weights, with a card's compute type.
        let least = LoadOptions { weights: WeightStorage::Int4, keep_text_encoders: false };
        let least = demand.footprint.needs(demand.request, least, DType::BF16, demand.adapters);
        Error::Memory { needed: least.total(), reason }
    }
}

impl fmt::Display for WeightChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Always(storage) => storage.fmt(f),
        }
    }
}

impl FromStr for WeightChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Always).map_err(|_| format!("{text:?} is none of auto, full, int8 and int4")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The built-in model, with blocks of 2,560 values and more, so that storage formats differ in size.
    fn footprint() -> Footprint {
        Footprint::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ember")).unwrap()
    }

    fn request(side: usize) -> PictureRequest {
        PictureRequest {
            prompt: "a fox".into(),
            negative_prompt: None,
            prompt_syntax: requests::PromptSyntax::A1111,
            image: None,
            mask: None,
            strength: 1.0,
            num_images: 1,
            num_inference_steps: 4,
            guidance_scale: 1.0,
            true_cfg_scale: 1.0,
            guidance_rescale: 0.0,
            scheduler: None,
            clip_skip: None,
            width: side,
            height: side,
            seed: 1,
        }
    }

    fn total(weights: WeightStorage, keep_text_encoders: bool) -> u64 {
        let options = LoadOptions { weights, keep_text_encoders };
        footprint().needs(&request(64), options, DType::F32, 0).total()
    }

    fn plan(bytes: u64, weights: WeightChoice, side: usize) -> diffusion::Result<LoadOptions> {
        let (footprint, request) = (footprint(), request(side));
        let demand = Demand { footprint: &footprint, request: &request, dtype: DType::F32, adapters: 0 };
        Budget { bytes, weights }.plan(&demand).map(|(options, _)| options)
    }

    #[test]
    fn the_widest_that_fits_is_taken() {
        let all = WeightStorage::ALL.into_iter().flat_map(|weights| [(weights, true), (weights, false)]);
        let all: Vec<_> = all.map(|(weights, keep)| (total(weights, keep), weights, keep)).collect();
        for (bytes, ..) in &all {
            let first = all.iter().find(|(total, ..)| total <= bytes).unwrap();
            let LoadOptions { weights, keep_text_encoders } = plan(*bytes, WeightChoice::Auto, 64).unwrap();
            assert_eq!((weights, keep_text_encoders), (first.1, first.2));
        }
        let least = all.iter().map(|(total, ..)| *total).min().unwrap();
        assert!(least < total(WeightStorage::Full, false), "packing saves memory");
        assert!(plan(least - 1, WeightChoice::Auto, 64).is_err());
        assert_eq!(plan(u64::MAX, WeightChoice::Auto, 64).unwrap(), LoadOptions::default());
        let always = WeightChoice::Always(WeightStorage::Int4);
        assert_eq!(plan(u64::MAX, always, 64).unwrap().weights, WeightStorage::Int4);
    }

    #[test]
    fn a_refusal_says_what_would_fit() {
        let refusal = |bytes, weights, side| match plan(bytes, weights, side) {
            Err(Error::Memory { needed, reason }) => {
                let least = LoadOptions { weights: WeightStorage::Int4, keep_text_encoders: false };
                assert_eq!(needed, footprint().needs(&request(side), least, DType::BF16, 0).total(), "on any device");
                reason
            }
            other => panic!("{other:?}"),
        };
        let room = total(WeightStorage::Full, false) - 1;
        let full = WeightChoice::Always(WeightStorage::Full);
        let sentence = refusal(room, full, 64);
        assert!(sentence.contains("weights in int8 (--weights)"), "{sentence}");
        let sentence = refusal(total(WeightStorage::Full, true), full, 512);
        assert!(sentence.starts_with("512×512 takes about"), "{sentence}");
        let side = sentence.split("a picture of ").nth(1).and_then(|rest| rest.split('×').next());
        let side: usize = side.and_then(|side| side.parse().ok()).unwrap_or_else(|| panic!("{sentence}"));
        let fits = |side| plan(total(WeightStorage::Full, true), full, side).is_ok();
        assert!(fits(side) && !fits(side + 512 / SCALES), "the largest that fits: {sentence}");
        let sentence = refusal(1 << 20, WeightChoice::Auto, 64);
        assert!(sentence.ends_with("may use 1.0 MiB (--vram-budget): nothing smaller would fit either"), "{sentence}");
    }

    fn plan_training(bytes: u64, batch_size: u32, resolution: u32, rank: u32) -> diffusion::Result<bool> {
        let params = TrainingParams {
            trigger_word: None,
            steps: 3,
            rank,
            alpha: 1.0,
            learning_rate: 1e-4,
            batch_size,
            resolution,
            seed: 1,
        };
        let demand = TrainingDemand { footprint: &footprint(), params: &params, examples: 10, dtype: DType::F32 };
        Budget { bytes, weights: WeightChoice::Auto }.plan_training(&demand).map(|(recompute, _)| recompute)
    }

    #[test]
    fn a_training_recomputes_only_what_does_not_fit() {
        let plan = |power: u32| plan_training(1 << power, 8, 256, 16).ok();
        let plans: Vec<_> = (20..45).map(plan).collect();
        let first = |wanted| plans.iter().position(|plan| *plan == wanted).unwrap();
        assert!(first(None) < first(Some(true)) && first(Some(true)) < first(Some(false)), "{plans:?}");
    }

    #[test]
    fn a_refused_training_is_told_what_would_fit() {
        let refusal = |bytes, batch_size, resolution, rank| match plan_training(bytes, batch_size, resolution, rank) {
            Err(Error::Memory { needed, reason }) => {
                assert!(needed > 0);
                reason
            }
            other => panic!("{other:?}"),
        };
        let value = |sentence: &str, before: &str| -> u32 {
            let rest = sentence.split(before).nth(1).unwrap_or_else(|| panic!("{sentence}"));
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
        };
        let bytes = 20 << 30;
        let sentence = refusal(bytes, 64, 2048, 16);
        let begins = "a training at 2048×2048 with batches of 64 and rank 16 takes about";
        assert!(sentence.starts_with(begins), "{sentence}");
        let side = value(&sentence, "a resolution of ");
        assert!(plan_training(bytes, 64, side, 16).is_ok() && plan_training(bytes, 64, side + 128, 16).is_err());
        let sentence = refusal(bytes, 64, 1024, 16);
        let batch = value(&sentence, "a batch size of ");
        assert!(plan_training(bytes, batch, 1024, 16).is_ok() && plan_training(bytes, batch + 1, 1024, 16).is_err());
        let sentence = refusal(1 << 20, 1, 64, 4);
        assert!(sentence.ends_with("may use 1.0 MiB (--vram-budget): nothing smaller would fit either"), "{sentence}");
    }

    #[test]
    fn choices_read_as_they_are_written() {
        for choice in ["auto", "full", "int8", "int4"] {
            assert_eq!(choice.parse::<WeightChoice>().unwrap().to_string(), choice);
        }
        assert!("int3".parse::<WeightChoice>().is_err());
    }
}
