//! The ranges of the parameters, shared by the API, which validates requests, and library users without the API.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// A value outside of its range. The message is a sentence for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct OutOfRange {
    pub field: String,
    pub message: String,
}

/// Returns `value` if it is in `range`. `field` is the name used in the error.
pub fn in_range<T: PartialOrd + Display>(field: &str, value: T, range: RangeInclusive<T>) -> Result<T, OutOfRange> {
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!("{value} is outside the range {} to {}.", range.start(), range.end());
    Err(OutOfRange { field: field.to_owned(), message })
}

/// Ranges of [`crate::GenerationParams`].
pub mod generation {
    use std::ops::RangeInclusive;

    pub const NUM_IMAGES: RangeInclusive<u32> = 1..=4;
    pub const STEPS: RangeInclusive<u32> = 1..=200;
    pub const GUIDANCE: RangeInclusive<f64> = 0.0..=30.0;
    pub const STRENGTH: RangeInclusive<f64> = 0.0..=1.0;
    pub const CLIP_SKIP: RangeInclusive<u32> = 0..=11;
    /// Width and height in pixels.
    pub const SIDES: RangeInclusive<u32> = 16..=2048;
    pub const OUTPUT_QUALITY: RangeInclusive<u8> = 1..=100;
}

/// Ranges of [`crate::TrainingParams`].
pub mod training {
    use std::ops::RangeInclusive;

    pub const STEPS: RangeInclusive<u32> = 1..=100_000;
    pub const RANK: RangeInclusive<u32> = 1..=512;
    pub const ALPHA: RangeInclusive<f64> = 0.001..=4096.0;
    pub const LEARNING_RATE: RangeInclusive<f64> = 1e-7..=1.0;
    pub const BATCH_SIZE: RangeInclusive<u32> = 1..=64;
    /// Side in pixels.
    pub const RESOLUTION: RangeInclusive<u32> = 32..=2048;
}
