//! The objective of a rectified flow: the straight path from data to noise
//! ([Liu et al. 2022](https://arxiv.org/abs/2209.03003); noise levels from
//! [Esser et al. 2024](https://arxiv.org/abs/2403.03206)).

use burn::prelude::*;
use burn::tensor::DType;

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
    /// Mixes normalised, packed latents with noise, both `[batch, tokens, channels]`, at one level per example. The
    /// result is always f32: the levels are, and half precision would round small ones away.
    pub fn mix(data: Tensor<3>, noise: Tensor<3>, levels: &[f64]) -> Self {
        let [data, noise] = [data, noise].map(|tensor| tensor.cast(DType::F32));
        let batch = levels.len();
        let values: Vec<f32> = levels.iter().map(|level| *level as f32).collect();
        let level = Tensor::<1>::from_data(TensorData::new(values, [batch]), (&data.device(), DType::F32));
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
    (predicted.cast(DType::F32) - velocity).square().mean()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_in_half_precision_are_mixed_in_f32() {
        let device = Device::flex();
        let mixed = |dtype| flow_batch(Tensor::ones([2, 4, 8], (&device, dtype)), &[0.5, 0.25], &mut Random::new(1));
        let wanted = mixed(DType::F32);
        for dtype in [DType::F16, DType::BF16] {
            let found = mixed(dtype);
            assert_eq!((found.noisy.dtype(), found.velocity.dtype()), (DType::F32, DType::F32));
            // Ones are exact in every dtype.
            assert_eq!(found.noisy.into_data(), wanted.noisy.clone().into_data());
            assert_eq!(found.velocity.into_data(), wanted.velocity.clone().into_data());
        }
    }
}
