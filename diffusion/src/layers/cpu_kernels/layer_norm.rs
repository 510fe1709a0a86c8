//! Layer norm, with weights or with the modulation that follows it in a diffusion transformer.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::lanes::{fused, moments, sums_along, vectorised};
use super::{plain, tensor, values};

/// `norm(x)·(1 + scale) + shift` with a layer norm without weights: x is `[batch, tokens, width]`, the others are
/// `[batch, 1, width]`. `None` unless the tensors are f32 on the CPU.
pub(crate) fn modulate(x: &Tensor<3>, shift: &Tensor<3>, scale: &Tensor<3>, epsilon: f64) -> Option<Tensor<3>> {
    if let Some(x) = plain(x) {
        return Some(Tensor::from_primitive::<Flex>(modulated(&x, &plain(shift)?, &plain(scale)?, epsilon)));
    }
    if [x.dtype(), shift.dtype(), scale.dtype()] != [DType::F32; 3] {
        return None;
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let shift = shift.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let scale = scale.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared =
        Modulate.prepare::<NoCheckpointing>([x.node(), shift.node(), scale.node()]).compute_bound().stateful();
    let (x, shift, scale) = (x.into_parts().0, shift.into_parts().0, scale.into_parts().0);
    let y = modulated(&x, &shift, &scale, epsilon);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((x, scale, epsilon), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

#[derive(Debug)]
struct Modulate;

fn modulated(x: &FlexTensor, shift: &FlexTensor, scale: &FlexTensor, epsilon: f64) -> FlexTensor {
    let (shift, scale) = (shift.to_contiguous(), scale.to_contiguous());
    let gain: Vec<f32> = scale.storage::<f32>().iter().map(|scale| 1.0 + scale).collect();
    standardised(x, &gain, shift.storage::<f32>(), epsilon)
}

/// Layer norm over the last dimension. `None` unless the tensors are f32 on the CPU without autodiff.
pub(crate) fn standardise<const D: usize>(
    x: &Tensor<D>,
    weight: Option<&Tensor<1>>,
    bias: Option<&Tensor<1>>,
    epsilon: f64,
) -> Option<Tensor<D>> {
    let width = x.dims()[D - 1];
    let vector = |given: Option<&Tensor<1>>, otherwise: f32| match given {
        Some(given) => Some(plain(given)?.to_contiguous().storage::<f32>().to_vec()),
        None => Some(vec![otherwise; width]),
    };
    let (gain, shift) = (vector(weight, 1.0)?, vector(bias, 0.0)?);
    Some(Tensor::from_primitive::<Flex>(standardised(&plain(x)?, &gain, &shift, epsilon)))
}

/// Approximate number of values per thread at a time.
const SPAN: usize = 1 << 14;

/// `gain` and `shift` have one row per picture, or one for all.
fn standardised(x: &FlexTensor, gain: &[f32], shift: &[f32], epsilon: f64) -> FlexTensor {
    let (x, dims) = values(x);
    let x = x.storage::<f32>();
    let mut y = vec![0.0; x.len()];
    let width = dims.last().copied().unwrap_or(1).max(1);
    let rows = x.len() / gain.len().max(1);
    let span = (SPAN / width).max(1) * width;
    y.par_chunks_mut(span).zip(x.par_chunks(span)).enumerate().for_each(|(part, (y, x))| {
        let first = part * (span / width);
        for (row, (y, x)) in (first..).zip(y.chunks_exact_mut(width).zip(x.chunks_exact(width))) {
            let at = row / rows * width..(row / rows + 1) * width;
            standardise_row(x, &gain[at.clone()], &shift[at], epsilon, y);
        }
    });
    FlexTensor::from_data(TensorData::new(y, dims))
}

vectorised! {
    fn standardise_row<'a>(x: &'a [f32], gain: &'a [f32], shift: &'a [f32], epsilon: f64, y: &'a mut [f32]) -> () {
        let (mean, inverse) = moments(x, epsilon);
        for (((y, x), gain), shift) in y.iter_mut().zip(x).zip(gain).zip(shift) {
            *y = fused((x - mean) * inverse, *gain, *shift);
        }
    }
}

impl Backward<Flex, 3> for Modulate {
    type State = (FlexTensor, FlexTensor, f64);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, shift_node, scale_node] = ops.parents;
        let (x, scale, epsilon) = ops.state;
        let (gradient, _) = values(&gradients.consume::<Flex>(&ops.node));
        let (x, dims) = values(&x);
        let scale = scale.to_contiguous();
        let (x, gradient, scale) = (x.storage::<f32>(), gradient.storage::<f32>(), scale.storage::<f32>());
        let (tokens, width) = (dims[1], dims[2]);
        let span = tokens * width;
        let mut back = vec![0.0; x.len()];
        let (mut shift_back, mut scale_back) = (vec![0.0f32; dims[0] * width], vec![0.0f32; dims[0] * width]);
        let work = back.par_chunks_mut(span).zip(x.par_chunks(span)).zip(gradient.par_chunks(span));
        let sums = shift_back.par_chunks_mut(width).zip(scale_back.par_chunks_mut(width)).zip(scale.par_chunks(width));
        work.zip(sums).for_each(|(((back, x), gradient), ((shift_back, scale_back), scale))| {
            let rows = back.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(gradient.chunks_exact(width));
            for ((back, x), gradient) in rows {
                let (mean, inverse) = moments(x, epsilon);
                let sums = shift_back.iter_mut().zip(scale_back.iter_mut()).zip(scale);
                for (((back, x), gradient), ((shift_back, scale_back), scale)) in
                    back.iter_mut().zip(x).zip(gradient).zip(sums)
                {
                    *shift_back += gradient;
                    *scale_back = fused(*gradient, (x - mean) * inverse, *scale_back);
                    *back = gradient * (1.0 + scale);
                }
                let normal = |x: f32| (x - mean) * inverse;
                let (plain, along) = sums_along(back, x, normal);
                let (plain, along) = (plain / width as f32, along / width as f32);
                for (back, x) in back.iter_mut().zip(x) {
                    *back = inverse * (*back - plain - normal(*x) * along);
                }
            }
        });
        if let Some(node) = shift_node {
            gradients.register::<Flex>(node.id, tensor(shift_back, [dims[0], 1, width]));
        }
        if let Some(node) = scale_node {
            gradients.register::<Flex>(node.id, tensor(scale_back, [dims[0], 1, width]));
        }
        if let Some(node) = x_node {
            gradients.register::<Flex>(node.id, tensor(back, [dims[0], tokens, width]));
        }
    }
}
