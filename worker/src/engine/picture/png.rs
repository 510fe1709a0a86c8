//! A picture as PNG, with its metadata in two text chunks: `parameters` and `pyrograph`.

use std::io;

use ::png::{BitDepth, ColorType, Encoder};
use formats::picture::{PARAMETERS, RECIPE};

use super::Metadata;

/// `pixels` is RGB, 8 bits a channel, row by row; `size` is width and height.
pub(super) fn encode(pixels: &[u8], size: (u32, u32), metadata: &Metadata) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(pixels.len() / 2);
    let mut encoder = Encoder::new(&mut bytes, size.0, size.1);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    for (keyword, text) in [(PARAMETERS, &metadata.parameters), (RECIPE, &metadata.recipe)] {
        // tEXt is Latin-1 by the PNG specification; other text needs the international chunk.
        if text.chars().all(|letter| u32::from(letter) < 256) {
            encoder.add_text_chunk(keyword.to_owned(), text.clone())?;
        } else {
            encoder.add_itxt_chunk(keyword.to_owned(), text.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}
