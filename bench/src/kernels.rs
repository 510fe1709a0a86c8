//! The matrix products and attention of a FLUX.1 step, each alone, and a copy on the device.

use anyhow::Result;
use burn::prelude::*;
use burn::tensor::module::{attention, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Distribution};
use diffusion::device::weight_dtype;

use crate::clock;
use crate::figure::{Figure, Figures};
use crate::scale::Scale;

/// Calls per measurement, since one call is short.
const CALLS: usize = 10;

pub(crate) fn measure(scale: &Scale, device: &Device, figures: &mut Figures) -> Result<()> {
    let dtype = weight_dtype(device);
    let normal = Distribution::Normal(0.0, 1.0);
    for [rows, columns, depth] in &scale.products {
        let x = Tensor::<2>::random([*rows, *depth], normal, (device, dtype));
        // As a linear layer has it: [out, in], read transposed.
        let weight = Tensor::<2>::random([*columns, *depth], Distribution::Normal(0.0, 0.02), (device, dtype));
        let multiply = || (0..CALLS).for_each(|_| drop(linear(x.clone(), weight.clone().transpose(), None)));
        let (_, median) = clock::first_and_median(device, scale.calls, multiply)?;
        let flop = 2.0 * (rows * columns * depth * CALLS) as f64;
        put(figures, format!("product {rows}×{columns}×{depth}"), flop, median)?;
    }
    for [heads, tokens, head] in &scale.attentions {
        let one = || Tensor::<4>::random([1, *heads, *tokens, *head], normal, (device, dtype));
        let (q, k, v) = (one(), one(), one());
        let attend = || {
            for _ in 0..CALLS {
                let options = AttentionModuleOptions::default();
                drop(attention(q.clone(), k.clone(), v.clone(), None, None, options));
            }
        };
        let (_, median) = clock::first_and_median(device, scale.calls, attend)?;
        let flop = 4.0 * (heads * tokens * tokens * head * CALLS) as f64;
        put(figures, format!("attention {heads}×{tokens}×{head}"), flop, median)?;
    }
    let source = Tensor::<1>::ones([scale.copy / 4], (device, DType::F32));
    // Adding creates a new tensor: one read and one write per value.
    let copy = || drop(source.clone() + 1.0);
    let (_, median) = clock::first_and_median(device, scale.calls, copy)?;
    figures.put(Figure::ours("copy on the device", 2.0 * scale.copy as f64 / 1e6 / median, "GB/s"))
}

fn put(figures: &mut Figures, name: String, flop: f64, milliseconds: f64) -> Result<()> {
    figures.put(Figure::ours(name, flop / 1e9 / milliseconds, "TFLOP/s"))
}
