//! GELU: the tanh approximation, CLIP's quick approximation, and the exact form as a gate.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::lanes::{exponential, fused, sigmoid, vectorised};
use super::{plain, values};

/// The tanh approximation of GELU. `None` unless the tensor is f32 on the CPU.
pub(crate) fn gelu<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    if let Some(x) = plain(x) {
        return Some(Tensor::from_primitive::<Flex>(each(&x, tanh_form)));
    }
    if x.dtype() != DType::F32 {
        return None;
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared = Gelu.prepare::<NoCheckpointing>([x.node()]).compute_bound().stateful();
    let x = x.into_parts().0;
    let y = each(&x, tanh_form);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(x, y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

#[derive(Debug)]
struct Gelu;

/// √(8/π)
const GELU_LINEAR: f32 = 1.595_769;
const GELU_CUBIC: f32 = GELU_LINEAR * 0.044_715;

/// GELU is `x·σ(u)`, and this is u.
#[inline(always)]
fn gelu_exponent(x: f32) -> f32 {
    x * fused(x * x, GELU_CUBIC, GELU_LINEAR)
}

/// Values per thread at a time.
const SPAN: usize = 1 << 15;

fn each(x: &FlexTensor, write: impl for<'a> Fn(&'a [f32], &'a mut [f32]) + Sync) -> FlexTensor {
    let (x, dims) = values(x);
    let x = x.storage::<f32>();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(SPAN).zip(x.par_chunks(SPAN)).for_each(|(y, x)| write(x, y));
    FlexTensor::from_data(TensorData::new(y, dims))
}

vectorised! {
    fn tanh_form<'a>(x: &'a [f32], y: &'a mut [f32]) -> () {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(gelu_exponent(*x));
        }
    }
}

vectorised! {
    fn quick_form<'a>(x: &'a [f32], y: &'a mut [f32]) -> () {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(1.702 * x);
        }
    }
}

vectorised! {
    fn gate<'a>(x: &'a [f32], gates: &'a [f32], y: &'a mut [f32]) -> () {
        for ((y, x), gate) in y.iter_mut().zip(x).zip(gates) {
            *y = x * (gate * normal_share(*gate));
        }
    }
}

/// `x · σ(1.702 x)`. `None` unless the tensor is f32 on the CPU without autodiff.
pub(crate) fn gelu_quick<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    Some(Tensor::from_primitive::<Flex>(each(&plain(x)?, quick_form)))
}

/// The first half of the last dimension times the exact GELU of the second. `None` unless the tensor is f32 on the CPU
/// without autodiff.
pub(crate) fn gelu_gated<const D: usize>(both: &Tensor<D>) -> Option<Tensor<D>> {
    let (both, mut dims) = values(&plain(both)?);
    let inner = dims[D - 1] / 2;
    dims[D - 1] = inner;
    let both = both.storage::<f32>();
    let mut y = vec![0.0; both.len() / 2];
    let rows = (SPAN / inner.max(1)).max(1);
    y.par_chunks_mut(rows * inner).zip(both.par_chunks(rows * 2 * inner)).for_each(|(y, both)| {
        for (y, both) in y.chunks_exact_mut(inner).zip(both.chunks_exact(2 * inner)) {
            let (x, gates) = both.split_at(inner);
            gate(x, gates, y);
        }
    });
    Some(Tensor::from_primitive::<Flex>(FlexTensor::from_data(TensorData::new(y, dims))))
}

/// Φ(x), the standard normal distribution function, by formula 7.1.26 of Abramowitz and Stegun's "Handbook of
/// Mathematical Functions". The absolute error is below 1e-7.
#[inline(always)]
fn normal_share(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / fused(z, 0.327_591_1, 1.0);
    let series = [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let polynomial = series.iter().fold(1.061_405_4, |sum, term| fused(sum, t, *term));
    let above = 0.5 * polynomial * t * exponential(-z * z);
    if x < 0.0 { above } else { 1.0 - above }
}

impl Backward<Flex, 1> for Gelu {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let (x, dims) = values(&ops.state);
        let (gradient, _) = values(&gradients.consume::<Flex>(&ops.node));
        let Some(node) = node else { return };
        let (x, gradient) = (x.storage::<f32>(), gradient.storage::<f32>());
        let mut back = vec![0.0; x.len()];
        let work = back.par_chunks_mut(1 << 15).zip(x.par_chunks(1 << 15)).zip(gradient.par_chunks(1 << 15));
        work.for_each(|((back, x), gradient)| {
            for ((back, x), gradient) in back.iter_mut().zip(x).zip(gradient) {
                let s = sigmoid(gelu_exponent(*x));
                let slope = fused(x * x, 3.0 * GELU_CUBIC, GELU_LINEAR);
                *back = gradient * s * fused(x * (1.0 - s), slope, 1.0);
            }
        });
        gradients.register::<Flex>(node.id, FlexTensor::from_data(TensorData::new(back, dims)));
    }
}
