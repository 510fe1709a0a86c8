//! Whether a picture fits into the memory that an engine may use, and how its model is loaded so that it does.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::{ComputeType, Footprint, Keep, LoadOptions, Needs, Picture, WeightStorage};

/// In every family, the sides of pictures are multiples of this many pixels, or of a smaller number.
pub(crate) const GRID: usize = 16;
/// To find a smaller picture that would fit, sizes are tried in steps of 1 / `SCALES`.
pub(crate) const SCALES: usize = 16;

/// How the weights of denoisers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WeightChoice {
    /// The highest precision that fits, for each request.
    #[default]
    Auto,
    /// This format; a request for which the weights do not fit is refused.
    Always(WeightStorage),
}

/// What may be in host memory instead of the device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// What does not fit into the device's memory.
    #[default]
    Auto,
    /// Nothing: all weights are in the device's memory when they are used.
    None,
    /// The text encoders, which then run on the CPU.
    Text,
    /// The text encoders, and the blocks of the denoiser that do not fit.
    Blocks,
}

/// What an engine may use, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Bytes of the device's memory.
    pub bytes: u64,
    /// Bytes of host memory beside a card; `None` on the CPU, whose memory is the device's.
    #[serde(default)]
    pub host: Option<u64>,
    pub compute: ComputeType,
    #[serde(default)]
    pub weights: WeightChoice,
    #[serde(default)]
    pub offload: Offload,
}

/// A picture that is requested of a model.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    pub footprint: &'a Footprint,
    pub picture: Picture,
    /// Bytes of the adapters attached to the model.
    pub adapters: u64,
}

/// A request does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TooLarge {
    /// Estimate of the least memory that it takes on any device and with any setting, in bytes.
    pub needed: u64,
    /// The estimate for this engine, and what would fit instead: part of a sentence.
    pub reason: String,
}

impl Budget {
    /// Of an engine on the CPU that chooses everything itself.
    pub const fn on_cpu(bytes: u64) -> Self {
        let (weights, offload) = (WeightChoice::Auto, Offload::Auto);
        Self { bytes, host: None, compute: ComputeType::F32, weights, offload }
    }

    /// The highest precision of weights at which the picture fits; as much stays loaded as there is room for. The
    /// answer does not depend on what is in memory. A refusal states the estimate and what would fit instead.
    pub fn plan(&self, demand: &Demand) -> Result<(LoadOptions, Needs), TooLarge> {
        let allowed = self.allowed();
        self.widest(demand, allowed, &demand.picture).ok_or_else(|| self.refusal(demand, allowed))
    }

    /// The formats of weights that may be used, from the highest to the lowest precision.
    pub(crate) fn allowed(&self) -> &[WeightStorage] {
        match &self.weights {
            WeightChoice::Auto => &WeightStorage::ALL,
            WeightChoice::Always(storage) => std::slice::from_ref(storage),
        }
    }

    /// The first way of loading the model with which the picture fits.
    fn widest(&self, demand: &Demand, allowed: &[WeightStorage], picture: &Picture) -> Option<(LoadOptions, Needs)> {
        let planned = self.ways(allowed).map(|options| (options, self.needs(demand, picture, options)));
        planned.into_iter().find(|(_, needs)| self.holds(needs)).or_else(|| {
            // As many blocks stay loaded as fit.
            let mut streamed = self.ways(allowed).filter(|options| self.streams() && options.keep >= Keep::One);
            streamed.find_map(|options| self.resident_blocks(demand, picture, options))
        })
    }

    /// The options with the largest number of resident blocks that fits.
    fn resident_blocks(
        &self,
        demand: &Demand,
        picture: &Picture,
        options: LoadOptions,
    ) -> Option<(LoadOptions, Needs)> {
        let blocks = (0..demand.footprint.blocks()).rev();
        let planned = blocks.map(|resident| {
            let options = LoadOptions { resident_blocks: Some(resident), ..options };
            (options, self.needs(demand, picture, options))
        });
        planned.into_iter().find(|(_, needs)| self.holds(needs))
    }

    fn needs(&self, demand: &Demand, picture: &Picture, options: LoadOptions) -> Needs {
        demand.footprint.needs(picture, options, self.compute, demand.adapters)
    }

    fn holds(&self, needs: &Needs) -> bool {
        needs.total() <= self.bytes && needs.host <= self.host.unwrap_or(0)
    }

    fn streams(&self) -> bool {
        matches!(self.offload, Offload::Auto | Offload::Blocks)
    }

    /// The ways of loading a model, from the most precise to the one that takes the least memory, and from the fastest
    /// to the slowest.
    fn ways(&self, allowed: &[WeightStorage]) -> impl Iterator<Item = LoadOptions> {
        let on_host: &[bool] = match (self.host, self.offload) {
            (None, _) | (_, Offload::None) => &[false],
            (Some(_), Offload::Auto) => &[true, false],
            (Some(_), Offload::Text | Offload::Blocks) => &[true],
        };
        ways(allowed, self.compute).flat_map(move |options| {
            // If everything fits on the device, the text encoders run on the host only on request. `Keep::One` makes
            // room for them on the device; on the host they need none.
            let useful = move |host: &bool| match options.keep {
                Keep::All => on_host.len() == 1 || !host,
                Keep::Denoiser | Keep::Nothing => true,
                Keep::One => !host,
            };
            on_host.iter().copied().filter(useful).map(move |text_on_host| LoadOptions { text_on_host, ..options })
        })
    }

