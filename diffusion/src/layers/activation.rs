//! Activations that Burn has only in a slower form.

use burn::prelude::*;
use burn::tensor::activation::sigmoid;

/// The tanh form of GELU ([Hendrycks and Gimpel 2016](https://arxiv.org/abs/1606.08415)), element by element.
///
/// Written as `x·σ(2√(2/π)·(x + 0.044715·x³))`, which is the same function by `½(1 + tanh u) = σ(2u)`, and needs one
/// transcendental pass and no power.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const LINEAR: f64 = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    const CUBIC: f64 = LINEAR * 0.044715;
    let slope = x.clone().square() * CUBIC + LINEAR;
    x.clone() * sigmoid(x * slope)
}
