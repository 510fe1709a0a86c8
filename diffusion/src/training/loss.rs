//! The objective of a rectified flow: the straight path from data to noise
//! ([Liu et al. 2022](https://arxiv.org/abs/2209.03003); noise levels from
//! [Esser et al. 2024](https://arxiv.org/abs/2403.03206)).

use burn::prelude::*;

use super::Random;

/// One batch of flow matching.
#[derive(Debug, Clone)]
pub struct FlowBatch {
    /// `(1 − t)·data + t·noise`, the shape of the data
    pub noisy: Tensor<3>,
    /// `noise − data`, the target of the denoiser
    pub velocity: Tensor<3>,
    /// The noise level t in 0..1 per example, `[batch]`
    pub level: Tensor<1>,
}

impl FlowBatch {
    /// Mixes normalised, packed latents with noise, both `[batch, tokens, channels]`, at one level per example.
    pub fn mix(data: Tensor<3>, noise: Tensor<3>, levels: &[f64]) -> Self {
        let batch = levels.len();
        let values: Vec<f32> = levels.iter().map(|level| *level as f32).collect();
        let level = Tensor::<1>::from_data(TensorData::new(values, [batch]), &data.device());
        let share = level.clone().reshape([batch, 1, 1]);
        Self { noisy: data.clone() * (1.0 - share.clone()) + noise.clone() * share, velocity: noise - data, level }
    }
}

/// [`FlowBatch::mix`] with newly drawn noise.
pub fn flow_batch(data: Tensor<3>, levels: &[f64], random: &mut Random) -> FlowBatch {
    let noise = random.normal(data.dims(), &data.device());
    FlowBatch::mix(data, noise, levels)
}

/// Draws a noise level from the logit-normal distribution, `sigmoid(mean + normal)`, shifted towards noise by `shift`
/// (1 leaves it unchanged; FLUX shifts more for more tokens).
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/training_utils.py#L365-L389>
pub fn draw_level(random: &mut Random, shift: f64) -> f64 {
    let [normal, _] = random.normal_pair();
    let level = 1.0 / (1.0 + (-normal).exp());
    shift * level / (1.0 + (shift - 1.0) * level)
}

/// Mean squared error of the predicted velocity, in f32.
pub fn flow_loss(predicted: Tensor<3>, velocity: Tensor<3>) -> Tensor<1> {
    (predicted.cast(burn::tensor::DType::F32) - velocity).square().mean()
}
