//! The EXIF block of a JPEG or WebP file: the generation parameters as the tag `UserComment`.
//!
//! AUTOMATIC1111's web UI writes the same block with piexif, and its "PNG info" tab, Civitai and the prompt readers for
//! ComfyUI look for it: a big-endian TIFF whose `UserComment` is `UNICODE\0` followed by UTF-16BE. A little-endian
//! block would be valid EXIF, but these programs assume big-endian text. Source:
//! <https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/82a973c04367123ae98bd9abdf80d9eda9b910e2/modules/images.py>.

use formats::picture::{EXIF_IFD, EXIF_VERSION, USER_COMMENT};

/// Field types of TIFF.
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;
/// Bytes of the header and of a directory with one entry and with two.
const HEADER: u32 = 8;
const ONE_ENTRY: u32 = 2 + 12 + 4;
const TWO_ENTRIES: u32 = 2 + 2 * 12 + 4;

/// A TIFF block with `text` as its user comment. The number of bytes is even.
pub(super) fn user_comment(text: &str) -> Vec<u8> {
    let mut comment = b"UNICODE\0".to_vec();
    comment.extend(text.encode_utf16().flat_map(u16::to_be_bytes));

    let exif_ifd = HEADER + ONE_ENTRY;
    let comment_at = exif_ifd + TWO_ENTRIES;
    let mut tiff = b"MM\0\x2a".to_vec();
    tiff.extend(HEADER.to_be_bytes());
    tiff.extend(1u16.to_be_bytes());
    tiff.extend(entry(EXIF_IFD, LONG, 1, exif_ifd.to_be_bytes()));
    tiff.extend(0u32.to_be_bytes());
    tiff.extend(2u16.to_be_bytes());
    tiff.extend(entry(EXIF_VERSION, UNDEFINED, 4, *b"0232"));
    tiff.extend(entry(USER_COMMENT, UNDEFINED, comment.len() as u32, comment_at.to_be_bytes()));
    tiff.extend(0u32.to_be_bytes());
    tiff.extend(comment);
    tiff
}

fn entry(tag: u16, kind: u16, count: u32, value: [u8; 4]) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &kind.to_be_bytes(), &count.to_be_bytes(), &value].concat()
}
