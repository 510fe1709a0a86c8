//! 3×3 convolution, group norm with SiLU, and GELU on the CPU, forward and backward, for training from scratch: flex's own
//! convolution spends most of its time moving data, and the others are dozens of passes over memory. Only with the
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
use burn::tensor::DType;
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
    let prepared =
        Convolution.prepare::<NoCheckpointing>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
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
pub fn normalise_silu(
    x: &Tensor<4>,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    groups: usize,
    epsilon: f64,
) -> Option<Tensor<4>> {
    if let Ok(x) = x.clone().try_into_primitive::<Flex>() {
        let weight = weight.clone().try_into_primitive::<Flex>().ok()?;
        let bias = bias.clone().try_into_primitive::<Flex>().ok()?;
        return Some(Tensor::from_primitive::<Flex>(norm(&x, &weight, &bias, groups, epsilon)));
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let weight = weight.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let bias = bias.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared =
        NormSilu.prepare::<NoCheckpointing>([x.node(), weight.node(), bias.node()]).compute_bound().stateful();
    let (x, weight, bias) = (x.into_parts().0, weight.into_parts().0, bias.into_parts().0);
    let y = norm(&x, &weight, &bias, groups, epsilon);
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((x, weight, bias, groups, epsilon), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

/// GELU in its tanh form. `None` where the tensor is not of f32 on the CPU.
pub fn gelu<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    if x.dtype() != DType::F32 {
        return None;
    }
    if let Ok(x) = x.clone().try_into_primitive::<Flex>() {
        return Some(Tensor::from_primitive::<Flex>(each(&x, |x| x * sigmoid(gelu_exponent(x)))));
    }
    let x = x.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let prepared = Gelu.prepare::<NoCheckpointing>([x.node()]).compute_bound().stateful();
    let x = x.into_parts().0;
    let y = each(&x, |x| x * sigmoid(gelu_exponent(x)));
    let y = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(x, y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
}

/// `norm(x)·(1 + scale) + shift` with a layer norm without weights: x `[batch, tokens, width]`, the others
/// `[batch, 1, width]`. `None` where the tensors are not of f32 on the CPU.
pub fn modulate(x: &Tensor<3>, shift: &Tensor<3>, scale: &Tensor<3>, epsilon: f64) -> Option<Tensor<3>> {
    if x.dtype() != DType::F32 {
        return None;
    }
    if let Ok(x) = x.clone().try_into_primitive::<Flex>() {
        let (shift, scale) = (primitive(shift)?, primitive(scale)?);
        return Some(Tensor::from_primitive::<Flex>(modulated(&x, &shift, &scale, epsilon)));
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

/// Root mean square norm over the last dimension. `None` where the tensors are not of f32 on the CPU.
pub fn rms<const D: usize>(x: &Tensor<D>, weight: &Tensor<1>, epsilon: f64) -> Option<Tensor<D>> {
    if x.dtype() != DType::F32 || weight.dtype() != DType::F32 {
        return None;
    }
    if let Ok(x) = x.clone().try_into_primitive::<Flex>() {
        return Some(Tensor::from_primitive::<Flex>(rms_forward(&x, &primitive(weight)?, epsilon)));
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

/// Turns pairs of neighbouring channels of `[batch, heads, tokens, head]` by angles whose cosines and sines are
/// `[tokens, head]`, each twice in a row. `None` where the tensors are not of f32 on the CPU.
pub fn rotate(x: &Tensor<4>, cos: &Tensor<2>, sin: &Tensor<2>) -> Option<Tensor<4>> {
    if x.dtype() != DType::F32 {
        return None;
    }
    let (cos, sin) = (primitive(cos)?, primitive(sin)?);
    if let Ok(x) = x.clone().try_into_primitive::<Flex>() {
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

/// The values of a tensor on the CPU, whether autodiff follows it or not.
fn primitive<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    if let Ok(tensor) = tensor.clone().try_into_primitive::<Flex>() {
        return Some(tensor);
    }
    Some(tensor.clone().try_into_primitive::<Autodiff<Flex>>().ok()?.into_parts().0)
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
                add_taps(
                    plane,
                    size,
                    taps(weight, output * inputs + input),
                    taps(weight, other * inputs + input),
                    first,
                    second,
                );
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
    let flat: Vec<Vec<f32>> =
        gradient.storage::<f32>().par_chunks(outputs * size.places()).map(|rows| size.flatten(rows)).collect();
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
                    lanes.add(
                        plane,
                        size,
                        &flat[first * length..(first + 1) * length],
                        &flat[second * length..(second + 1) * length],
                    );
                }
                sums.extend(lanes.sums());
            }
            (first, sums)
        })
        .collect();
    let mut total = vec![0.0; outputs * inputs * 9];
    for (first, sums) in parts {
        for (input, sums) in sums.chunks_exact(18).enumerate() {
            for (output, sums) in
                [first, first + 1].into_iter().zip(sums.chunks_exact(9)).filter(|(output, _)| *output < outputs)
            {
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
        for (chunk, (d, e)) in
            first[..n].as_chunks::<LANES>().0.iter().zip(second[..n].as_chunks::<LANES>().0).enumerate()
        {
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

// ---- modulated layer norm ----

#[derive(Debug)]
struct Modulate;

fn modulated(x: &FlexTensor, shift: &FlexTensor, scale: &FlexTensor, epsilon: f64) -> FlexTensor {
    let (x, dims) = values(x);
    let (shift, scale) = (shift.to_contiguous(), scale.to_contiguous());
    let (x, shift, scale) = (x.storage::<f32>(), shift.storage::<f32>(), scale.storage::<f32>());
    let (tokens, width) = (dims[1], dims[2]);
    let mut y = vec![0.0; x.len()];
    let pictures = y.par_chunks_mut(tokens * width).zip(x.par_chunks(tokens * width)).enumerate();
    pictures.for_each(|(picture, (y, x))| {
        let at = picture * width..(picture + 1) * width;
        let (shift, scale) = (&shift[at.clone()], &scale[at]);
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, inverse) = moments(x, epsilon);
            for (((y, x), shift), scale) in y.iter_mut().zip(x).zip(shift).zip(scale) {
                *y = fused((x - mean) * inverse, 1.0 + scale, *shift);
            }
        }
    });
    tensor(y, [dims[0], tokens, width])
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

/// Sum of a gradient, and of its products with a function of the values.
#[inline(always)]
fn sums_along(gradient: &[f32], x: &[f32], function: impl Fn(f32) -> f32) -> (f32, f32) {
    let (mut plain, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
    let ((g, g_rest), (x, x_rest)) = (gradient.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    for (g, x) in g.iter().zip(x) {
        for lane in 0..LANES {
            plain[lane] += g[lane];
            along[lane] = fused(g[lane], function(x[lane]), along[lane]);
        }
    }
    for (g, x) in g_rest.iter().zip(x_rest) {
        plain[0] += g;
        along[0] += g * function(*x);
    }
    (plain.iter().sum(), along.iter().sum())
}

// ---- root mean square norm ----

#[derive(Debug)]
struct Rms;

/// 1 / √(mean of squares + epsilon)
fn inverse_rms(x: &[f32], epsilon: f64) -> f32 {
    let (_, squares) = sums_along(x, x, |x| x);
    1.0 / (squares / x.len() as f32 + epsilon as f32).sqrt()
}

fn rms_forward(x: &FlexTensor, weight: &FlexTensor, epsilon: f64) -> FlexTensor {
    let (x, dims) = values(x);
    let weight = weight.to_contiguous();
    let (x, weight) = (x.storage::<f32>(), weight.storage::<f32>());
    let mut y = vec![0.0; x.len()];
    for (y, x) in y.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
        let inverse = inverse_rms(x, epsilon);
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * inverse * weight;
        }
    }
    FlexTensor::from_data(TensorData::new(y, dims))
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

// ---- rotary embedding ----

#[derive(Debug)]
struct Rotate;

/// Turns by the angles times `way`, which is 1 or −1.
fn rotated(x: &FlexTensor, cos: &FlexTensor, sin: &FlexTensor, way: f32) -> FlexTensor {
    let (x, dims) = values(x);
    let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
    let (x, cos, sin) = (x.storage::<f32>(), cos.storage::<f32>(), sin.storage::<f32>());
    let mut y = vec![0.0; x.len()];
    for (y, x) in y.chunks_exact_mut(cos.len()).zip(x.chunks_exact(cos.len())) {
        let angles = cos.as_chunks::<2>().0.iter().zip(sin.as_chunks::<2>().0);
        for ((y, x), (cos, sin)) in y.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<2>().0).zip(angles) {
            let (cos, sin) = (cos[0], sin[0] * way);
            *y = [x[0] * cos - x[1] * sin, x[1] * cos + x[0] * sin];
        }
    }
    tensor(y, [dims[0], dims[1], dims[2], dims[3]])
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

// ---- GELU ----

#[derive(Debug)]
struct Gelu;

/// √(8/π)
const GELU_LINEAR: f32 = 1.595_769_1;
const GELU_CUBIC: f32 = GELU_LINEAR * 0.044_715;

/// GELU is `x·σ(u)`, and this is u.
#[inline(always)]
fn gelu_exponent(x: f32) -> f32 {
    x * fused(x * x, GELU_CUBIC, GELU_LINEAR)
}

fn each(x: &FlexTensor, function: impl Fn(f32) -> f32 + Sync) -> FlexTensor {
    let (x, dims) = values(x);
    let x = x.storage::<f32>();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(1 << 15).zip(x.par_chunks(1 << 15)).for_each(|(y, x)| {
        for (y, x) in y.iter_mut().zip(x) {
            *y = function(*x);
        }
    });
    FlexTensor::from_data(TensorData::new(y, dims))
}

impl Backward<Flex, 1> for Gelu {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let (x, dims) = values(&ops.state);
        let (gradient, _) = values(&gradients.consume::<Flex>(&ops.node));
        let Some(node) = node else { return };
        let (x, gradient) = (x.storage::<f32>(), gradient.storage::<f32>());
        let mut back = vec![0.0; x.len()];
        let work = back.par_chunks_mut(1 << 15).zip(x.par_chunks(1 << 15)).zip(gradient.par_chunks(1 << 15));
        work.for_each(|((back, x), gradient)| {
            for ((back, x), gradient) in back.iter_mut().zip(x).zip(gradient) {
                let s = sigmoid(gelu_exponent(*x));
                let slope = fused(x * x, 3.0 * GELU_CUBIC, GELU_LINEAR);
                *back = gradient * s * fused(x * (1.0 - s), slope, 1.0);
            }
        });
        gradients.register::<Flex>(node.id, FlexTensor::from_data(TensorData::new(back, dims)));
    }
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
}
