//! EXIF and XMP in the chunks of WebP.
//!
//! Source: [RFC 9649](https://www.rfc-editor.org/rfc/rfc9649), section 2.

use super::{JPEG_EXIF, Texts, exif, split};

pub(super) fn read(mut rest: &[u8], texts: &mut Texts) {
    while let Some((head, after)) = split(rest, 8) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let Some((data, after)) = split(after, length) else { return };
        match &head[..4] {
            // Some programs write the prefix that JPEG needs.
            b"EXIF" => exif::read(data.strip_prefix(JPEG_EXIF).unwrap_or(data), texts),
            b"XMP " => texts.add_xmp(data),
            _ => {}
        }
        rest = &after[(length % 2).min(after.len())..];
    }
}
