//! Compares every kernel with the tensor operations that it replaces.

use super::super::packing::{Codes, pack};
use super::*;
use burn::tensor::activation::{silu, softmax};
use burn::tensor::module::{conv2d, linear};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Distribution, Tolerance};
use memory::WeightStorage;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad()
}

fn same<const D: usize>(left: Tensor<D>, right: Tensor<D>) {
    left.into_data().assert_approx_eq::<f32>(&right.into_data(), Tolerance::rel_abs(1e-3, 1e-3));
}

/// The tolerance of the goldens.
fn near<const D: usize>(ours: Tensor<D>, theirs: Tensor<D>) {
    assert_eq!(ours.dims(), theirs.dims());
    let length = |tensor: Tensor<D>| tensor.square().sum().into_scalar::<f32>().sqrt();
    let error = length(ours - theirs.clone()) / length(theirs);
    assert!(error < 1e-5, "relative error {error}");
}

/// Sizes equal to, above and below those of tiles, panels and runs.
#[test]
fn convolves_every_size_as_burn_does() {
    let device = Device::flex();
    let random = |shape| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    for (shape, outputs, kernel, stride, padding) in [
        ([2, 3, 7, 5], 13, 3, 1, [1, 1]),
        ([1, 40, 33, 32], 12, 3, 1, [1, 1]),
        ([2, 5, 31, 27], 3, 3, 1, [1, 1]),
        ([2, 6, 9, 11], 25, 3, 2, [1, 1]),
        ([2, 6, 12, 10], 7, 3, 2, [0, 1]),
        ([1, 4, 11, 9], 5, 3, 2, [0, 1]),
        ([2, 300, 6, 5], 17, 1, 1, [0, 0]),
        ([1, 2, 1, 1], 3, 3, 1, [1, 1]),
        ([1, 3, 16, 16], 9, 4, 4, [0, 0]),
    ] {
        let [_, inputs, ..] = shape;
        let (x, w) = (random(shape), random([outputs, inputs, kernel, kernel]));
        let b = Tensor::<1>::random([outputs], Distribution::Normal(0.0, 1.0), &device);
        let [before, after] = padding;
        let padded = x.clone().pad((before, after, before, after), 0.0);
        for bias in [Some(b), None] {
            let ours = convolve(&x, &w, bias.as_ref(), stride, padding).unwrap();
            let options = ConvOptions::new([stride; 2], [0; 2], [1; 2], 1);
            near(ours, conv2d(padded.clone(), w.clone(), bias, options));
        }
        // A view: the picture is transposed in memory.
        let ours = convolve(&x.clone().swap_dims(2, 3), &w, None, stride, padding).unwrap();
        let options = ConvOptions::new([stride; 2], [0; 2], [1; 2], 1);
        near(ours, conv2d(padded.swap_dims(2, 3), w, None, options));
    }
}

/// `[batch, length, heads, width]` viewed as `[batch, heads, length, width]`, as networks call it.
#[test]
fn attends_as_whole_scores_do() {
    let device = Device::flex();
    for ([batch, heads, queries, keys], head, wide) in
        [([2, 3, 5, 7], 6, 6), ([1, 2, 109, 77], 40, 40), ([2, 1, 13, 64], 16, 33), ([1, 1, 1, 2], 1, 1)]
    {
        let random = |length: usize, width: usize| {
            let shape = [batch, length, heads, width];
            Tensor::<4>::random(shape, Distribution::Normal(0.0, 2.0), &device).swap_dims(1, 2)
        };
        let (q, k, v) = (random(queries, head), random(keys, head), random(keys, wide));
        let shape = [1, heads, queries, keys];
        let bias = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        // No query masks the first key.
        let hidden = Tensor::<4>::random(shape, Distribution::Default, &device).greater_elem(0.7);
        let hidden = bias.clone().mask_fill(hidden, f32::NEG_INFINITY);
        let hidden = Tensor::cat(vec![bias.clone().narrow(3, 0, 1), hidden.narrow(3, 1, keys - 1)], 3);
        for bias in [None, Some(bias), Some(hidden)] {
            let mut scores = q.clone().matmul(k.clone().swap_dims(2, 3)) * 0.3;
            if let Some(bias) = &bias {
                scores = scores + bias.clone();
            }
            let ours = attend(&q, &k, &v, bias.as_ref(), 0.3).unwrap();
            near(ours, softmax(scores, 3).matmul(v.clone()));
        }
    }
}

