//! Limits of files, and the seed, which several nouns share. The ranges of a generation's and a training's parameters
//! are in the crate `requests`.

use requests::in_range;

use crate::{Error, Result};

/// Largest single file, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Most files of one model.
pub const MAX_FILES: usize = 200;

/// The first of `count` seeds: the one that a request states, or a random one. Random seeds are below 2³², the range of
/// a `torch.Generator` on the CPU.
pub(crate) fn seed(requested: Option<i64>, count: u32) -> Result<i64> {
    match requested {
        None | Some(-1) => Ok(i64::from(getrandom::u32().map_err(Error::internal)?)),
        Some(seed) => Ok(in_range("seed", seed, -1..=i64::MAX - i64::from(count.saturating_sub(1)))?),
    }
}

/// Checks a name for people, which need not be unique. Errors: `Invalid`.
pub(crate) fn check_display_name(name: &str, most_chars: usize) -> Result<()> {
    if name.is_empty() || name.chars().count() > most_chars || name.chars().any(|c| c.is_ascii_control()) {
        let message = format!("A name has 1 to {most_chars} characters, none of them a control character.");
        return Err(Error::invalid("name", message));
    }
    Ok(())
}
