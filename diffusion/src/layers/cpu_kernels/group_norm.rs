//! Group norm, alone or followed by SiLU, in one pass.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::lanes::{LANES, fused, moments, sigmoid, vectorised};
use super::{plain, tensor, values};

/// Group norm, followed by SiLU if `with_silu`: `[batch, channels, height, width]` → the same shape. `None` unless the
/// tensors are f32 on the CPU. Only the variant with SiLU supports autodiff.
pub(crate) fn normalise(
    x: &Tensor<4>,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    groups: usize,
    epsilon: f64,
    with_silu: bool,
) -> Option<Tensor<4>> {
    if let Some(x) = plain(x) {
        let (weight, bias) = (plain(weight)?, plain(bias)?);
        return Some(Tensor::from_primitive::<Flex>(norm(&x, &weight, &bias, groups, epsilon, with_silu)));
    }
    if !with_silu || [x.dtype(), weight.dtype(), bias.dtype()] != [DType::F32; 3] {
        return None;
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let weight = weight.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let bias = bias.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared =
        NormSilu.prepare::<NoCheckpointing>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
    let (x, weight, bias) = (x.into_parts().0, weight.into_parts().0, bias.into_parts().0);
    let y = norm(&x, &weight, &bias, groups, epsilon, true);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((x, weight, bias, groups, epsilon), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

#[derive(Debug)]
struct NormSilu;

fn norm(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    groups: usize,
    epsilon: f64,
    with_silu: bool,
) -> FlexTensor {
    let (x, dims) = values(x);
    let (weight, bias) = (weight.to_contiguous(), bias.to_contiguous());
    let (weight, bias) = (weight.storage::<f32>(), bias.storage::<f32>());
    let (channels, places) = (dims[1], dims[2] * dims[3]);
    let in_group = channels / groups;
    let x = x.storage::<f32>();
    let mut y = vec![0.0; x.len()];
    let work = y.par_chunks_mut(in_group * places).zip(x.par_chunks(in_group * places)).enumerate();
    work.for_each(|(index, (y, x))| {
        let first = index % groups * in_group;
        let at = first..first + in_group;
        normalise_group(x, &weight[at.clone()], &bias[at], epsilon, with_silu, y);
    });
    tensor(y, [dims[0], dims[1], dims[2], dims[3]])
}

vectorised! {
    /// Normalises one group of consecutive channels.
    fn normalise_group<'a>(
        x: &'a [f32],
        weight: &'a [f32],
        bias: &'a [f32],
        epsilon: f64,
        with_silu: bool,
        y: &'a mut [f32],
    ) -> () {
        let (mean, inverse) = moments(x, epsilon);
        let places = x.len() / weight.len();
        let channels = y.chunks_exact_mut(places).zip(x.chunks_exact(places)).zip(weight.iter().zip(bias));
        for ((y, x), (weight, bias)) in channels {
            let scale = inverse * weight;
            let shift = bias - mean * scale;
            if with_silu {
                for (y, x) in y.iter_mut().zip(x) {
                    let z = x * scale + shift;
                    *y = z * sigmoid(z);
                }
            } else {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = x * scale + shift;
                }
            }
        }
    }
}

impl Backward<Flex, 3> for NormSilu {
    type State = (FlexTensor, FlexTensor, FlexTensor, usize, f64);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let (x, weight, bias, groups, epsilon) = ops.state;
        let (gradient, _) = values(&gradients.consume::<Flex>(&ops.node));
        let (x, dims) = values(&x);
        let (weight, bias) = (weight.to_contiguous(), bias.to_contiguous());
        let (weight, bias) = (weight.storage::<f32>(), bias.storage::<f32>());
        let (channels, places) = (dims[1], dims[2] * dims[3]);
        let in_group = channels / groups;
        let span = in_group * places;
        let (x, gradient) = (x.storage::<f32>(), gradient.storage::<f32>());
        let mut back = vec![0.0; x.len()];
        let work = back.par_chunks_mut(span).zip(x.par_chunks(span)).zip(gradient.par_chunks(span)).enumerate();
        let sums: Vec<Vec<(f32, f32)>> = work
            .map(|(index, ((back, x), gradient))| {
                let (mean, inverse) = moments(x, epsilon);
                let first = index % groups * in_group;
                let (mut mean_d, mut mean_dx) = (0.0f32, 0.0f32);
                let mut sums = Vec::with_capacity(in_group);
                for c in 0..in_group {
                    let at = c * places..(c + 1) * places;
                    let (w, b) = (weight[first + c], bias[first + c]);
                    let (d_sum, dx_sum) =
                        silu_back(&x[at.clone()], &gradient[at.clone()], &mut back[at], mean, inverse, w, b);
                    sums.push((dx_sum, d_sum));
                    mean_d += d_sum * w;
                    mean_dx += dx_sum * w;
                }
                let count = span as f32;
                let (mean_d, mean_dx) = (mean_d / count, mean_dx / count);
                for c in 0..in_group {
                    let w = weight[first + c];
                    for (back, x) in back[c * places..(c + 1) * places].iter_mut().zip(&x[c * places..]) {
                        let normal = (x - mean) * inverse;
                        *back = inverse * (*back * w - mean_d - normal * mean_dx);
                    }
                }
                sums
            })
            .collect();
        let (mut weight_sums, mut bias_sums) = (vec![0.0; channels], vec![0.0; channels]);
        for (index, group) in sums.iter().enumerate() {
            for (c, (dx, d)) in group.iter().enumerate() {
                weight_sums[index % groups * in_group + c] += dx;
                bias_sums[index % groups * in_group + c] += d;
            }
        }
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, tensor(weight_sums, [channels]));
        }
        if let Some(node) = bias_node {
            gradients.register::<Flex>(node.id, tensor(bias_sums, [channels]));
        }
        if let Some(node) = x_node {
            gradients.register::<Flex>(node.id, tensor(back, [dims[0], dims[1], dims[2], dims[3]]));
        }
    }
}

/// Writes one channel's gradient before SiLU. Returns its sum, and its sum times the normalised values.
#[inline(never)]
fn silu_back(x: &[f32], gradient: &[f32], back: &mut [f32], mean: f32, inverse: f32, w: f32, b: f32) -> (f32, f32) {
    let (mut d_lanes, mut dx_lanes) = ([0.0f32; LANES], [0.0f32; LANES]);
    let one = |x: f32, gradient: f32| {
        let normal = (x - mean) * inverse;
        let z = fused(normal, w, b);
        let s = sigmoid(z);
        let d = gradient * s * (1.0 + z * (1.0 - s));
        (d, d * normal)
    };
    let ((x, x_rest), (gradient, gradient_rest)) = (x.as_chunks::<LANES>(), gradient.as_chunks::<LANES>());
    let (back, back_rest) = back.as_chunks_mut::<LANES>();
    for ((x, gradient), back) in x.iter().zip(gradient).zip(back) {
        for lane in 0..LANES {
            let (d, dx) = one(x[lane], gradient[lane]);
            back[lane] = d;
            d_lanes[lane] += d;
            dx_lanes[lane] += dx;
        }
    }
    for ((x, gradient), back) in x_rest.iter().zip(gradient_rest).zip(back_rest) {
        let (d, dx) = one(*x, *gradient);
        *back = d;
        d_lanes[0] += d;
        dx_lanes[0] += dx;
    }
    (d_lanes.iter().sum(), dx_lanes.iter().sum())
}
