//! EXIF and XMP in the `APP1` segments of JPEG.
//!
//! Source: [Adobe, XMP Specification Part 3](https://github.com/adobe/XMP-Toolkit-SDK/tree/main/docs), section 1.1.3.

use super::{JPEG_EXIF, JPEG_EXTENDED_XMP, JPEG_XMP, LONGEST_TEXT, Texts, exif, split};

/// Bytes before the text of a segment with extended XMP: a digest as 32 digits, whole length, offset.
const EXTENSION_HEAD: usize = 32 + 4 + 4;

pub(super) fn read(mut rest: &[u8], texts: &mut Texts) {
    let mut extended = Vec::new();
    while let [0xff, marker, after @ ..] = rest {
        // Padding, markers without content, and the beginning of the picture's data.
        match marker {
            0xff => {
                rest = &rest[1..];
                continue;
            }
            0x01 | 0xd0..=0xd7 => {
                rest = after;
                continue;
            }
            0xd9 | 0xda => break,
            _ => {}
        }
        let [high, low, ..] = after else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((segment, after)) = split(after, length.max(2)) else { break };
        rest = after;
        let content = &segment[2..];
        if *marker == 0xe1 {
            if let Some(tiff) = content.strip_prefix(JPEG_EXIF) {
                exif::read(tiff, texts);
            } else if let Some(packet) = content.strip_prefix(JPEG_XMP) {
                texts.add_xmp(packet);
            } else if let Some(part) = content.strip_prefix(JPEG_EXTENDED_XMP) {
                extend(&mut extended, part);
            }
        }
    }
    texts.add_xmp(&extended);
}

/// Adds a part of extended XMP that continues the others; writers keep them in order.
fn extend(whole: &mut Vec<u8>, part: &[u8]) {
    let Some((head, text)) = split(part, EXTENSION_HEAD) else { return };
    let offset = u32::from_be_bytes([head[36], head[37], head[38], head[39]]) as usize;
    if offset == whole.len() && whole.len() + text.len() <= LONGEST_TEXT {
        whole.extend_from_slice(text);
    }
}
