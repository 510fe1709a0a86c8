//! The texts of a picture: its recipe, and the same in A1111's notation.

use diffusion::{Pipeline, WeightStorage};
use formats::Guidance;
use requests::Recipe;
use requests::recipe::{Digest, LoraDigest, ModelDigest};

use super::Metadata;
use crate::protocol::{Generate, LocalPicture};

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

/// The texts for the picture of `order` with this seed.
pub(in crate::engine) fn metadata(order: &Generate, made: &Made, seed: u64) -> Metadata {
    let digest = |picture: &Option<LocalPicture>| picture.as_ref().map(|one| Digest { sha256: one.sha256.clone() });
    let params = order.params.clone();
    let [image, mask] = [digest(&params.image), digest(&params.mask)];
    let lora = |lora: &crate::protocol::Adapter| LoraDigest {
        name: lora.name.clone(),
        sha256: lora.sha256.clone(),
        scale: lora.scale,
        text_encoder_scale: lora.text_encoder_scale,
    };
    let recipe = Recipe::new(
        params.with_pictures(image, mask),
        seed,
        ModelDigest { name: order.base.name.clone(), sha256: order.base.sha256.clone() },
        order.loras.iter().map(lora).collect(),
        made.weights.to_string(),
    );
    let scheduler = named_sampler(order).unwrap_or(&made.scheduler);
    Metadata { parameters: recipe.parameters(scheduler, made.guidance), recipe: recipe.to_json() }
}

/// A1111 has no name for flow-matching schedulers; it runs FLUX.1 with what it calls Euler.
fn named_sampler(order: &Generate) -> Option<&'static str> {
    order.params.scheduler.filter(|scheduler| !scheduler.matches_flow()).map(formats::Scheduler::title)
}
