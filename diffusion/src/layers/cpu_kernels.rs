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

/// Values that the widest vector registers hold; loops over arrays of this length become single instructions.
const LANES: usize = 16;

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
    /// Length of the flat result: all rows but the last two values, which are in vain, made up to whole lanes.
    fn flat(self) -> usize {
        (self.height * self.row() - 2).next_multiple_of(LANES)
    }
    /// Values from one flat result to the next.
    fn length(self) -> usize {
        (self.height * self.row()).max(self.flat())
    }
    /// Values from one padded plane to the next: enough for nine windows of a flat result.
    fn plane(self) -> usize {
        self.flat() + 2 * self.row() + 2
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

    /// Planes with two zeros after each row.
    fn flatten(self, planes: &[f32]) -> Vec<f32> {
        let mut flat = vec![0.0; planes.len() / self.places() * self.length()];
        for (from, to) in planes.chunks_exact(self.places()).zip(flat.chunks_exact_mut(self.length())) {
            for (from, to) in from.chunks_exact(self.width).zip(to.chunks_mut(self.row())) {
                to[..self.width].copy_from_slice(from);
            }
        }
        flat
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
        let length = size.length();
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
    let window = |k: usize| plane[k / 3 * row + k % 3..][..n].as_chunks::<LANES>().0;
    let windows: [&[[f32; LANES]]; 9] = std::array::from_fn(window);
    let results = first[..n].as_chunks_mut::<LANES>().0.iter_mut().zip(second[..n].as_chunks_mut::<LANES>().0);
    for (chunk, (first, second)) in results.enumerate() {
        let (mut s, mut t) = (*first, *second);
        for k in 0..9 {
            let x = &windows[k][chunk];
            for lane in 0..LANES {
                s[lane] = fused(x[lane], w[k], s[lane]);
                t[lane] = fused(x[lane], v[k], t[lane]);
            }
        }
        *first = s;
        *second = t;
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
    let (batch, inputs, outputs) = (dims[0], dims[1], gradient_dims[1]);
    let size = Size { height: dims[2], width: dims[3] };
    let length = size.length();
    let padded: Vec<Vec<f32>> = x.storage::<f32>().par_chunks(inputs * size.places()).map(|x| size.pad(x)).collect();
    let flat: Vec<Vec<f32>> = gradient.storage::<f32>().par_chunks(outputs * size.places()).map(|rows| size.flatten(rows)).collect();
    // Small planes are taken several at once, since adding up the lanes would cost more than the products.
    let together = (4096 / size.places()).clamp(1, batch);
    let pairs = outputs.div_ceil(2);
    let parts: Vec<(usize, Vec<f32>)> = (0..batch.div_ceil(together) * pairs)
        .into_par_iter()
        .map(|part| {
            let first = 2 * (part % pairs);
            let second = (first + 1).min(outputs - 1);
            let from = part / pairs * together;
            let pictures = from..(from + together).min(batch);
            let mut sums = Vec::with_capacity(inputs * 18);
            for input in 0..inputs {
                let mut lanes = Lanes::default();
                for (padded, flat) in padded[pictures.clone()].iter().zip(&flat[pictures.clone()]) {
                    let plane = &padded[input * size.plane()..(input + 1) * size.plane()];
                    lanes.add(plane, size, &flat[first * length..(first + 1) * length], &flat[second * length..(second + 1) * length]);
                }
                sums.extend(lanes.sums());
            }
            (first, sums)
        })
        .collect();
    let mut total = vec![0.0; outputs * inputs * 9];
    for (first, sums) in parts {
        for (input, sums) in sums.chunks_exact(18).enumerate() {
            for (output, sums) in [first, first + 1].into_iter().zip(sums.chunks_exact(9)).filter(|(output, _)| *output < outputs) {
                let at = (output * inputs + input) * 9;
                total[at..at + 9].iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
        }
    }
    tensor(total, [outputs, inputs, 3, 3])
}

/// Sums of products of two flat gradients with the nine windows of a padded plane, not yet added up across lanes.
struct Lanes([[[f32; LANES]; 9]; 2]);

impl Default for Lanes {
    fn default() -> Self {
        Self([[[0.0; LANES]; 9]; 2])
    }
}

impl Lanes {
    #[inline(never)]
    fn add(&mut self, plane: &[f32], size: Size, first: &[f32], second: &[f32]) {
        let (n, row) = (size.flat(), size.row());
        let window = |k: usize| plane[k / 3 * row + k % 3..][..n].as_chunks::<LANES>().0;
        let windows: [&[[f32; LANES]]; 9] = std::array::from_fn(window);
        let [mut a, mut b] = self.0;
        for (chunk, (d, e)) in first[..n].as_chunks::<LANES>().0.iter().zip(second[..n].as_chunks::<LANES>().0).enumerate() {
            for k in 0..9 {
                let x = &windows[k][chunk];
                for lane in 0..LANES {
                    a[k][lane] = fused(d[lane], x[lane], a[k][lane]);
                    b[k][lane] = fused(e[lane], x[lane], b[k][lane]);
                }
            }
        }
        self.0 = [a, b];
    }

    fn sums(&self) -> impl Iterator<Item = f32> {
        self.0.iter().flatten().map(|lanes| lanes.iter().sum())
    }
}

// ---- group norm and SiLU ----

#[derive(Debug)]
struct NormSilu;

/// Mean and 1/deviation of one group.
fn moments(group: &[f32], epsilon: f64) -> (f32, f32) {
    let (chunks, rest) = group.as_chunks::<LANES>();
    let count = group.len() as f32;
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    let mean = (lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()) / count;
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            let centred = chunk[lane] - mean;
            lanes[lane] = fused(centred, centred, lanes[lane]);
        }
    }
    let rest: f32 = rest.iter().map(|x| (x - mean) * (x - mean)).sum();
    let variance = (lanes.iter().sum::<f32>() + rest) / count;
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

/// 1 / (1 + e^−z) through a polynomial for 2^f, in steps that the compiler can vectorise; relative error below 1e-6.
#[inline(always)]
fn sigmoid(z: f32) -> f32 {
    // Adding and subtracting 1.5·2^23 rounds to a whole number, which then lies in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let t = (-z * std::f32::consts::LOG2_E).clamp(-125.0, 125.0);
    let rounded = t + ROUND;
    let f = t - (rounded - ROUND);
    let series = [0.001_339_887_4, 0.009_618_13, 0.055_503_57, 0.240_226_5, 0.693_147_2, 1.0];
    let power = series.iter().fold(0.000_154_034_6, |sum, term| fused(sum, f, *term));
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3F80_0000));
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
