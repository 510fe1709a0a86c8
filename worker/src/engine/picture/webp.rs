//! A picture as WebP, lossy or lossless, with its metadata in the chunks `EXIF` and `XMP `.
//!
//! Source: [RFC 9649](https://www.rfc-editor.org/rfc/rfc9649), section 2.

use std::io;

use ::webp::Encoder;

use super::{Metadata, exif, xmp};

/// Flags of the chunk `VP8X`.
const HAS_EXIF: u8 = 0b1000;
const HAS_XMP: u8 = 0b0100;

/// `pixels` is RGB, 8 bits a channel, row by row; `size` is width and height; `quality` is 1 to 100, and 100 is
/// lossless.
pub(super) fn encode(pixels: &[u8], size: (u32, u32), quality: u8, metadata: &Metadata) -> io::Result<Vec<u8>> {
    let encoder = Encoder::from_rgb(pixels, size.0, size.1);
    let plain = encoder.encode_simple(quality == 100, f32::from(quality));
    let plain = plain.map_err(|error| io::Error::other(format!("libwebp: {error:?}")))?;
    let [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', image @ ..] = &*plain else {
        return Err(io::Error::other("libwebp wrote no WebP"));
    };

    let mut webp = Vec::with_capacity(plain.len() + metadata.parameters.len() * 2 + metadata.recipe.len() + 1024);
    webp.extend(b"RIFF\0\0\0\0WEBP");
    let [width, height] = [size.0, size.1].map(|side| (side - 1).to_le_bytes());
    let features = [&[HAS_EXIF | HAS_XMP, 0, 0, 0][..], &width[..3], &height[..3]].concat();
    chunk(&mut webp, b"VP8X", features);
    let [a, b, c, d, _, _, _, _, data @ ..] = image else {
        return Err(io::Error::other("libwebp wrote no image"));
    };
    chunk(&mut webp, &[*a, *b, *c, *d], data.to_vec());
    chunk(&mut webp, b"EXIF", exif::user_comment(&metadata.parameters));
    let mut packet = xmp::packet(&metadata.recipe);
    if packet.len() % 2 == 1 {
        packet.push(' ');
    }
    chunk(&mut webp, b"XMP ", packet.into_bytes());
    let length = (webp.len() - 8) as u32;
    webp[4..8].copy_from_slice(&length.to_le_bytes());
    Ok(webp)
}

/// Appends a chunk. An odd length is made even with a byte that counts towards it: ComfyUI's reader ignores the
/// uncounted padding byte and loses its position.
fn chunk(webp: &mut Vec<u8>, kind: &[u8; 4], mut data: Vec<u8>) {
    if data.len() % 2 == 1 {
        data.push(0);
    }
    webp.extend(kind);
    webp.extend((data.len() as u32).to_le_bytes());
    webp.extend(data);
}
