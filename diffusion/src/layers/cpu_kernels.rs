//! 3×3 convolution and group norm with SiLU on the CPU, forward and backward, for training autoencoders: flex's own
//! convolution spends most of its time moving data, and its group norm is a dozen passes over memory. Only with the
//! cargo feature `cpu-kernels`; worth it only when the compiler may use the machine's vector instructions
//! (`-C target-cpu=native`). Tensors on other devices go the usual way.
//!
//! A padded picture is one flat row of `(height + 2)·(width + 2)` values, so that each of the nine taps is the same row
//! at another offset and every inner loop is long and contiguous. The two values between the rows of the result are
//! computed in vain and dropped.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use rayon::prelude::*;

/// A 3×3 convolution with one pixel of zeros around: `[batch, in, height, width]` → `[batch, out, height, width]`, or
/// every second place (the odd ones) of it with `halve`. `None` where the tensor is not on the CPU.
pub fn convolve(x: &Tensor<4>, weight: &Tensor<4>, bias: &Tensor<1>, halve: bool) -> Option<Tensor<4>> {
    if let Ok(x) = x.clone().try_into_primitive::<Flex>() {
        let weight = weight.clone().try_into_primitive::<Flex>().ok()?;
        let bias = bias.clone().try_into_primitive::<Flex>().ok()?;
        return Some(Tensor::from_primitive::<Flex>(convolution(&x, &weight, Some(&bias), halve)));
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let weight = weight.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let bias = bias.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared = Convolution.prepare::<NoCheckpointing>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
    let (x, weight, bias) = (x.into_parts().0, weight.into_parts().0, bias.into_parts().0);
    let y = convolution(&x, &weight, Some(&bias), halve);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((x, weight, halve), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

/// Group norm followed by SiLU, `[batch, channels, height, width]` → the same shape. `None` where the tensor is not on
/// the CPU.
pub fn normalise_silu(x: &Tensor<4>, weight: &Tensor<1>, bias: &Tensor<1>, groups: usize, epsilon: f64) -> Option<Tensor<4>> {
    if let Ok(x) = x.clone().try_into_primitive::<Flex>() {
        let weight = weight.clone().try_into_primitive::<Flex>().ok()?;
        let bias = bias.clone().try_into_primitive::<Flex>().ok()?;
        return Some(Tensor::from_primitive::<Flex>(norm(&x, &weight, &bias, groups, epsilon)));
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let weight = weight.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let bias = bias.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared = NormSilu.prepare::<NoCheckpointing>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
    let (x, weight, bias) = (x.into_parts().0, weight.into_parts().0, bias.into_parts().0);
    let y = norm(&x, &weight, &bias, groups, epsilon);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((x, weight, bias, groups, epsilon), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

/// Values and sizes of a contiguous tensor.
fn values(tensor: &FlexTensor) -> (FlexTensor, Vec<usize>) {
    let tensor = tensor.to_contiguous();
    let dims = tensor.layout().shape().to_vec();
    (tensor, dims)
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

// ---- convolution ----

#[derive(Debug)]
struct Convolution;

impl Backward<Flex, 3> for Convolution {
    type State = (FlexTensor, FlexTensor, bool);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let (x, weight, halve) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node);
        let (x, dims) = values(&x);
        let size = Size { height: dims[2], width: dims[3] };
        let gradient = if halve { spread(&gradient, size) } else { gradient };
        if let Some(node) = bias_node {
            gradients.register::<Flex>(node.id, sum_of_places(&gradient));
        }
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, weight_gradient(&x, &gradient));
        }
        if let Some(node) = x_node {
            let back = convolution(&gradient, &turned(&weight), None, false);
            gradients.register::<Flex>(node.id, back);
        }
    }
}

#[derive(Clone, Copy)]
struct Size {
    height: usize,
    width: usize,
}

impl Size {
    fn places(self) -> usize {
        self.height * self.width
    }
    /// Width of a padded row.
    fn row(self) -> usize {
        self.width + 2
    }
    /// Values of a padded plane.
    fn plane(self) -> usize {
        (self.height + 2) * self.row()
    }
    /// Length of the flat result, without the last two values, which are in vain.
    fn flat(self) -> usize {
        self.height * self.row() - 2
    }

    /// Planes with a border of zeros.
    fn pad(self, planes: &[f32]) -> Vec<f32> {
        let mut padded = vec![0.0; planes.len() / self.places() * self.plane()];
        for (from, to) in planes.chunks_exact(self.places()).zip(padded.chunks_exact_mut(self.plane())) {
            for (y, row) in from.chunks_exact(self.width).enumerate() {
                let start = (y + 1) * self.row() + 1;
                to[start..start + self.width].copy_from_slice(row);
            }
        }
        padded
    }
}

fn convolution(x: &FlexTensor, weight: &FlexTensor, bias: Option<&FlexTensor>, halve: bool) -> FlexTensor {
    let (x, dims) = values(x);
    let (weight, weight_dims) = values(weight);
    let bias = bias.map(|bias| bias.to_contiguous());
    let [batch, inputs, height, width] = [dims[0], dims[1], dims[2], dims[3]];
    let outputs = weight_dims[0];
    let size = Size { height, width };
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let bias: Option<&[f32]> = bias.as_ref().map(|bias| bias.storage::<f32>());
    let step = if halve { 2 } else { 1 };
    let places = (height / step) * (width / step);
    let mut y = vec![0.0; batch * outputs * places];
    y.par_chunks_mut(outputs * places).zip(x.par_chunks(inputs * size.places())).for_each(|(y, x)| {
        let padded = size.pad(x);
        let length = height * size.row();
        let mut flat = vec![0.0; 2 * length];
        for (pair, y) in y.chunks_mut(2 * places).enumerate() {
            let output = 2 * pair;
            // An odd last output is computed twice, and used once.
            let other = (output + 1).min(outputs - 1);
            let (first, second) = flat.split_at_mut(length);
            first.fill(bias.map_or(0.0, |bias| bias[output]));
            second.fill(bias.map_or(0.0, |bias| bias[other]));
            for (input, plane) in padded.chunks_exact(size.plane()).enumerate() {
                add_taps(plane, size, taps(weight, output * inputs + input), taps(weight, other * inputs + input), first, second);
            }
            for (y, flat) in y.chunks_mut(places).zip([&*first, &*second]) {
                let rows = flat.chunks_exact(size.row()).skip(step - 1).step_by(step);
                for (y, row) in y.chunks_exact_mut(width / step).zip(rows) {
                    if halve {
                        for (y, value) in y.iter_mut().zip(row[1..].iter().step_by(2)) {
                            *y = *value;
                        }
                    } else {
                        y.copy_from_slice(&row[..width]);
                    }
                }
            }
        }
    });
    tensor(y, [batch, outputs, height / step, width / step])
}

fn taps(weight: &[f32], index: usize) -> [f32; 9] {
    let mut taps = [0.0; 9];
    taps.copy_from_slice(&weight[9 * index..9 * index + 9]);
    taps
}

/// Adds nine weighted windows of a padded plane to two flat results.
#[inline(never)]
fn add_taps(plane: &[f32], size: Size, w: [f32; 9], v: [f32; 9], first: &mut [f32], second: &mut [f32]) {
    let (n, row) = (size.flat(), size.row());
    let (a, b, c) = (&plane[..n + 2], &plane[row..row + n + 2], &plane[2 * row..2 * row + n + 2]);
    let (first, second) = (&mut first[..n], &mut second[..n]);
    for i in 0..n {
        let x = [a[i], a[i + 1], a[i + 2], b[i], b[i + 1], b[i + 2], c[i], c[i + 1], c[i + 2]];
        let (mut s, mut t) = (first[i], second[i]);
        for k in 0..9 {
            s = fused(x[k], w[k], s);
            t = fused(x[k], v[k], t);
        }
        first[i] = s;
        second[i] = t;
    }
}

/// `a·b + c`, in one instruction where the build has one: without it `mul_add` is a slow library call.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_feature = "fma") { a.mul_add(b, c) } else { a * b + c }
}

/// The weights that carry a gradient back: inputs and outputs exchanged, kernels turned by half a circle.
fn turned(weight: &FlexTensor) -> FlexTensor {
    let (weight, dims) = values(weight);
    let (outputs, inputs) = (dims[0], dims[1]);
    let weight = weight.storage::<f32>();
    let mut back = vec![0.0; weight.len()];
    for output in 0..outputs {
        for input in 0..inputs {
            for k in 0..9 {
                back[(input * outputs + output) * 9 + 8 - k] = weight[(output * inputs + input) * 9 + k];
            }
        }
    }
    tensor(back, [inputs, outputs, 3, 3])
}

/// The gradient of a halved result at the places of the whole one.
fn spread(gradient: &FlexTensor, size: Size) -> FlexTensor {
    let (gradient, dims) = values(gradient);
    let mut whole = vec![0.0; dims[0] * dims[1] * size.places()];
    let half = gradient.storage::<f32>().chunks_exact(dims[2] * dims[3]);
    for (from, to) in half.zip(whole.chunks_exact_mut(size.places())) {
        for (y, row) in from.chunks_exact(dims[3]).enumerate() {
            for (x, value) in row.iter().enumerate() {
                to[(2 * y + 1) * size.width + 2 * x + 1] = *value;
            }
        }
    }
    tensor(whole, [dims[0], dims[1], size.height, size.width])
}

fn sum_of_places(gradient: &FlexTensor) -> FlexTensor {
    let (gradient, dims) = values(gradient);
    let mut sums = vec![0.0; dims[1]];
    for (index, plane) in gradient.storage::<f32>().chunks_exact(dims[2] * dims[3]).enumerate() {
        sums[index % dims[1]] += plane.iter().sum::<f32>();
    }
    tensor(sums, [dims[1]])
}

fn weight_gradient(x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let (x, dims) = values(x);
    let (gradient, gradient_dims) = values(gradient);
    let (inputs, outputs) = (dims[1], gradient_dims[1]);
    let size = Size { height: dims[2], width: dims[3] };
    let pictures = x.storage::<f32>().par_chunks(inputs * size.places());
    let gradients = gradient.storage::<f32>().par_chunks(outputs * size.places());
    let length = size.height * size.row();
    let sums = pictures.zip(gradients).map(|(x, gradient)| {
        let padded = size.pad(x);
        let mut flat = vec![0.0; outputs * length];
        for (from, to) in gradient.chunks_exact(size.width).zip(flat.chunks_exact_mut(size.row())) {
            to[..size.width].copy_from_slice(from);
        }
        let mut sums = vec![0.0; outputs * inputs * 9];
        for (output, flat) in flat.chunks_exact(length).enumerate() {
            for (input, plane) in padded.chunks_exact(size.plane()).enumerate() {
                let at = (output * inputs + input) * 9;
                add_products(plane, size, flat, &mut sums[at..at + 9]);
            }
        }
        sums
    });
    let add = |mut sums: Vec<f32>, more: Vec<f32>| {
        sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        sums
    };
    tensor(sums.reduce(|| vec![0.0; outputs * inputs * 9], add), [outputs, inputs, 3, 3])
}

/// Adds the products of a flat gradient with the nine windows of a padded plane.
#[inline(never)]
fn add_products(plane: &[f32], size: Size, gradient: &[f32], sums: &mut [f32]) {
    const LANES: usize = 16;
    let (n, row) = (size.flat(), size.row());
    let mut lanes = [[0.0f32; LANES]; 9];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let g = &gradient[start..start + LANES];
        for ky in 0..3 {
            let x = &plane[ky * row + start..ky * row + start + LANES + 2];
            for kx in 0..3 {
                for lane in 0..LANES {
                    lanes[3 * ky + kx][lane] = fused(g[lane], x[lane + kx], lanes[3 * ky + kx][lane]);
                }
            }
        }
    }
    for (k, sum) in sums.iter_mut().enumerate() {
        let offset = k / 3 * row + k % 3;
        let rest: f32 = (whole..n).map(|i| gradient[i] * plane[offset + i]).sum();
        *sum += lanes[k].iter().sum::<f32>() + rest;
    }
}

// ---- group norm and SiLU ----

#[derive(Debug)]
struct NormSilu;

/// Mean and 1/deviation of one group.
fn moments(group: &[f32], epsilon: f64) -> (f32, f32) {
    let lane_sum = |value: &dyn Fn(f32) -> f32| {
        let mut lanes = [0.0f32; 16];
        let chunks = group.chunks_exact(16);
        let rest: f32 = chunks.remainder().iter().map(|x| value(*x)).sum();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += value(*x);
            }
        }
        lanes.iter().sum::<f32>() + rest
    };
    let count = group.len() as f32;
    let mean = lane_sum(&|x| x) / count;
    let variance = lane_sum(&|x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon as f32).sqrt())
}

