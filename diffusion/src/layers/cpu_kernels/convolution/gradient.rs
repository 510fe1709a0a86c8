//! The backward pass of a 3×3 convolution with one zero of padding.
//!
//! A padded picture is one flat row of `(height + 2)·(width + 2)` values, so that each of the nine taps is the same
//! row at a different offset and every inner loop is long and contiguous. The two values between output rows are
//! computed and discarded.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::super::lanes::{LANES, fused};
use super::super::{tensor, values};

/// The weights of the backward pass: inputs and outputs swapped, kernels rotated by 180°.
pub(super) fn turned(weight: &FlexTensor) -> FlexTensor {
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

/// Places the gradient of a strided output at the positions of the full-size output.
pub(super) fn spread(gradient: &FlexTensor, [height, width]: [usize; 2]) -> FlexTensor {
    let (gradient, dims) = values(gradient);
    let mut whole = vec![0.0; dims[0] * dims[1] * height * width];
    let half = gradient.storage::<f32>().chunks_exact(dims[2] * dims[3]);
    for (from, to) in half.zip(whole.chunks_exact_mut(height * width)) {
        for (y, row) in from.chunks_exact(dims[3]).enumerate() {
            for (x, value) in row.iter().enumerate() {
                to[(2 * y + 1) * width + 2 * x + 1] = *value;
            }
        }
    }
    tensor(whole, [dims[0], dims[1], height, width])
}

pub(super) fn sum_of_places(gradient: &FlexTensor) -> FlexTensor {
    let (gradient, dims) = values(gradient);
    let mut sums = vec![0.0; dims[1]];
    for (index, plane) in gradient.storage::<f32>().chunks_exact(dims[2] * dims[3]).enumerate() {
        sums[index % dims[1]] += plane.iter().sum::<f32>();
    }
    tensor(sums, [dims[1]])
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
    /// Length of the flat output: all rows without the last two discarded values, padded to whole lanes.
    fn flat(self) -> usize {
        (self.height * self.row() - 2).next_multiple_of(LANES)
    }
    /// Distance between flat outputs.
    fn length(self) -> usize {
        (self.height * self.row()).max(self.flat())
    }
    /// Distance between padded planes: enough for nine windows of a flat output.
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

pub(super) fn weight_gradient(x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let (x, dims) = values(x);
    let (gradient, gradient_dims) = values(gradient);
    let (batch, inputs, outputs) = (dims[0], dims[1], gradient_dims[1]);
    let size = Size { height: dims[2], width: dims[3] };
    let length = size.length();
    let padded: Vec<Vec<f32>> = x.storage::<f32>().par_chunks(inputs * size.places()).map(|x| size.pad(x)).collect();
    let flat: Vec<Vec<f32>> =
        gradient.storage::<f32>().par_chunks(outputs * size.places()).map(|rows| size.flatten(rows)).collect();
    // Small planes are processed several at a time, since summing the lanes would cost more than the products.
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

/// Sums of products of two flat gradients with the nine windows of a padded plane, not yet summed across lanes.
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
