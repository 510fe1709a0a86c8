//! A picture as JPEG, with its metadata in `APP1` segments: EXIF, XMP and, where the recipe is long, extended XMP.
//!
//! Source of the segments: [Adobe, XMP Specification Part 3](https://github.com/adobe/XMP-Toolkit-SDK/tree/main/docs),
//! section 1.1.3.

use std::io;

use ::image::ExtendedColorType;
use ::image::codecs::jpeg::JpegEncoder;
use formats::picture::{JPEG_EXIF as EXIF, JPEG_EXTENDED_XMP as EXTENDED_XMP, JPEG_XMP as XMP};
use md5::{Digest, Md5};

use super::{Metadata, exif, xmp};

/// Maximum size of a segment's content: the length field counts its own bytes too.
const MAX_CONTENT: usize = u16::MAX as usize - 2;
/// Bytes of extended XMP in a segment, as the specification advises.
const EXTENSION_PART: usize = 65_400;

/// `pixels` is RGB, 8 bits a channel, row by row; `size` is width and height; `quality` is 1 to 100.
pub(super) fn encode(pixels: &[u8], size: (u32, u32), quality: u8, metadata: &Metadata) -> io::Result<Vec<u8>> {
    let mut jpeg = Vec::with_capacity(pixels.len() / 4);
    JpegEncoder::new_with_quality(&mut jpeg, quality)
        .encode(pixels, size.0, size.1, ExtendedColorType::Rgb8)
        .map_err(io::Error::other)?;
    let segments: Vec<u8> = contents(metadata).iter().flat_map(|content| segment(content)).collect();
    let place = after_jfif(&jpeg)?;
    jpeg.splice(place..place, segments);
    Ok(jpeg)
}

fn contents(metadata: &Metadata) -> Vec<Vec<u8>> {
    let mut contents = vec![[EXIF, &exif::user_comment(&metadata.parameters)].concat()];
    // A prompt of 10 000 emoji does not fit here; XMP still contains it.
    contents.retain(|content| content.len() <= MAX_CONTENT);
    let whole = [XMP, xmp::packet(&metadata.recipe).as_bytes()].concat();
    if whole.len() <= MAX_CONTENT {
        contents.push(whole);
        return contents;
    }
    let extension = xmp::extension(&metadata.recipe).into_bytes();
    let guid = hex::encode_upper(Md5::digest(&extension));
    contents.push([XMP, xmp::packet_with_extension(&guid).as_bytes()].concat());
    let length = (extension.len() as u32).to_be_bytes();
    for (number, part) in extension.chunks(EXTENSION_PART).enumerate() {
        let offset = ((number * EXTENSION_PART) as u32).to_be_bytes();
        contents.push([EXTENDED_XMP, guid.as_bytes(), &length, &offset, part].concat());
    }
    contents
}

fn segment(content: &[u8]) -> Vec<u8> {
    [&[0xff, 0xe1][..], &((content.len() + 2) as u16).to_be_bytes(), content].concat()
}

/// The position after the start marker and the JFIF header, which has to be the first segment.
fn after_jfif(jpeg: &[u8]) -> io::Result<usize> {
    match jpeg {
        [0xff, 0xd8, 0xff, 0xe0, high, low, ..] => Ok(4 + usize::from(u16::from_be_bytes([*high, *low]))),
        [0xff, 0xd8, ..] => Ok(2),
        _ => Err(io::Error::other("the encoder wrote no JPEG")),
    }
}