    fn refusal(&self, demand: &Demand, allowed: &[WeightStorage]) -> TooLarge {
        let narrowest = allowed.last().copied().unwrap_or_default();
        let Picture { width, height, num_images, .. } = demand.picture;
        let needs = demand.least(narrowest, self.compute, self.streams());
        let scaled = |parts: usize| Picture {
            width: width * parts / SCALES / GRID * GRID,
            height: height * parts / SCALES / GRID * GRID,
            ..demand.picture
        };
        let smaller = (1..SCALES).rev().map(scaled).filter(|picture| picture.width.min(picture.height) > 0);
        let fitting = smaller.into_iter().find(|picture| self.widest(demand, allowed, picture).is_some());
        let mut help = Vec::new();
        if let Some(fitting) = fitting {
            help.push(format!("a picture of {}×{}", fitting.width, fitting.height));
        }
        let narrower = WeightStorage::ALL.into_iter().filter(|storage| *storage > narrowest);
        let narrower = narrower.into_iter().find(|storage| self.widest(demand, &[*storage], &demand.picture).is_some());
        help.extend(narrower.map(|storage| format!("weights in {storage} (--weights)")));
        let offloading = Self { offload: Offload::Auto, ..*self };
        if !self.streams() && offloading.widest(demand, allowed, &demand.picture).is_some() {
            help.push("weights in host memory (--offload auto)".into());
        }
        let one = Picture { num_images: 1, ..demand.picture };
        if num_images > 1 && self.widest(demand, allowed, &one).is_some() {
            help.push("one picture at a time".into());
        }
        let reason = format!(
            "{width}×{height} takes at least {} of memory, and the engine may use {} (--vram-budget): {}",
            ByteSize(needs.total()),
            ByteSize(self.bytes),
            what_would_fit(&help)
        );
        TooLarge { needed: demand.needed(), reason }
    }
}

impl Demand<'_> {
    /// Estimate of the least memory that the picture takes on any device and with any setting, in bytes.
    fn needed(&self) -> u64 {
        self.least(WeightStorage::Int4, ComputeType::Bf16, true).total()
    }

    /// The least memory that the picture takes with the denoiser in `weights`.
    fn least(&self, weights: WeightStorage, compute: ComputeType, streamed: bool) -> Needs {
        let text_weights = weights.max(WeightStorage::Half);
        let all = LoadOptions { weights, text_weights, keep: Keep::Nothing, ..LoadOptions::default() };
        let blocks = LoadOptions { resident_blocks: Some(0), ..all };
        let needs = |options| self.footprint.needs(&self.picture, options, compute, self.adapters);
        let least = needs(all);
        if !streamed || self.footprint.blocks() == 0 {
            return least;
        }
        let blocks = needs(blocks);
        if blocks.total() < least.total() { blocks } else { least }
    }
}

/// Part of a sentence.
pub(crate) fn what_would_fit(help: &[String]) -> String {
    if help.is_empty() {
        "nothing smaller would fit either".to_owned()
    } else {
        format!("what would fit is {}", help.join(", or "))
    }
}

/// The ways of loading a model on one device, from the most precise to the one that takes the least memory. Text
/// encoders have 16 bits at least, or as many as the denoiser if that has fewer.
pub(crate) fn ways(allowed: &[WeightStorage], compute: ComputeType) -> impl Iterator<Item = LoadOptions> {
    // On a device that computes in 16 bits, both are the same.
    let differs = move |storage: &WeightStorage| *storage != WeightStorage::Half || compute == ComputeType::F32;
    let storages = allowed.iter().copied().filter(move |storage| allowed.len() == 1 || differs(storage));
    storages.flat_map(move |weights| {
        Keep::ALL.into_iter().flat_map(move |keep| {
            let texts = WeightStorage::ALL.into_iter().filter(differs);
            let texts = texts.filter(move |text| *text <= weights.max(WeightStorage::Half));
            texts.map(move |text_weights| LoadOptions { weights, text_weights, keep, ..LoadOptions::default() })
        })
    })
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

impl TryFrom<String> for WeightChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<WeightChoice> for String {
    fn from(choice: WeightChoice) -> Self {
        choice.to_string()
    }
}

impl Offload {
    const ALL: [Self; 4] = [Self::Auto, Self::None, Self::Text, Self::Blocks];
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Text => "text",
            Self::Blocks => "blocks",
        })
    }
}

impl FromStr for Offload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|offload| offload.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is none of auto, none, text and blocks"))
    }
}

#[cfg(test)]
mod tests {
    use formats::Family;

    use super::*;
    use crate::examples::{ember, published};

