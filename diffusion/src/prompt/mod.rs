//! Prompts in AUTOMATIC1111's grammar for Stable Diffusion: weights in brackets, and chunks for prompts that are
//! longer than the text encoder's input. Only the CLIP families use it; FLUX treats brackets as text, as diffusers
//! does. Tokens belong to `tokenizers`, text encoders to `networks`.
//!
//! A1111's `[from:to:when]`, `[a|b]` and `AND` are not supported and are read as text. Tags such as `<lora:ink:0.8>`
//! are removed before a prompt gets here (`requests::prompt`).

mod chunk;
mod grammar;

pub use chunk::{Chunk, chunks, pad, plain_chunks};
pub use grammar::{Piece, parse};

use crate::{Error, Result};

/// The longest prompt, in characters.
pub const LONGEST: usize = 10_000;
/// Most brackets open at once.
pub const DEEPEST: usize = 32;
/// Most chunks of a prompt.
pub const MOST_CHUNKS: usize = 64;
/// Largest magnitude of a weight.
pub const HEAVIEST: f64 = 100.0;

/// Rejects a text of more than [`LONGEST`] characters. `field` is its name in the request.
pub fn check_length(field: &str, text: &str) -> Result<()> {
    match text.chars().count() {
        length if length > LONGEST => {
            Err(Error::Invalid(format!("{field} has {length} characters, and may have {LONGEST}")))
        }
        _ => Ok(()),
    }
}
