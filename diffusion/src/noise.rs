//! Sampling randomness: a generator that reproduces `torch.Generator("cpu")`, so that a seed gives the same picture
//! here and in diffusers. Pipelines and trainers use the draws.
//!
//! Matsumoto and Nishimura, "Mersenne Twister", 1998 (mt19937), and Box and Muller, "A Note on the Generation of
//! Random Normal Deviates", 1958, in the two layouts of PyTorch's CPU kernels.

use burn::prelude::*;

use crate::{Error, Result};

/// Words of the Mersenne Twister's state.
const WORDS: usize = 624;
/// Distance of the words that are mixed.
const SHIFT: usize = 397;
/// Chunk size for drawing normals, if there are at least this many.
const CHUNK: usize = 16;

/// A seeded generator. Equal seeds and calls give equal values on every machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Noise {
    words: Vec<u32>,
    next: usize,
    /// The second of a pair of normals, kept for the next draw of fewer than 16.
    spare: Option<f64>,
}

impl Noise {
    /// Equal to `torch.Generator("cpu").manual_seed(seed)`: only the low 32 bits of the seed are used.
    pub fn seeded(seed: u64) -> Self {
        let mut words = Vec::with_capacity(WORDS);
        let mut word = seed as u32;
        words.push(word);
        for index in 1..WORDS as u32 {
            word = 1_812_433_253u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(index);
            words.push(word);
        }
        Self { words, next: WORDS, spare: None }
    }

    /// 32 uniform bits.
    pub fn bits(&mut self) -> u32 {
        if self.next == WORDS {
            self.refill();
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for at in 0..WORDS {
            let joined = (self.words[at] & 0x8000_0000) | (self.words[(at + 1) % WORDS] & 0x7fff_ffff);
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[at] = self.words[(at + SHIFT) % WORDS] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }

    /// A number in [0, 1) with 24 random bits, like one value of `torch.rand` in f32.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// A number in [0, 1) with 53 random bits.
    fn uniform_double(&mut self) -> f64 {
        let (high, low) = (u64::from(self.bits()), u64::from(self.bits()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// An integer in [0, limit), like one value of `torch.randint(limit)`. `limit` is at least 1 and at most 2²⁸.
    pub fn below(&mut self, limit: usize) -> usize {
        self.bits() as usize % limit.max(1)
    }

    /// The numbers 0 .. `count` in random order, like `torch.randperm`.
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for at in 0..count.saturating_sub(1) {
            let other = at + self.below(count - at);
            order.swap(at, other);
        }
        order
    }

    /// `count` standard normal values, like `torch.randn(count)` in f32.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < CHUNK {
            return (0..count).map(|_| self.normal_double() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        for chunk in values.chunks_exact_mut(CHUNK) {
            box_muller(chunk);
        }
        if !count.is_multiple_of(CHUNK) {
            // The last chunk overlaps the previous one, whose values are drawn again.
            let last = &mut values[count - CHUNK..];
            last.fill_with(|| self.uniform());
            box_muller(last);
        }
        values
    }

    /// Like `torch.randn(shape)` in f32.
    pub fn normal_tensor<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let values = self.normal(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn normal_double(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let (turn, height) = (self.uniform_double(), self.uniform_double());
        let radius = (-2.0 * (-height).ln_1p()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * turn).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// The whole state, for a training checkpoint.
    pub fn to_bytes(&self) -> Vec<u8> {
        let spare = self.spare.map_or([0; 9], |value| {
            let mut bytes = [1; 9];
            bytes[1..].copy_from_slice(&value.to_le_bytes());
            bytes
        });
        let words = self.words.iter().flat_map(|word| word.to_le_bytes());
        words.chain((self.next as u32).to_le_bytes()).chain(spare).collect()
    }

    /// The inverse of [`Noise::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refused = || Error::Invalid("not the state of a random generator".into());
        let (words, rest) = bytes.split_at_checked(4 * WORDS).ok_or_else(refused)?;
        let (next, spare) = rest.split_first_chunk::<4>().ok_or_else(refused)?;
        let (flag, spare) = spare.split_first().ok_or_else(refused)?;
        let spare: [u8; 8] = spare.try_into().map_err(|_| refused())?;
        let (words, _) = words.as_chunks::<4>();
        let next = u32::from_le_bytes(*next) as usize;
        if next > WORDS || *flag > 1 {
            return Err(refused());
        }
        Ok(Self {
            words: words.iter().map(|word| u32::from_le_bytes(*word)).collect(),
            next,
            spare: (*flag == 1).then(|| f64::from_le_bytes(spare)),
        })
    }
}

/// Turns 16 uniform values into 16 normals: the first half gives radii, the second half angles. In f32 where the
/// reference is, so that angles round the same.
fn box_muller(chunk: &mut [f32]) {
    let (first, second) = chunk.split_at_mut(CHUNK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * f64::from(1.0 - *a).ln()).sqrt();
        let angle = std::f32::consts::TAU * *b;
        let (sin, cos) = f64::from(angle).sin_cos();
        (*a, *b) = ((radius * cos) as f32, (radius * sin) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_published_mt19937() {
        // The reference implementation's 10 000th output for seed 5489, as given in the C++ standard.
        let mut noise = Noise::seeded(5489);
        let last = (0..10_000).map(|_| noise.bits()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn normals_are_standard_normal() {
        let values = Noise::seeded(7).normal(100_003);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut order = Noise::seeded(1).permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_saved_state_continues_alike() {
        let mut noise = Noise::seeded(3);
        noise.normal(5); // an odd number: one normal is kept
        noise.normal(40);
        let mut again = Noise::from_bytes(&noise.to_bytes()).unwrap();
        assert_eq!(noise, again);
        assert_eq!(noise.normal(7), again.normal(7));
        assert_eq!(noise.permutation(700), again.permutation(700));
    }

    #[test]
    fn a_broken_state_is_refused() {
        let bytes = Noise::seeded(3).to_bytes();
        assert!(Noise::from_bytes(&bytes[1..]).is_err());
        assert!(Noise::from_bytes(&[]).is_err());
        let mut bad = bytes.clone();
        bad[4 * WORDS..4 * WORDS + 4].copy_from_slice(&9999u32.to_le_bytes());
        assert!(Noise::from_bytes(&bad).is_err());
    }
}
