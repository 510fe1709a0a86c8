//! Seeds as in PyTorch: `torch.randn` with `torch.Generator("cpu").manual_seed(seed)`.
//!
//! Tolerance: 1e-6 for each value. The generator's words are equal bit for bit; the last digits of logarithm, sine and
//! cosine differ (torch's vectorised ones against the platform's), and f32 has steps of 5e-7 above 4.

use crate::golden::{Golden, largest_difference};
use diffusion::noise::Noise;

const TOLERANCE: f64 = 1e-6;

#[test]
fn a_seed_draws_what_torch_draws() {
    let golden = Golden::open("noise");
    for name in golden.names("randn.") {
        let (seed, size) = name.split_once('.').unwrap();
        let (seed, size): (u64, usize) = (seed.parse().unwrap(), size.parse().unwrap());
        let drawn = Noise::seeded(seed).normal(size);
        let difference = largest_difference(&drawn, golden.values(&format!("randn.{name}")));
        assert!(difference <= TOLERANCE, "seed {seed}, {size} values: {difference:.1e}");
    }
}

#[test]
fn later_draws_continue_like_torch() {
    let golden = Golden::open("noise");
    let sequences: std::collections::BTreeSet<_> =
        golden.names("sequence.").iter().map(|name| name.split_once('.').unwrap().0).collect();
    for sequence in sequences {
        let mut noise = Noise::seeded(42);
        for (i, size) in sequence.split('-').enumerate() {
            let drawn = noise.normal(size.parse().unwrap());
            let difference = largest_difference(&drawn, golden.values(&format!("sequence.{sequence}.{i}")));
            assert!(difference <= TOLERANCE, "draw {i} of {sequence}: {difference:.1e}");
        }
    }
}
