//! Activations that Burn implements less efficiently or less precisely.

use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::{gelu, sigmoid};

use super::cpu_kernels;

/// The tanh approximation of GELU ([Hendrycks and Gimpel 2016](https://arxiv.org/abs/1606.08415)).
///
/// Computed as `x / (1 + e^(−2√(2/π)·(x + 0.044715·x³)))`, which is equal since `½(1 + tanh u) = σ(2u)`, and needs one
/// exponential and no power.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if let Some(y) = cpu_kernels::gelu(&x) {
        return y;
    }
    const LINEAR: f64 = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    const CUBIC: f64 = LINEAR * 0.044715;
    /// Below −`FLAT` the value is 0 in f32. Beyond it the exponential would overflow and make the gradient NaN.
    const FLAT: f64 = 80.0;
    let slope = x.clone() * x.clone() * -CUBIC - LINEAR;
    let exponent = (x.clone() * slope).clamp_max(FLAT);
    x / (exponent.exp() + 1.0)
}

/// The exact GELU, `x · Φ(x)`, in the dtype of `x`. Computed in f32, since on a GPU the polynomial for the error
/// function loses several percent in half precision.
///
/// With autodiff it is written with the error function: on GPUs, the gradient of Burn's own is that of the tanh form,
/// which differs by 5e-4.
pub fn gelu_exact<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let y = if x.is_autodiff() {
        let share = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
        x * share
    } else {
        gelu(x)
    };
    y.cast(dtype)
}

/// `x · σ(1.702 x)`, the approximation of GELU that CLIP was trained with.
///
/// Reference: <https://github.com/openai/CLIP/blob/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/clip/model.py#L166-L168>
pub fn gelu_quick<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cpu_kernels::gelu_quick(&x).unwrap_or_else(|| x.clone() * sigmoid(x * 1.702))
}

/// GEGLU: the first half of the last dimension times the exact GELU of the second
/// ([Shazeer 2020](https://arxiv.org/abs/2002.05202)).
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/activations.py#L93-L123>
pub fn gelu_gated<const D: usize>(both: Tensor<D>) -> Tensor<D> {
    if let Some(y) = cpu_kernels::gelu_gated(&both) {
        return y;
    }
    let inner = both.dims()[D - 1] / 2;
    both.clone().narrow(D - 1, 0, inner) * gelu_exact(both.narrow(D - 1, inner, inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_tanh_form_and_flat_far_out() {
        let device = Device::flex().autodiff();
        let points = [-100.0f32, -20.0, -3.0, -0.5, 0.0, 0.7, 4.0, 100.0];
        let x = Tensor::<1>::from_data(TensorData::from(points), &device).require_grad();
        let y = gelu_tanh(x.clone());
        let slopes: Vec<f32> = x.grad(&y.clone().sum().backward()).unwrap().into_data().try_to_vec().unwrap();
        let values: Vec<f32> = y.inner().into_data().try_to_vec().unwrap();
        for ((x, y), slope) in points.iter().zip(values).zip(slopes) {
            let value =
                |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
            let x = f64::from(*x);
            assert!((value(x) - f64::from(y)).abs() < 1e-6 * x.abs().max(1.0), "{x}: {y}");
            let wanted = (value(x + 1e-5) - value(x - 1e-5)) / 2e-5;
            assert!((wanted - f64::from(slope)).abs() < 1e-5, "{x}: slope {slope}");
        }
    }

    /// The error function by its power series, exact in f64 for these arguments.
    fn erf(z: f64) -> f64 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn the_gradient_of_the_exact_form_is_exact_too() {
        let device = Device::flex().autodiff();
        let points = [-5.0f32, -3.0, -1.2, -0.5, 0.0, 0.7, 2.1, 4.0];
        let x = Tensor::<1>::from_data(TensorData::from(points), &device).require_grad();
        let y = gelu_exact(x.clone());
        let plain: Vec<f32> = gelu_exact(x.clone().inner()).into_data().try_to_vec().unwrap();
        let slopes: Vec<f32> = x.grad(&y.clone().sum().backward()).unwrap().into_data().try_to_vec().unwrap();
        let values: Vec<f32> = y.inner().into_data().try_to_vec().unwrap();
        for ((x, (y, plain)), slope) in points.iter().zip(values.iter().zip(&plain)).zip(slopes) {
            let x = f64::from(*x);
            let share = 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            for y in [y, plain] {
                assert!((x * share - f64::from(*y)).abs() < 1e-6, "{x}: {y}");
            }
            assert!((share + x * density - f64::from(slope)).abs() < 1e-6, "{x}: slope {slope}");
        }
    }
}
