//! Stable Diffusion in one file as ldm writes it, made from tensors with arbitrary values.

use std::fs;

use crate::flux_files::Tensors;
use crate::model::golden;

/// A tiny Stable Diffusion 1.5 in one file as ldm writes it, with arbitrary values that keep activations near 1.
pub fn stable_diffusion() -> Tensors {
    let list = fs::read_to_string(golden("keys/tiny_sd1.single.txt")).expect("a list");
    let mut all = Tensors::new();
    for (at, line) in list.lines().enumerate() {
        let mut words = line.split(' ');
        let (name, shape) = (words.next().expect("a name"), words.next().expect("a shape"));
        let mut shape: Vec<usize> = shape.split('x').filter_map(|side| side.parse().ok()).collect();
        if name.ends_with("token_embedding.weight") {
            shape[0] = 49_408;
        }
        if name == "model.diffusion_model.input_blocks.0.0.weight" {
            shape[1] = 4;
        }
        let inputs: usize = shape.iter().skip(1).product();
        let spread = 1.4 / (inputs.max(1) as f32).sqrt();
        let random = |number: usize| {
            let mixed = ((at * 7919 + number) as u32).wrapping_mul(0x9E37_79B9) >> 8;
            (mixed as f32 / (1 << 23) as f32 - 1.0) * spread
        };
        let count = shape.iter().product();
        let values = match shape.len() {
            0 | 1 => vec![if name.ends_with(".weight") { 1.0 } else { 0.0 }; count],
            _ => (0..count).map(random).collect(),
        };
        all.insert(name.to_owned(), (shape, values));
    }
    all
}
