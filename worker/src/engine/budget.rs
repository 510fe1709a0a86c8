//! Decides, before anything is loaded, whether a request fits into the memory that this engine may use, and at which
//! precision weights can be stored. `diffusion` estimates what a request takes; [`super::models`] knows what is already
//! in memory.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use diffusion::device::DType;
use diffusion::pipelines::{Footprint, Needs, Place};
use diffusion::{Error, Keep, LoadOptions, PictureRequest, WeightStorage};
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

impl WeightChoice {
    /// The formats that may be used, from the highest to the lowest precision.
    fn allowed(&self) -> &[WeightStorage] {
        match self {
            Self::Auto => &WeightStorage::ALL,
            Self::Always(storage) => std::slice::from_ref(storage),
        }
    }
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
    pub place: Place,
}

/// A training that is requested.
pub(super) struct TrainingDemand<'a> {
    pub footprint: &'a Footprint,
    pub params: &'a TrainingParams,
    pub examples: usize,
    pub dtype: DType,
}

/// How a training stays within the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrainingPlan {
    /// How the base model is loaded.
    pub options: LoadOptions,
    /// Whether activations are computed again in the backward pass instead of kept.
    pub recompute: bool,
}

impl Budget {
    /// The highest precision of weights at which the request fits; as much stays loaded as there is room for. The
    /// answer for a request does not depend on what is in memory. A refusal states the estimate and what would fit
    /// instead.
    pub(super) fn plan(&self, demand: &Demand) -> diffusion::Result<(LoadOptions, Needs)> {
        let allowed = self.weights.allowed();
        match self.widest(demand, allowed, demand.request) {
            Some(found) => Ok(found),
            None => Err(self.refusal(demand, allowed)),
        }
    }

    /// How a training stays within the budget. It recomputes activations only if they do not fit, or if the model is
    /// large. The base model, which is not trained, is packed only if it does not fit otherwise. The answer for a
    /// request does not depend on what is in memory. A refusal states the estimate and what would fit instead.
    pub(super) fn plan_training(&self, demand: &TrainingDemand) -> diffusion::Result<(TrainingPlan, Needs)> {
        // Before anything is estimated from the values.
        demand.params.check().map_err(|error| Error::Invalid(error.to_string()))?;
        match self.fastest(demand, demand.params) {
            Some(found) => Ok(found),
            None => Err(self.refused_training(demand)),
        }
    }

    fn fastest(&self, demand: &TrainingDemand, params: &TrainingParams) -> Option<(TrainingPlan, Needs)> {
        let allowed = self.weights.allowed();
        let keeps = !demand.footprint.recomputes();
        let mut planned = ways(allowed, demand.dtype).filter(|options| options.keep == Keep::One).flat_map(|options| {
            // A backward pass through all blocks at once keeps their weights unpacked.
            let ways = [false, true]
                .into_iter()
                .filter(move |recompute| *recompute || keeps && options.weights == WeightStorage::Full);
            ways.map(move |recompute| TrainingPlan { options, recompute })
        });
        planned.find_map(|plan| {
            let TrainingPlan { options, recompute } = plan;
            let needs = demand.footprint.training(params, demand.examples, demand.dtype, options, recompute)?;
            (needs.total() <= self.bytes).then_some((plan, needs))
        })
    }