/// The layers use tensor operations with autodiff, and these kernels without.
#[test]
fn norms_and_gelus_are_those_of_tensor_operations() {
    let device = Device::flex().autodiff();
    let x = random([2, 3, 37, 50], &device);
    let (w, b) = (random([50], &device), random([50], &device));
    let mut norm = crate::layers::LayerNorm::new(50, 1e-5, &device);
    near(standardise(&x.clone().inner(), None, None, 1e-5).unwrap(), norm.forward(x.clone()).inner());
    norm.weight = Some(burn::module::Param::from_tensor(w.clone()));
    norm.bias = Some(burn::module::Param::from_tensor(b.clone()));
    let (inner_w, inner_b) = (w.inner(), b.inner());
    let ours = standardise(&x.clone().inner(), Some(&inner_w), Some(&inner_b), 1e-5).unwrap();
    near(ours, norm.forward(x.clone()).inner());

    let norm = crate::layers::GroupNorm::new(3, 3, 1e-5, &device);
    let (w, b) = (norm.weight.val().inner(), norm.bias.val().inner());
    near(normalise(&x.clone().inner(), &w, &b, 3, 1e-5, false).unwrap(), norm.forward(x.clone()).inner());
    near(normalise(&x.clone().inner(), &w, &b, 3, 1e-5, true).unwrap(), norm.forward_silu(x.clone()).inner());

    near(gelu_quick(&x.clone().inner()).unwrap(), crate::layers::gelu_quick(x.clone()).inner());
    near(gelu_gated(&x.clone().inner()).unwrap(), crate::layers::gelu_gated(x.clone()).inner());
    near(gelu(&x.clone().inner()).unwrap(), crate::layers::gelu_tanh(x).inner());
}

#[test]
fn other_dtypes_and_gradients_go_the_usual_way() {
    let device = Device::flex();
    let half = Tensor::<4>::ones([1, 2, 4, 4], (&device, DType::F16));
    let followed = random([1, 2, 4, 4], &device.clone().autodiff());
    let (w, b) = (Tensor::<1>::ones([2], &device), Tensor::<1>::ones([2], &device));
    for x in [half, followed] {
        assert!(attend(&x, &x, &x, None, 1.0).is_none());
        assert!(standardise(&x, None, None, 1e-5).is_none());
        assert!(normalise(&x, &w, &b, 1, 1e-5, false).is_none());
        assert!(gelu_gated(&x).is_none() && gelu_quick(&x).is_none());
        assert!(convolve(&x, &x.clone().swap_dims(0, 1), None, 1, [0, 0]).is_none());
    }
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
        let (stride, padding) = if halve { (2, [0, 1]) } else { (1, [1, 1]) };
        let ours = convolve(&x, &w, Some(&b), stride, padding).unwrap();
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
    let ours = normalise(&x, &w, &b, 2, 1e-6, true).unwrap();
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

/// Sizes below and above those of panels, runs, tiles, outputs of a thread and the depth that is summed at once.
#[test]
fn multiplies_stored_weights_as_their_values() {
    let device = Device::flex();
    let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    for (rows, inputs, outputs) in [(1, 32, 5), (33, 96, 24), (70, 1120, 130), (600, 288, 25)] {
        let (x, bias) = (random([rows, inputs]), random([1, outputs]).flatten::<1>(0, 1));
        let weight = random([outputs, inputs]);
        let mut stored: Vec<Rows> =
            [DType::BF16, DType::F16].map(|dtype| Rows::half(&weight.clone().cast(dtype)).unwrap()).into();
        for storage in [WeightStorage::Int8, WeightStorage::Int4] {
            let values: Vec<f32> = weight.to_data().try_to_vec().unwrap();
            let Codes { codes, scales } = pack(&values, inputs, storage);
            let dtype = codes.dtype();
            let codes = Tensor::from_data(codes, (&device, dtype));
            stored.push(Rows::packed(&codes, &Tensor::from_data(scales, (&device, DType::F16))).unwrap());
        }
        for stored in stored {
            let values = stored.read_all([outputs, inputs]);
            for bias in [Some(bias.clone()), None] {
                let ours = multiply(&x, &stored, bias.as_ref()).unwrap();
                near(ours, linear(x.clone(), values.clone().transpose(), bias));
            }
            // A view: the activations are transposed in memory.
            let turned = random([inputs, rows]).transpose();
            near(multiply(&turned, &stored, None).unwrap(), linear(turned, values.transpose(), None));
        }
    }
}
