//! One call of Stable Diffusion's denoisers, with random weights. The other parts (text encoders, decoder) are as
//! large as FLUX.1's, which `denoising` measures.

use anyhow::Result;
use burn::prelude::*;
use burn::tensor::Distribution;
use diffusion::device::weight_dtype;
use diffusion::networks::unet::{AddedConditions, Config, UNet2DConditionModel};

use crate::clock;
use crate::figure::{Figure, Figures};
use crate::floor;
use crate::random_weights::draw;
use crate::scale::{Scale, UNet};

/// Prompt and negative prompt run in one batch.
const BATCH: usize = 2;
/// Tokens per chunk of a prompt.
const TEXT: usize = 77;
/// Original height and width, crop top and left, target height and width.
const SIZE_CONDITIONS: usize = 6;

/// Measures each of the scale's UNets, the larger one first.
pub(crate) fn measure(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    scale.unets.iter().try_for_each(|unet| call(unet, scale.calls, device, figures))
}

fn call(unet: &UNet, calls: usize, device: &Device, figures: &mut Figures) -> Result<()> {
    let UNet { family, config, side } = unet;
    let dtype = weight_dtype(device);
    let network = draw(UNet2DConditionModel::new(config, device), dtype);
    let normal = Distribution::Normal(0.0, 1.0);
    let sample = Tensor::<4>::random([BATCH, config.in_channels, side / 8, side / 8], normal, (device, dtype));
    let text = Tensor::<3>::random([BATCH, TEXT, config.text_width()], normal, (device, dtype));
    let added = pooled_width(config).map(|width| AddedConditions {
        text_embeds: Tensor::random([BATCH, width], normal, (device, dtype)),
        time_ids: vec![vec![*side as f32; SIZE_CONDITIONS]; BATCH],
    });
    let call = || drop(network.forward(sample.clone(), &[500.0], text.clone(), added.clone(), None));
    let (first, median) = clock::first_and_median(device, calls, call)?;
    let flop = BATCH as f64 * floor::unet(config, side / 8, TEXT);
    figures.put(Figure::ours(format!("{family} guided step {side} px"), median, "ms").of_flop(flop))?;
    figures.put(Figure::ours(format!("{family} first guided step {side} px"), first / 1e3, "s"))?;
    match clock::reserved(device) {
        Some(gib) => figures.put(Figure::ours(format!("{family} memory"), gib, "GiB")),
        None => Ok(()),
    }
}

/// Width of the pooled prompt: the projection's input without the sizes.
fn pooled_width(config: &Config) -> Option<usize> {
    config.added().map(|(width, channels)| width - SIZE_CONDITIONS * channels)
}
