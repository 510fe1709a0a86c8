//! Prompts in the grammar that people write for Stable Diffusion (AUTOMATIC1111's): weights in brackets, and chunks for what
//! is longer than a text encoder reads at once. The families of CLIP alone read it; FLUX takes brackets for text, as diffusers
//! does. Tokens belong to `tokenizers`, networks to `networks`.
//!
//! Of that program's other signs, `[from:to:when]`, `[a|b]` and `AND` mean nothing here and are read as text.

mod chunk;
mod grammar;

pub use chunk::{Chunk, chunks, pad};
pub use grammar::{Piece, parse};

use crate::{Error, Result};

/// The longest prompt, in characters.
pub const LONGEST: usize = 10_000;
/// The most brackets that may be open at once.
pub const DEEPEST: usize = 32;
/// The most chunks of a prompt.
pub const MOST_CHUNKS: usize = 64;
/// The largest weight, and the smallest with its sign turned.
pub const HEAVIEST: f64 = 100.0;

/// Refuses a text of more than [`LONGEST`] characters; `field` is what the request calls it.
pub fn check_length(field: &str, text: &str) -> Result<()> {
    match text.chars().count() {
        length if length > LONGEST => {
            Err(Error::Invalid(format!("{field} has {length} characters, and may have {LONGEST}")))
        }
        _ => Ok(()),
    }
}
