//! Sinusoidal embeddings.

use burn::prelude::*;

/// The longest period.
const PERIOD: f64 = 10_000.0;

/// Cosines and sines of each value at geometrically decreasing frequencies, `[values, channels]` ([Ho et al.
/// 2020](https://arxiv.org/abs/2006.11239)). With `shift` 1 the last frequency is 1/10 000; with 0 the series ends
/// one frequency earlier. An odd last channel is 0.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/embeddings.py#L27-L78>
pub fn sinusoidal(values: &[f32], channels: usize, cosines_first: bool, shift: usize, device: &Device) -> Tensor<2> {
    let half = channels / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|at| ((-(PERIOD.ln()) as f32 * at as f32) / (half as f32 - shift as f32)).exp()).collect();
    let waves: [fn(f32) -> f32; 2] = if cosines_first { [f32::cos, f32::sin] } else { [f32::sin, f32::cos] };
    let mut table = Vec::with_capacity(values.len() * channels);
    for (row, &value) in values.iter().enumerate() {
        for wave in waves {
            table.extend(frequencies.iter().map(|frequency| wave(value * frequency)));
        }
        table.resize((row + 1) * channels, 0.0);
    }
    Tensor::from_data(TensorData::new(table, [values.len(), channels]), device)
}
