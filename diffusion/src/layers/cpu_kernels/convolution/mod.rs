//! Convolution. Burn's flex implementation spends most of its time moving data.

mod forward;
mod gradient;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;

use self::forward::Size;
use super::{plain, tensor, values};

/// The convolution of `[batch, in, height, width]` with `[out, in, kernel, kernel]`. `padding` gives the zeros before
/// and after the picture along each side. `None` unless the tensors are f32 on the CPU. With autodiff, only 3×3
/// kernels with one zero on each side, or with `padding` `[0, 1]` and stride 2, are supported.
pub(crate) fn convolve(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    stride: usize,
    padding: [usize; 2],
) -> Option<Tensor<4>> {
    let [_, _, height, width] = x.dims();
    let [_, _, kernel, _] = weight.dims();
    let [before, after] = padding;
    if height.min(width) + before + after < kernel {
        return None;
    }
    if let Some(x) = plain(x) {
        let bias = match bias {
            Some(bias) => Some(plain(bias)?),
            None => None,
        };
        let y = convolution(&x, &plain(weight)?, bias.as_ref(), stride, padding);
        return Some(Tensor::from_primitive::<Flex>(y));
    }
    let halve = stride == 2 && padding == [0, 1] && height % 2 == 0 && width % 2 == 0;
    let dtypes = [x.dtype(), weight.dtype(), bias?.dtype()];
    if dtypes != [DType::F32; 3] || kernel != 3 || !(halve || (stride == 1 && padding == [1, 1])) {
        return None;
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let weight = weight.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let bias = bias?.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared =
        Convolution.prepare::<NoCheckpointing>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
    let (x, weight, bias) = (x.into_parts().0, weight.into_parts().0, bias.into_parts().0);
    let y = convolution(&x, &weight, Some(&bias), stride, padding);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((x, weight, halve), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

fn convolution(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    stride: usize,
    [before, after]: [usize; 2],
) -> FlexTensor {
    let (x, dims) = values(x);
    let (weight, weight_dims) = values(weight);
    let bias = bias.map(|bias| bias.to_contiguous());
    let kernel = weight_dims[2];
    let results = |side: usize| (side + before + after - kernel) / stride + 1;
    let size = Size {
        inputs: dims[1],
        height: dims[2],
        width: dims[3],
        kernel,
        stride,
        padding: before,
        outputs: weight_dims[0],
        rows: results(dims[2]),
        columns: results(dims[3]),
    };
    let bias = bias.as_ref().map(|bias| bias.storage::<f32>());
    let y = forward::convolution(x.storage::<f32>(), weight.storage::<f32>(), bias, size);
    tensor(y, [dims[0], size.outputs, size.rows, size.columns])
}

#[derive(Debug)]
struct Convolution;

impl Backward<Flex, 3> for Convolution {
    type State = (FlexTensor, FlexTensor, bool);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let (x, weight, halve) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node);
        let (x, dims) = values(&x);
        let gradient = if halve { gradient::spread(&gradient, [dims[2], dims[3]]) } else { gradient };
        if let Some(node) = bias_node {
            gradients.register::<Flex>(node.id, gradient::sum_of_places(&gradient));
        }
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, gradient::weight_gradient(&x, &gradient));
        }
        if let Some(node) = x_node {
            let back = convolution(&gradient, &gradient::turned(&weight), None, 1, [1, 1]);
            gradients.register::<Flex>(node.id, back);
        }
    }
}
