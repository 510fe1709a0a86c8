//! Whether a JPEG is whole. Decoders show what they have of a picture that was cut off and fill the rest with grey;
//! nothing should be trained on that.

use std::borrow::Cow;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Decodes all of the picture. Errors: the reason, as a clause.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let outline = Outline::of(bytes).ok_or("it is cut off: its end is missing")?;
    let broken = |error: zune_jpeg::errors::DecodeErrors| format!("it is damaged or cut off: {error}");
    let picture = outline.without_rescue(bytes);
    let options = DecoderOptions::default().set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&picture[..]), options.set_strict_mode(false));
    decoder.decode_headers().map_err(broken)?;
    let colours = match decoder.input_colorspace() {
        Some(colours @ (ColorSpace::RGB | ColorSpace::RGBA | ColorSpace::Luma | ColorSpace::LumaA)) => colours,
        _ => ColorSpace::RGB,
    };
    // Oddities in the headers do no harm; missing parts of the picture do.
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(colours).set_strict_mode(true));
    decoder.decode().map(drop).map_err(broken)
}

/// The markers of a JPEG, as far as they show where it ends.
struct Outline {
    /// Position of the marker that ends the picture.
    end: usize,
    scans: usize,
    is_sequential: bool,
}

impl Outline {
    /// `None` if the end is missing.
    fn of(bytes: &[u8]) -> Option<Self> {
        const END: u8 = 0xd9;
        const SCAN: u8 = 0xda;
        let (mut at, mut scans, mut is_sequential) = (2, 0, false);
        loop {
            let marker = next_marker(bytes, &mut at)?;
            match marker {
                END => return Some(Self { end: at - 2, scans, is_sequential }),
                // Markers without a segment: restarts, and what stands for nothing.
                0x01 | 0xd0..=0xd8 => continue,
                SCAN => scans += 1,
                0xc0 | 0xc1 => is_sequential = true,
                _ => {}
            }
            let length = bytes.get(at..at + 2)?;
            at += usize::from(u16::from_be_bytes([length[0], length[1]]));
        }
    }

    /// The picture without its end marker, followed by a few zeros for a decoder that looks ahead. A decoder that
    /// reaches the marker too early takes the rest for black; one that reaches the end of the file fails. Only a
    /// picture of one scan can be decoded without the marker.
    fn without_rescue<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.is_sequential && self.scans == 1 {
            return [&bytes[..self.end], &[0; 16]].concat().into();
        }
        bytes[..self.end + 2].into()
    }
}

/// The next marker at or after `at`, which is moved behind it. A `0xff` in the data of a scan is followed by zero.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let found = bytes.get(*at..)?.iter().position(|byte| *byte == 0xff)?;
        *at += found + 1;
        match *bytes.get(*at)? {
            0xff => {}
            0 => *at += 1,
            marker => {
                *at += 1;
                return Some(marker);
            }
        }
    }
}
