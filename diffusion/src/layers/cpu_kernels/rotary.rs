//! Rotary embedding.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::lanes::vectorised;
use super::{plain, primitive, tensor, values};

/// Rotates pairs of neighbouring channels of `[batch, heads, tokens, head]` by angles, whose cosines and sines are
/// `[tokens, head]` with each value repeated twice. `None` unless the tensors are f32 on the CPU.
pub(crate) fn rotate(x: &Tensor<4>, cos: &Tensor<2>, sin: &Tensor<2>) -> Option<Tensor<4>> {
    if [x.dtype(), cos.dtype(), sin.dtype()] != [DType::F32; 3] {
        return None;
    }
    let (cos, sin) = (primitive(cos)?, primitive(sin)?);
    if let Some(x) = plain(x) {
        return Some(Tensor::from_primitive::<Flex>(rotated(&x, &cos, &sin, 1.0)));
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared = Rotate.prepare::<NoCheckpointing>([x.node()]).compute_bound().stateful();
    let y = rotated(&x.into_parts().0, &cos, &sin, 1.0);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((cos, sin), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

#[derive(Debug)]
struct Rotate;

/// Rotates by the angles times `way`, which is 1 or −1.
fn rotated(x: &FlexTensor, cos: &FlexTensor, sin: &FlexTensor, way: f32) -> FlexTensor {
    let (x, dims) = values(x);
    let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
    let (x, cos, sin) = (x.storage::<f32>(), cos.storage::<f32>(), sin.storage::<f32>());
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(cos.len()).zip(x.par_chunks(cos.len())).for_each(|(y, x)| turn_head(x, cos, sin, way, y));
    tensor(y, [dims[0], dims[1], dims[2], dims[3]])
}

vectorised! {
    fn turn_head<'a>(x: &'a [f32], cos: &'a [f32], sin: &'a [f32], way: f32, y: &'a mut [f32]) -> () {
        let angles = cos.as_chunks::<2>().0.iter().zip(sin.as_chunks::<2>().0);
        for ((y, x), (cos, sin)) in y.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<2>().0).zip(angles) {
            let (cos, sin) = (cos[0], sin[0] * way);
            *y = [x[0] * cos - x[1] * sin, x[1] * cos + x[0] * sin];
        }
    }
}

impl Backward<Flex, 1> for Rotate {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let (cos, sin) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node);
        if let Some(node) = node {
            gradients.register::<Flex>(node.id, rotated(&gradient, &cos, &sin, -1.0));
        }
    }
}