    fn refused_training(&self, demand: &TrainingDemand) -> Error {
        let TrainingParams { batch_size, resolution, rank, .. } = *demand.params;
        let least = |weights: WeightStorage, dtype| {
            let options =
                LoadOptions { weights, text_weights: weights.max(WeightStorage::Half), ..LoadOptions::default() };
            demand.footprint.training(demand.params, demand.examples, dtype, options, true)
        };
        let narrowest = self.weights.allowed().last().copied().unwrap_or_default();
        // `needed` is the least on any device and with any setting.
        let (Some(needs), Some(least)) = (least(narrowest, demand.dtype), least(WeightStorage::Int4, DType::BF16))
        else {
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

    /// The first way of loading the model with which the request fits.
    fn widest(
        &self,
        demand: &Demand,
        allowed: &[WeightStorage],
        request: &PictureRequest,
    ) -> Option<(LoadOptions, Needs)> {
        let needs = |options: LoadOptions| (options, demand.footprint.needs(request, options, demand.place));
        let fits = |(_, needs): &(LoadOptions, Needs)| needs.total() <= self.bytes;
        ways(allowed, demand.place.dtype).map(needs).find(fits).or_else(|| {
            // As many blocks stay loaded as fit.
            let mut streamed = ways(allowed, demand.place.dtype).filter(|options| options.keep >= Keep::One);
            streamed.find_map(|options| self.resident_blocks(demand, request, options))
        })
    }

    /// The options with the largest number of resident blocks that fits.
    fn resident_blocks(
        &self,
        demand: &Demand,
        request: &PictureRequest,
        options: LoadOptions,
    ) -> Option<(LoadOptions, Needs)> {
        let blocks = (0..demand.footprint.blocks()).rev();
        let planned = blocks.map(|resident| {
            let options = LoadOptions { resident_blocks: Some(resident), ..options };
            (options, demand.footprint.needs(request, options, demand.place))
        });
        planned.into_iter().find(|(_, needs)| needs.total() <= self.bytes)
    }

    fn refusal(&self, demand: &Demand, allowed: &[WeightStorage]) -> Error {
        let narrowest = allowed.last().copied().unwrap_or_default();
        let PictureRequest { width, height, .. } = *demand.request;
        let least = |storage, dtype| least(demand, storage, Place { dtype, ..demand.place });
        let needs = least(narrowest, demand.place.dtype);
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
            "{width}×{height} takes at least {} of memory, and the engine may use {} (--vram-budget): {help}",
            ByteSize(needs.total()),
            ByteSize(self.bytes)
        );
        // On any device and with any setting: a card's compute type.
        Error::Memory { needed: least(WeightStorage::Int4, DType::BF16).total(), reason }
    }
}

/// The ways of loading a model, from the most precise to the one that takes the least memory. Text encoders have 16
/// bits at least, or as many as the denoiser if that has fewer.
fn ways(allowed: &[WeightStorage], dtype: DType) -> impl Iterator<Item = LoadOptions> {
    // On a device that computes in 16 bits, both are the same.
    let differs = move |storage: &WeightStorage| *storage != WeightStorage::Half || dtype == DType::F32;
    let storages = allowed.iter().copied().filter(move |storage| allowed.len() == 1 || differs(storage));
    storages.flat_map(move |weights| {
        Keep::ALL.into_iter().flat_map(move |keep| {
            let texts = WeightStorage::ALL.into_iter().filter(differs);
            let texts = texts.filter(move |text| *text <= weights.max(WeightStorage::Half));
            texts.map(move |text_weights| LoadOptions { weights, text_weights, keep, resident_blocks: None })
        })
    })
}

/// The least memory that a request takes with the denoiser in `storage`.
fn least(demand: &Demand, weights: WeightStorage, place: Place) -> Needs {
    let text_weights = weights.max(WeightStorage::Half);
    let all = LoadOptions { weights, text_weights, keep: Keep::Nothing, resident_blocks: None };
    let streamed = LoadOptions { resident_blocks: Some(0), ..all };
    let [all, streamed] = [all, streamed].map(|options| demand.footprint.needs(demand.request, options, place));
    if demand.footprint.blocks() > 0 && streamed.total() < all.total() { streamed } else { all }
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
            _ => text
                .parse()
                .map(Self::Always)
                .map_err(|_| format!("{text:?} is none of auto, full, half, int8 and int4")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use formats::{Family, Part};

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

    const CPU: Place = Place { dtype: DType::F32, adapters: 0 };

    fn total(options: LoadOptions) -> u64 {
        footprint().needs(&request(64), options, CPU).total()
    }

    fn in_full(keep: Keep) -> u64 {
        total(LoadOptions { keep, ..LoadOptions::default() })
    }

    fn plan(bytes: u64, weights: WeightChoice, side: usize) -> diffusion::Result<LoadOptions> {
        let (footprint, request) = (footprint(), request(side));
        let demand = Demand { footprint: &footprint, request: &request, place: CPU };
        Budget { bytes, weights }.plan(&demand).map(|(options, _)| options)
    }

    #[test]
    fn the_widest_that_fits_is_taken() {
        let all: Vec<_> = ways(&WeightStorage::ALL, DType::F32).map(|options| (total(options), options)).collect();
        for (bytes, _) in &all {
            let first = all.iter().find(|(total, _)| total <= bytes).unwrap();
            assert_eq!(plan(*bytes, WeightChoice::Auto, 64).unwrap(), first.1);
        }
        let least = all.iter().map(|(total, _)| *total).min().unwrap();
        assert!(least < in_full(Keep::Nothing), "packing saves memory");
        let streamed = plan(least - 1, WeightChoice::Auto, 64).unwrap();
        assert!(streamed.resident_blocks.is_some(), "{streamed:?}");
        assert_eq!(plan(u64::MAX, WeightChoice::Auto, 64).unwrap(), LoadOptions::default());
        let always = WeightChoice::Always(WeightStorage::Int4);
        assert_eq!(plan(u64::MAX, always, 64).unwrap().weights, WeightStorage::Int4);
    }

    #[test]
    fn as_many_blocks_stay_loaded_as_fit() {
        let least = ways(&WeightStorage::ALL, DType::F32).map(total).min().unwrap();
        let plans: Vec<_> =
            (0..least).step_by(1 << 18).filter_map(|bytes| plan(bytes, WeightChoice::Auto, 64).ok()).collect();
        let resident: Vec<_> = plans.iter().filter_map(|options| options.resident_blocks).collect();
        assert!(resident.len() > 1, "{plans:?}");
    }

    #[test]
    fn where_weights_are_exact_text_encoders_are_exact() {
        for options in ways(&WeightStorage::ALL, DType::F32) {
            assert!(options.text_weights <= options.weights.max(WeightStorage::Half), "{options:?}");
        }
        let on_a_card: Vec<_> = ways(&WeightStorage::ALL, DType::BF16).collect();
        assert!(on_a_card.iter().all(|options| options.weights != WeightStorage::Half), "the same as full");
    }

    /// The published models at their usual sizes on cards, of which the engine uses 90 % by default.
    #[test]
    fn published_models_fit_into_cards() {
        let card = Place { dtype: DType::BF16, adapters: 0 };
        use WeightStorage::{Full, Int4, Int8};
        let planned = |family: Family, side: usize, gigabytes: u64| {
            let config = |part: &Part| (*part, serde_json::from_str(family.published_config(*part).unwrap()).unwrap());
            let footprint = Footprint::of(family, &family.parts().iter().map(config).collect(), 512).unwrap();
            let request = request(side);
            let demand = Demand { footprint: &footprint, request: &request, place: card };
            let budget = Budget { bytes: (gigabytes << 30) / 10 * 9, weights: WeightChoice::Auto };
            let (options, _) = budget.plan(&demand).unwrap();
            (options.weights, options.keep, options.resident_blocks.is_some())
        };
        assert_eq!(
            [24, 16, 12, 8, 6].map(|gigabytes| planned(Family::Flux, 1024, gigabytes)),
            [
                (Int8, Keep::All, false),
                (Int8, Keep::Nothing, false),
                (Int4, Keep::Denoiser, false),
                (Int8, Keep::One, true),
                (Int4, Keep::One, true)
            ]
        );
        assert_eq!(
            [12, 8, 6].map(|gigabytes| planned(Family::Sdxl, 1024, gigabytes)),
            [(Full, Keep::All, false), (Full, Keep::Nothing, false), (Int8, Keep::Nothing, false)]
        );
        assert_eq!(planned(Family::Sd15, 512, 4), (Full, Keep::All, false));
    }

    #[test]
    fn a_refusal_says_what_would_fit() {
        let refusal = |bytes, weights, side| match plan(bytes, weights, side) {
            Err(Error::Memory { needed, reason }) => {
                let (footprint, request) = (footprint(), request(side));
                let demand = Demand { footprint: &footprint, request: &request, place: CPU };
                let card = Place { dtype: DType::BF16, ..CPU };
                assert_eq!(needed, least(&demand, WeightStorage::Int4, card).total(), "on any device");
                reason
            }
            other => panic!("{other:?}"),
        };
        let full = WeightChoice::Always(WeightStorage::Full);
        let sentence = refusal(in_full(Keep::All), full, 512);
        assert!(sentence.starts_with("512×512 takes at least"), "{sentence}");
        let side = sentence.split("a picture of ").nth(1).and_then(|rest| rest.split('×').next());
        let side: usize = side.and_then(|side| side.parse().ok()).unwrap_or_else(|| panic!("{sentence}"));
        let fits = |side| plan(in_full(Keep::All), full, side).is_ok();
        assert!(fits(side) && !fits(side + 512 / SCALES), "the largest that fits: {sentence}");
        let sentence = refusal(1 << 20, WeightChoice::Auto, 64);
        assert!(sentence.ends_with("may use 1.0 MiB (--vram-budget): nothing smaller would fit either"), "{sentence}");
    }

    fn plan_training(bytes: u64, batch_size: u32, resolution: u32, rank: u32) -> diffusion::Result<TrainingPlan> {
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
        Budget { bytes, weights: WeightChoice::Auto }.plan_training(&demand).map(|(plan, _)| plan)
    }

    #[test]
    fn a_training_recomputes_only_what_does_not_fit() {
        let plan = |power: u32| plan_training(1 << power, 8, 256, 16).ok();
        let plans: Vec<_> = (20..45).map(plan).collect();
        let first = |wanted| plans.iter().position(|plan| plan.map(|plan| plan.recompute) == wanted).unwrap();
        assert!(first(None) < first(Some(true)) && first(Some(true)) < first(Some(false)), "{plans:?}");
    }

    /// FLUX.1-dev at rank 16 and 256² on the CPU.
    #[test]
    fn the_base_of_a_training_is_packed_if_it_does_not_fit() {
        let config =
            |part: &Part| (*part, serde_json::from_str(Family::Flux.published_config(*part).unwrap()).unwrap());
        let configs = Family::Flux.parts().iter().map(config).collect();
        let footprint = Footprint::of(Family::Flux, &configs, 512).unwrap();
        let params = TrainingParams {
            trigger_word: None,
            steps: 1,
            rank: 16,
            alpha: 16.0,
            learning_rate: 1e-4,
            batch_size: 1,
            resolution: 256,
            seed: 1,
        };
        let demand = TrainingDemand { footprint: &footprint, params: &params, examples: 10, dtype: DType::F32 };
        let plan =
            |gigabytes: u64| Budget { bytes: gigabytes << 30, weights: WeightChoice::Auto }.plan_training(&demand);
        let (TrainingPlan { options, recompute }, needs) = plan(14).unwrap();
        assert!(recompute && options.weights == WeightStorage::Int4, "{options:?}, {needs:?}");
        assert_eq!(plan(96).unwrap().0.options.weights, WeightStorage::Full);
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
        for choice in ["auto", "full", "half", "int8", "int4"] {
            assert_eq!(choice.parse::<WeightChoice>().unwrap().to_string(), choice);
        }
        assert!("int3".parse::<WeightChoice>().is_err());
    }
}