    /// One picture.
    fn picture(side: usize) -> Picture {
        Picture { width: side, height: side, num_images: 1, guidance_scale: 1.0 }
    }

    fn total(options: LoadOptions) -> u64 {
        ember().needs(&picture(64), options, ComputeType::F32, 0).total()
    }

    fn in_full(keep: Keep) -> u64 {
        total(LoadOptions { keep, ..LoadOptions::default() })
    }

    fn plan(bytes: u64, weights: WeightChoice, side: usize) -> Result<LoadOptions, TooLarge> {
        let demand = Demand { footprint: &ember(), picture: picture(side), adapters: 0 };
        Budget { weights, ..Budget::on_cpu(bytes) }.plan(&demand).map(|(options, _)| options)
    }

    fn demand(footprint: &Footprint, side: usize) -> Demand<'_> {
        Demand { footprint, picture: picture(side), adapters: 0 }
    }

    /// Of a card's memory, the engine uses 90 % by default.
    fn card(gigabytes: u64) -> Budget {
        let bytes = (gigabytes << 30) / 10 * 9;
        Budget { bytes, compute: ComputeType::Bf16, host: Some(0), ..Budget::on_cpu(0) }
    }

    #[test]
    fn the_widest_that_fits_is_taken() {
        let all: Vec<_> =
            ways(&WeightStorage::ALL, ComputeType::F32).map(|options| (total(options), options)).collect();
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
        let least = ways(&WeightStorage::ALL, ComputeType::F32).map(total).min().unwrap();
        let plans: Vec<_> =
            (0..least).step_by(1 << 18).filter_map(|bytes| plan(bytes, WeightChoice::Auto, 64).ok()).collect();
        let resident: Vec<_> = plans.iter().filter_map(|options| options.resident_blocks).collect();
        assert!(resident.len() > 1, "{plans:?}");
    }

    #[test]
    fn where_weights_are_exact_text_encoders_are_exact() {
        for options in ways(&WeightStorage::ALL, ComputeType::F32) {
            assert!(options.text_weights <= options.weights.max(WeightStorage::Half), "{options:?}");
        }
        let on_a_card: Vec<_> = ways(&WeightStorage::ALL, ComputeType::Bf16).collect();
        assert!(on_a_card.iter().all(|options| options.weights != WeightStorage::Half), "the same as full");
    }

    /// The published models at their usual sizes on cards, of which the engine uses 90 % by default.
    #[test]
    fn published_models_fit_into_cards() {
        use WeightStorage::{Full, Int4, Int8};
        let planned = |family: Family, side: usize, gigabytes: u64| {
            let (options, _) = card(gigabytes).plan(&demand(&published(family), side)).unwrap();
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
            Err(TooLarge { needed, reason }) => {
                assert_eq!(needed, demand(&ember(), side).needed(), "on any device");
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

    /// Text encoders beside a card.
    #[test]
    fn what_does_not_fit_beside_the_denoiser_is_in_host_memory() {
        let flux = published(Family::Flux);
        let plan = |gigabytes: u64, host: u64, offload: Offload| {
            let budget = Budget { host: Some(host << 30), offload, ..card(gigabytes) };
            budget.plan(&demand(&flux, 1024)).map(|(options, needs)| {
                assert!(needs.host <= host << 30 && needs.total() <= budget.bytes, "{needs:?}");
                assert_eq!(needs.host > 0, options.text_on_host);
                (options.weights, options.text_on_host, options.resident_blocks.is_some())
            })
        };
        use WeightStorage::{Int4, Int8};
        assert_eq!(plan(24, 32, Offload::Auto), Ok((Int8, false, false)), "there is room");
        assert_eq!(plan(12, 32, Offload::Auto), Ok((Int4, true, false)));
        assert_eq!(plan(12, 0, Offload::Auto), Ok((Int4, false, false)), "encoders are read for each prompt");
        assert_eq!(plan(24, 32, Offload::Text).map(|plan| plan.1), Ok(true), "because it is asked for");
        assert_eq!(plan(8, 32, Offload::Blocks).map(|plan| plan.2), Ok(true));
        for offload in [Offload::None, Offload::Text] {
            let refused = plan(8, 32, offload).unwrap_err();
            assert!(refused.reason.contains("weights in host memory (--offload auto)"), "{refused}");
        }
        assert!(plan(24, 0, Offload::Text).is_err(), "no host memory");
    }

    #[test]
    fn choices_read_as_they_are_written() {
        for choice in ["auto", "full", "half", "int8", "int4"] {
            assert_eq!(choice.parse::<WeightChoice>().unwrap().to_string(), choice);
        }
        assert!("int3".parse::<WeightChoice>().is_err());
        for offload in Offload::ALL {
            assert_eq!(offload.to_string().parse(), Ok(offload));
        }
        let budget = Budget { weights: WeightChoice::Always(WeightStorage::Int8), ..card(8) };
        let written = serde_json::to_value(budget).unwrap();
        assert_eq!(written["weights"], "int8");
        assert_eq!(serde_json::from_value::<Budget>(written).unwrap(), budget);
    }
}
