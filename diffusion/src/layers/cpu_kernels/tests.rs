//! Every kernel against the tensor operations that it replaces.

use super::*;
use burn::tensor::activation::silu;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Distribution, Tolerance};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad()
}

fn same<const D: usize>(left: Tensor<D>, right: Tensor<D>) {
    left.into_data().assert_approx_eq::<f32>(&right.into_data(), Tolerance::rel_abs(1e-3, 1e-3));
}

#[test]
fn convolves_as_burn_does_forward_and_backward() {
    let device = Device::flex().autodiff();
    for (inputs, outputs, side, halve) in [(3, 8, 16, false), (8, 3, 8, false), (5, 6, 12, true)] {
        let (x, w, b) = (
            random([2, inputs, side, side], &device),
            random([outputs, inputs, 3, 3], &device),
            random([outputs], &device),
        );
        let ours = convolve(&x, &w, &b, halve).unwrap();
        let theirs = if halve {
            conv2d(
                x.clone().pad((0, 1, 0, 1), 0.0),
                w.clone(),
                Some(b.clone()),
                ConvOptions::new([2, 2], [0, 0], [1, 1], 1),
            )
        } else {
            conv2d(x.clone(), w.clone(), Some(b.clone()), ConvOptions::new([1, 1], [1, 1], [1, 1], 1))
        };
        same(ours.clone(), theirs.clone());
        let weighting = Tensor::random(ours.dims(), Distribution::Normal(0.0, 1.0), &device);
        let ours = (ours * weighting.clone()).sum().backward();
        let theirs = (theirs * weighting).sum().backward();
        same(x.grad(&ours).unwrap(), x.grad(&theirs).unwrap());
        same(w.grad(&ours).unwrap(), w.grad(&theirs).unwrap());
        same(b.grad(&ours).unwrap(), b.grad(&theirs).unwrap());
    }
}

#[test]
fn normalises_as_the_layer_does_forward_and_backward() {
    let device = Device::flex().autodiff();
    let norm = crate::layers::GroupNorm::new(2, 6, 1e-6, &device);
    let (x, w, b) = (random([2, 6, 5, 5], &device), random([6], &device), random([6], &device));
    let mut norm = norm;
    norm.weight = burn::module::Param::from_tensor(w.clone());
    norm.bias = burn::module::Param::from_tensor(b.clone());
    let ours = normalise_silu(&x, &w, &b, 2, 1e-6).unwrap();
    let theirs = silu(norm.forward(x.clone()));
    same(ours.clone(), theirs.clone());
    let weighting = Tensor::random(ours.dims(), Distribution::Normal(0.0, 1.0), &device);
    let ours = (ours * weighting.clone()).sum().backward();
    let theirs = (theirs * weighting).sum().backward();
    same(x.grad(&ours).unwrap(), x.grad(&theirs).unwrap());
    same(w.grad(&ours).unwrap(), norm.weight.val().grad(&theirs).unwrap());
    same(b.grad(&ours).unwrap(), norm.bias.val().grad(&theirs).unwrap());
}

#[test]
fn modulates_as_the_layer_norm_does_forward_and_backward() {
    let device = Device::flex().autodiff();
    let (x, shift, scale) = (random([3, 5, 24], &device), random([3, 1, 24], &device), random([3, 1, 24], &device));
    let ours = modulate(&x, &shift, &scale, 1e-6).unwrap();
    let theirs = crate::layers::LayerNorm::plain(1e-6).forward(x.clone()) * (scale.clone() + 1.0) + shift.clone();
    same(ours.clone(), theirs.clone());
    let weighting = Tensor::random(ours.dims(), Distribution::Normal(0.0, 1.0), &device);
    let ours = (ours * weighting.clone()).sum().backward();
    let theirs = (theirs * weighting).sum().backward();
    same(x.grad(&ours).unwrap(), x.grad(&theirs).unwrap());
    same(shift.grad(&ours).unwrap(), shift.grad(&theirs).unwrap());
    same(scale.grad(&ours).unwrap(), scale.grad(&theirs).unwrap());
}

#[test]
fn norms_and_turns_as_tensor_operations_do_forward_and_backward() {
    let device = Device::flex().autodiff();
    let (x, weight) = (random([2, 3, 4, 8], &device), random([8], &device));
    let angle = Tensor::<2>::random([4, 4], Distribution::Normal(0.0, 1.0), &device)
        .reshape([4, 4, 1])
        .expand([4, 4, 2])
        .reshape([4, 8]);
    let (cos, sin) = (angle.clone().cos(), angle.sin());
    let ours = rotate(&rms(&x, &weight, 1e-6).unwrap(), &cos, &sin).unwrap();
    let normal = x.clone() * (x.clone().square().mean_dim(3) + 1e-6).sqrt().recip() * weight.clone().unsqueeze();
    let pairs = normal.clone().reshape([2, 3, 4, 4, 2]);
    let turned =
        Tensor::cat(vec![pairs.clone().narrow(4, 1, 1) * -1.0, pairs.narrow(4, 0, 1)], 4).reshape([2, 3, 4, 8]);
    let theirs = normal * cos.unsqueeze() + turned * sin.unsqueeze();
    same(ours.clone(), theirs.clone());
    let weighting = Tensor::random(ours.dims(), Distribution::Normal(0.0, 1.0), &device);
    let ours = (ours * weighting.clone()).sum().backward();
    let theirs = (theirs * weighting).sum().backward();
    same(x.grad(&ours).unwrap(), x.grad(&theirs).unwrap());
    same(weight.grad(&ours).unwrap(), weight.grad(&theirs).unwrap());
}
