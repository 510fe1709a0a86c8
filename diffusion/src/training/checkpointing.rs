//! Gradient checkpointing: the backward pass of a FLUX.1 transformer one block at a time. The forward pass keeps only
//! the input of each block, and the backward pass runs each block again. Memory then holds the activations of one
//! block instead of fifty-seven, for about a third more time ([Chen et al. 2016](https://arxiv.org/abs/1604.06174)).

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::Gradients as Pass;

use super::{Gradients, flow_loss};
use crate::networks::flux::{Embedded, FluxInput, FluxTransformer, Rotary};

/// The loss of one batch, and the gradients of every trained parameter inside the blocks. The layers before the
/// blocks must be frozen: no gradient reaches them.
pub(super) fn backward(
    transformer: &FluxTransformer,
    input: FluxInput,
    rotary: &Rotary,
    velocity: Tensor<3>,
) -> (Tensor<1>, Gradients) {
    let frozen = transformer.valid();
    let Embedded { mut image, mut context, condition } = frozen.embed(input);
    let [_, text, _] = context.dims();
    let [_, tokens, _] = image.dims();
    let mut streams = Vec::with_capacity(frozen.double_blocks().len());
    for block in frozen.double_blocks() {
        streams.push((image.clone(), context.clone()));
        (image, context) = block.forward(image, context, condition.clone(), rotary);
    }
    let mut joint = Tensor::cat(vec![context, image], 1);
    let mut joints = Vec::with_capacity(frozen.single_blocks().len());
    for block in frozen.single_blocks() {
        joints.push(joint.clone());
        joint = block.forward(joint, condition.clone(), rotary);
    }

    let mut gradients = Gradients::default();
    let entry = joint.autodiff().require_grad();
    let loss = flow_loss(transformer.project(entry.clone(), text, condition.clone()), velocity);
    let mut pass = loss.clone().backward();
    // [batch, text + tokens, width]
    let mut slope = of(&entry, &mut pass);

    let singles = transformer.single_blocks().iter().zip(joints).enumerate().rev();
    for (number, (block, joint)) in singles {
        let entry = joint.autodiff().require_grad();
        let left = block.forward(entry.clone(), condition.clone(), rotary);
        let mut pass = along(left, slope);
        gradients.collect(block, &["single_transformer_blocks", &number.to_string()], &mut pass);
        slope = of(&entry, &mut pass);
    }
    let mut slopes = (slope.clone().narrow(1, text, tokens), slope.narrow(1, 0, text));
    let doubles = transformer.double_blocks().iter().zip(streams).enumerate().rev();
    for (number, (block, (image, context))) in doubles {
        let (image, context) = (image.autodiff().require_grad(), context.autodiff().require_grad());
        let left = block.forward(image.clone(), context.clone(), condition.clone(), rotary);
        let both = |image: Tensor<3>, context: Tensor<3>| Tensor::cat(vec![context, image], 1);
        let mut pass = along(both(left.0, left.1), both(slopes.0, slopes.1));
        gradients.collect(block, &["transformer_blocks", &number.to_string()], &mut pass);
        slopes = (of(&image, &mut pass), of(&context, &mut pass));
    }
    (loss.inner(), gradients)
}

/// Continues the backward pass from a tensor whose gradient is known.
fn along(left: Tensor<3>, slope: Tensor<3>) -> Pass {
    (left * slope.autodiff()).sum().backward()
}

/// The gradient of a block's input; zeros if no trained parameter depends on it.
fn of(entry: &Tensor<3>, pass: &mut Pass) -> Tensor<3> {
    entry.grad_remove(pass).unwrap_or_else(|| entry.clone().inner().zeros_like())
}
