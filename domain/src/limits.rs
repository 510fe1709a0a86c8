//! Ranges that several nouns keep to, and the checks that name the field which is outside.

use crate::{Error, Result};

/// Smallest and largest side, in pixels.
pub const SIDES: std::ops::RangeInclusive<u32> = 16..=2048;
/// Largest single file, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Most files of one model.
pub const MAX_FILES: usize = 200;

/// The value, if the range has it. Errors: `Invalid`, about `field`.
pub(crate) fn in_range<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Error::invalid(field, format!("{value} is outside the range {} to {}.", range.start(), range.end())))
}

/// A seed that is given, or one that is drawn. Drawn ones stay below 2³², which is what a `torch.Generator` on the CPU takes.
pub(crate) fn seed(requested: Option<i64>) -> Result<i64> {
    match requested {
        None | Some(-1) => Ok(i64::from(getrandom::u32().map_err(Error::internal)?)),
        Some(seed) => in_range("seed", seed, -1..=i64::MAX),
    }
}
