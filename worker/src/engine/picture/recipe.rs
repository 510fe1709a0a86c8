//! The recipe of a picture: the request that makes this picture alone, and the models and settings it was made with.

use std::fmt::Write as _;

use diffusion::{Pipeline, WeightStorage};
use formats::Guidance;
use requests::GenerationParams;
use serde::Serialize;

use super::Metadata;
use crate::protocol::Generate;

/// Values that the request leaves to the model and the engine.
pub(in crate::engine) struct Made {
    /// A1111's name for the model's own scheduler.
    pub scheduler: String,
    /// How the guidance scales are interpreted.
    pub guidance: Guidance,
    /// The format of the denoiser's weights, which changes pictures a little.
    pub weights: WeightStorage,
}

impl Made {
    pub(crate) fn by(pipeline: &Pipeline, weights: WeightStorage) -> Self {
        Self { scheduler: pipeline.solver(), guidance: pipeline.family().guidance(), weights }
    }
}

/// The request for one picture, with its seed: the field `pyrograph` of a file.
#[derive(Serialize)]
struct Recipe<'a> {
    #[serde(flatten)]
    params: GenerationParams<Digest<'a>>,
    seed: u64,
    /// The form in which older versions wrote `image`, `mask` and `strength`.
    source: Option<Source<'a>>,
    model: Model<'a>,
    loras: Vec<Lora<'a>>,
    weights: String,
    engine: &'static str,
}

#[derive(Serialize)]
struct Digest<'a> {
    sha256: &'a str,
}

#[derive(Serialize)]
struct Source<'a> {
    image_sha256: &'a str,
    mask_sha256: Option<&'a str>,
    strength: f64,
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    sha256: &'a str,
}

#[derive(Serialize)]
struct Lora<'a> {
    name: &'a str,
    sha256: &'a str,
    scale: f64,
}

/// The texts for the picture of `order` with this seed.
pub(in crate::engine) fn metadata(order: &Generate, made: &Made, seed: u64) -> Metadata {
    Metadata { parameters: parameters(order, made, seed), recipe: recipe(order, made, seed) }
}

fn recipe(order: &Generate, made: &Made, seed: u64) -> String {
    let params = &order.params;
    let [image, mask] = [&params.image, &params.mask].map(|picture| picture.as_ref().map(|one| one.sha256.as_str()));
    let digest = |sha256| Digest { sha256 };
    // A picture does not depend on the other pictures of its batch, nor on whether previews are made.
    let alone = GenerationParams { num_images: 1, preview_every: None, ..params.clone() };
    let recipe = Recipe {
        params: alone.with_pictures(image.map(digest), mask.map(digest)),
        seed,
        source: image.zip(params.strength).map(|(image_sha256, strength)| Source {
            image_sha256,
            mask_sha256: mask,
            strength,
        }),
        model: Model { name: &order.base.name, sha256: &order.base.sha256 },
        loras: order
            .loras
            .iter()
            .map(|lora| Lora { name: &lora.name, sha256: &lora.sha256, scale: lora.scale })
            .collect(),
        weights: made.weights.to_string(),
        engine: concat!("pyrograph ", env!("CARGO_PKG_VERSION")),
    };
    serde_json::to_string(&recipe).unwrap_or_default()
}

fn parameters(order: &Generate, made: &Made, seed: u64) -> String {
    let params = &order.params;
    let mut text = params.prompt.clone();
    for lora in &order.loras {
        let _ = write!(text, " <lora:{}:{}>", lora.name, lora.scale);
    }
    if let Some(negative) = &params.negative_prompt {
        let _ = write!(text, "\nNegative prompt: {negative}");
    }
    let sampler = named_sampler(order).unwrap_or(&made.scheduler);
    let _ = write!(text, "\nSteps: {}, Sampler: {sampler}", params.num_inference_steps);
    let _ = match made.guidance {
        Guidance::Distilled => {
            write!(text, ", CFG scale: {}, Distilled CFG Scale: {}", params.true_cfg_scale, params.guidance_scale)
        }
        Guidance::ClassifierFree => write!(text, ", CFG scale: {}", params.guidance_scale),
    };
    let _ = write!(
        text,
        ", Seed: {seed}, Size: {}x{}, Model hash: {}, Model: {}",
        params.width,
        params.height,
        short(&order.base.sha256),
        order.base.name,
    );
    if let Some(strength) = params.strength {
        let _ = write!(text, ", Denoising strength: {strength}");
    }
    if let Some(layers) = params.clip_skip {
        // A1111 counts from 1, where 1 skips no layer.
        let _ = write!(text, ", Clip skip: {}", layers + 1);
    }
    if !order.loras.is_empty() {
        let hashes: Vec<_> = order.loras.iter().map(|l| format!("{}: {}", l.name, short(&l.sha256))).collect();
        let _ = write!(text, ", Lora hashes: \"{}\"", hashes.join(", "));
    }
    if made.weights != WeightStorage::Full {
        let _ = write!(text, ", Weights: {}", made.weights);
    }
    let _ = write!(text, ", Version: pyrograph {}", env!("CARGO_PKG_VERSION"));
    text
}

/// A1111 has no name for flow-matching schedulers; it runs FLUX.1 with what it calls Euler.
fn named_sampler(order: &Generate) -> Option<&'static str> {
    order.params.scheduler.filter(|scheduler| !scheduler.matches_flow()).map(formats::Scheduler::title)
}

/// The first ten digits, as AUTOMATIC1111 shows hashes.
fn short(sha256: &str) -> &str {
    sha256.get(..10).unwrap_or(sha256)
}
