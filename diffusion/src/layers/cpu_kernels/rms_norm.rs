//! Root mean square norm.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::lanes::{fused, sums_along, vectorised};
use super::{plain, tensor, values};

/// Root mean square norm over the last dimension. `None` unless the tensors are f32 on the CPU.
pub(crate) fn rms<const D: usize>(x: &Tensor<D>, weight: &Tensor<1>, epsilon: f64) -> Option<Tensor<D>> {
    if let Some(x) = plain(x) {
        return Some(Tensor::from_primitive::<Flex>(rms_forward(&x, &plain(weight)?, epsilon)));
    }
    if [x.dtype(), weight.dtype()] != [DType::F32; 2] {
        return None;
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let weight = weight.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared = Rms.prepare::<NoCheckpointing>([x.node(), weight.node()]).compute_bound().stateful();
    let (x, weight) = (x.into_parts().0, weight.into_parts().0);
    let y = rms_forward(&x, &weight, epsilon);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((x, weight, epsilon), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

/// Approximate number of values per thread at a time.
const SPAN: usize = 1 << 14;

#[derive(Debug)]
struct Rms;

/// 1 / √(mean of squares + epsilon)
#[inline(always)]
fn inverse_rms(x: &[f32], epsilon: f64) -> f32 {
    let (_, squares) = sums_along(x, x, |x| x);
    1.0 / (squares / x.len() as f32 + epsilon as f32).sqrt()
}

fn rms_forward(x: &FlexTensor, weight: &FlexTensor, epsilon: f64) -> FlexTensor {
    let (x, dims) = values(x);
    let weight = weight.to_contiguous();
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let mut y = vec![0.0; x.len()];
    let span = (SPAN / weight.len()).max(1) * weight.len();
    y.par_chunks_mut(span).zip(x.par_chunks(span)).for_each(|(y, x)| norm_rows(x, weight, epsilon, y));
    FlexTensor::from_data(TensorData::new(y, dims))
}

vectorised! {
    fn norm_rows<'a>(x: &'a [f32], weight: &'a [f32], epsilon: f64, y: &'a mut [f32]) -> () {
        for (y, x) in y.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
            let inverse = inverse_rms(x, epsilon);
            for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                *y = x * inverse * weight;
            }
        }
    }
}

impl Backward<Flex, 2> for Rms {
    type State = (FlexTensor, FlexTensor, f64);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let (x, weight, epsilon) = ops.state;
        let (gradient, _) = values(&gradients.consume::<Flex>(&ops.node));
        let (x, dims) = values(&x);
        let weight = weight.to_contiguous();
        let (x, gradient, weight) = (x.storage::<f32>(), gradient.storage::<f32>(), weight.storage::<f32>());
        let width = weight.len();
        let mut back = vec![0.0; x.len()];
        let mut weight_back = vec![0.0f32; width];
        let rows = back.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(gradient.chunks_exact(width));
        for ((back, x), gradient) in rows {
            let inverse = inverse_rms(x, epsilon);
            for ((((back, x), gradient), weight), weight_back) in
                back.iter_mut().zip(x).zip(gradient).zip(weight).zip(&mut weight_back)
            {
                *weight_back = fused(*gradient, x * inverse, *weight_back);
                *back = gradient * weight;
            }
            let (_, along) = sums_along(back, x, |x| x);
            let share = along * inverse * inverse / width as f32;
            for (back, x) in back.iter_mut().zip(x) {
                *back = inverse * (*back - x * share);
            }
        }
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, tensor(weight_back, [width]));
        }
        if let Some(node) = x_node {
            gradients.register::<Flex>(node.id, FlexTensor::from_data(TensorData::new(back, dims)));
        }
    }
}