fn norm(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor, groups: usize, epsilon: f64) -> FlexTensor {
    let (x, dims) = values(x);
    let (weight, bias) = (weight.to_contiguous(), bias.to_contiguous());
    let (weight, bias) = (weight.storage::<f32>(), bias.storage::<f32>());
    let (channels, places) = (dims[1], dims[2] * dims[3]);
    let span = channels / groups * places;
    let x = x.storage::<f32>();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(span).zip(x.par_chunks(span)).enumerate().for_each(|(index, (y, x))| {
        let (mean, inverse) = moments(x, epsilon);
        for (c, (y, x)) in y.chunks_exact_mut(places).zip(x.chunks_exact(places)).enumerate() {
            let channel = index % groups * (channels / groups) + c;
            let scale = inverse * weight[channel];
            let shift = bias[channel] - mean * scale;
            for (y, x) in y.iter_mut().zip(x) {
                let z = x * scale + shift;
                *y = z * sigmoid(z);
            }
        }
    });
    tensor(y, [dims[0], dims[1], dims[2], dims[3]])
}

/// 1 / (1 + e^−z) through a polynomial for 2^f, which the compiler can vectorise; relative error below 1e-6.
#[inline(always)]
fn sigmoid(z: f32) -> f32 {
    let t = (-z * std::f32::consts::LOG2_E).clamp(-126.0, 126.0);
    let whole = t.floor();
    let f = t - whole;
    let power = 1.0 + f * (0.693_147_2 + f * (0.240_226_5 + f * (0.055_503_9 + f * (0.009_618_05 + f * (0.001_339_9 + f * 0.000_153_5)))));
    let scale = f32::from_bits(((whole as i32 + 127) << 23) as u32);
    1.0 / (1.0 + power * scale)
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
                    let (d_sum, dx_sum) = silu_back(&x[at.clone()], &gradient[at.clone()], &mut back[at], mean, inverse, w, b);
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

/// Writes the gradient before SiLU of one channel and answers its sum, and its sum times the normalised value.
#[inline(never)]
fn silu_back(x: &[f32], gradient: &[f32], back: &mut [f32], mean: f32, inverse: f32, w: f32, b: f32) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut d_lanes, mut dx_lanes) = ([0.0f32; LANES], [0.0f32; LANES]);
    for ((x, gradient), back) in x.chunks(LANES).zip(gradient.chunks(LANES)).zip(back.chunks_mut(LANES)) {
        for (lane, ((x, gradient), back)) in x.iter().zip(gradient).zip(back).enumerate() {
            let normal = (x - mean) * inverse;
            let z = normal * w + b;
            let s = sigmoid(z);
            let d = gradient * s * (1.0 + z * (1.0 - s));
            *back = d;
            d_lanes[lane] += d;
            dx_lanes[lane] += d * normal;
        }
    }
    (d_lanes.iter().sum(), dx_lanes.iter().sum())
}

#[cfg(test)]
mod tests {
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
            let (x, w, b) = (random([2, inputs, side, side], &device), random([outputs, inputs, 3, 3], &device), random([outputs], &device));
            let ours = convolve(&x, &w, &b, halve).unwrap();
            let theirs = if halve {
                conv2d(x.clone().pad((0, 1, 0, 1), 0.0), w.clone(), Some(b.clone()), ConvOptions::new([2, 2], [0, 0], [1, 1], 1))
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
}
