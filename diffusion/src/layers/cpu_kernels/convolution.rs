//! 3×3 convolution. flex's own spends most of its time moving data.
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

use super::lanes::{LANES, fused};
use super::{tensor, values};

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
