//! GELU in its tanh form.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::lanes::{fused, sigmoid};
use super::values;

/// GELU in its tanh form. `None` where the tensor is not of f32 on the CPU.
pub fn gelu<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    if x.dtype() != DType::F32 {
        return None;
    }
    if let Ok(x) = x.clone().try_into_primitive::<Flex>() {
        return Some(Tensor::from_primitive::<Flex>(each(&x, |x| x * sigmoid(gelu_exponent(x)))));
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared = Gelu.prepare::<NoCheckpointing>([x.node()]).compute_bound().stateful();
    let x = x.into_parts().0;
    let y = each(&x, |x| x * sigmoid(gelu_exponent(x)));
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(x, y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

#[derive(Debug)]
struct Gelu;

/// √(8/π)
const GELU_LINEAR: f32 = 1.595_769_1;
const GELU_CUBIC: f32 = GELU_LINEAR * 0.044_715;

/// GELU is `x·σ(u)`, and this is u.
#[inline(always)]
fn gelu_exponent(x: f32) -> f32 {
    x * fused(x * x, GELU_CUBIC, GELU_LINEAR)
}

fn each(x: &FlexTensor, function: impl Fn(f32) -> f32 + Sync) -> FlexTensor {
    let (x, dims) = values(x);
    let x = x.storage::<f32>();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(1 << 15).zip(x.par_chunks(1 << 15)).for_each(|(y, x)| {
        for (y, x) in y.iter_mut().zip(x) {
            *y = function(*x);
        }
    });
    FlexTensor::from_data(TensorData::new(y, dims))
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
