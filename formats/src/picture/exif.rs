//! Texts in an EXIF block, which is a TIFF file: the user comment, the description, and the tags for a camera's make
//! and model, in which ComfyUI stores its graphs as `workflow:{…}` and `prompt:{…}`.
//!
//! Source: [CIPA DC-008](https://www.cipa.jp/std/documents/download_e.html?CIPA_DC-008-2024-E), sections 4.6.2, 4.6.5.

use super::{Texts, latin1, split};

/// The pointer from the first directory to that of EXIF.
pub const EXIF_IFD: u16 = 0x8769;
/// The version of EXIF.
pub const EXIF_VERSION: u16 = 0x9000;
/// A comment with its character set.
pub const USER_COMMENT: u16 = 0x9286;
const DESCRIPTION: u16 = 0x010e;
const MAKE: u16 = 0x010f;
const MODEL: u16 = 0x0110;
/// Bytes of an entry of a directory.
const ENTRY: usize = 12;
/// Most entries of a directory that are read.
const MOST_ENTRIES: usize = 512;

pub(super) fn read(tiff: &[u8], texts: &mut Texts) {
    let big_endian = match tiff.get(..4) {
        Some(b"MM\0\x2a") => true,
        Some(b"II\x2a\0") => false,
        _ => return,
    };
    let tiff = Tiff { bytes: tiff, big_endian };
    let Some(first) = tiff.long(4) else { return };
    for (tag, value) in tiff.entries(first) {
        match tag {
            DESCRIPTION => texts.add("ImageDescription", &text(value)),
            MAKE | MODEL => {
                if let Some((name @ ("prompt" | "workflow"), json)) = text(value).split_once(':') {
                    texts.add(name, json);
                }
            }
            USER_COMMENT => texts.add("UserComment", &comment(value, big_endian)),
            EXIF_IFD => {
                let Some(pointer) = tiff.pointer(value) else { continue };
                for (tag, value) in tiff.entries(pointer) {
                    if tag == USER_COMMENT {
                        texts.add("UserComment", &comment(value, big_endian));
                    }
                }
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy)]
struct Tiff<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl<'a> Tiff<'a> {
    fn short(self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn long(self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) } as usize)
    }

    fn pointer(self, value: &[u8]) -> Option<usize> {
        let bytes = value.get(..4)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) } as usize)
    }

    /// Tags and values of a directory.
    fn entries(self, directory: usize) -> impl Iterator<Item = (u16, &'a [u8])> {
        let count = usize::from(self.short(directory).unwrap_or(0)).min(MOST_ENTRIES);
        (0..count).filter_map(move |number| {
            let at = directory.checked_add(2 + number * ENTRY)?;
            let (tag, kind, count) = (self.short(at)?, self.short(at + 2)?, self.long(at + 4)?);
            // Bytes of a value: BYTE, ASCII and UNDEFINED have one, LONG has four; other kinds hold no text.
            let length = match kind {
                1 | 2 | 7 => count,
                4 => count.checked_mul(4)?,
                _ => return None,
            };
            // A value of up to four bytes is stored in the entry itself.
            let place = if length <= 4 { at + 8 } else { self.long(at + 8)? };
            let (value, _) = split(self.bytes.get(place..)?, length)?;
            Some((tag, value))
        })
    }
}

fn text(value: &[u8]) -> String {
    std::str::from_utf8(value).map_or_else(|_| latin1(value), str::to_owned).trim_end_matches('\0').to_owned()
}

/// A user comment: eight bytes for the character set, and the text.
fn comment(value: &[u8], big_endian: bool) -> String {
    let Some((charset, rest)) = split(value, 8) else { return String::new() };
    match charset {
        b"UNICODE\0" => utf16(rest, big_endian),
        b"ASCII\0\0\0" | b"\0\0\0\0\0\0\0\0" => text(rest),
        _ => text(value),
    }
}

/// Programs disagree about whether the text follows the order of the block, so the order that gives more letters of
/// Latin script wins, and the block's decides a tie.
fn utf16(bytes: &[u8], big_endian: bool) -> String {
    let decoded = |big_endian: bool| -> String {
        let order = if big_endian { u16::from_be_bytes } else { u16::from_le_bytes };
        let units = bytes.chunks_exact(2).map(|pair| order([pair[0], pair[1]]));
        char::decode_utf16(units).map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    let plain = |text: &str| text.chars().filter(char::is_ascii).count();
    let (expected, other) = (decoded(big_endian), decoded(!big_endian));
    let text = if plain(&other) > plain(&expected) { other } else { expected };
    text.trim_start_matches('\u{feff}').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Text;
    use super::*;

    /// A block with one entry of type UNDEFINED or ASCII in the first directory.
    fn block(big_endian: bool, tag: u16, value: &[u8]) -> Vec<u8> {
        let short = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let long = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let head = if big_endian { b"MM\0\x2a" } else { b"II\x2a\0" };
        let entry = [&short(tag)[..], &short(7), &long(value.len() as u32), &long(26)].concat();
        [head, &long(8)[..], &short(1), &entry, &long(0), value].concat()
    }

    fn read_block(block: &[u8]) -> Vec<Text> {
        let mut texts = Texts::default();
        read(block, &mut texts);
        texts.found
    }

    #[test]
    fn comments_in_every_order() {
        let text = "a fox, 狐, café";
        let units =
            |order: fn(u16) -> [u8; 2]| [b"UNICODE\0".to_vec(), text.encode_utf16().flat_map(order).collect()].concat();
        let comments = [
            units(u16::to_be_bytes),
            units(u16::to_le_bytes),
            [&b"ASCII\0\0\0"[..], text.as_bytes()].concat(),
            [&[0; 8][..], text.as_bytes(), b"\0"].concat(),
            text.as_bytes().to_vec(),
        ];
        for big_endian in [true, false] {
            for comment in &comments {
                let found = read_block(&block(big_endian, USER_COMMENT, comment));
                assert_eq!(found, [Text { name: "UserComment".into(), text: text.into() }]);
            }
        }
    }

    #[test]
    fn graphs_of_comfyui() {
        let found = read_block(&block(true, MODEL, b"prompt:{\"3\": {}}\0"));
        assert_eq!(found, [Text { name: "prompt".into(), text: "{\"3\": {}}".into() }]);
        assert_eq!(read_block(&block(true, MODEL, b"EOS 5D: Mark IV")), []);
    }

    #[test]
    fn damage_is_no_text() {
        let whole = block(true, USER_COMMENT, b"ASCII\0\0\0a fox in the snow");
        for length in 0..whole.len() {
            assert_eq!(read_block(&whole[..length]), []);
        }
        for at in 0..26 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                read_block(&damaged);
            }
        }
        // A directory that contains itself.
        let mut circle = block(true, EXIF_IFD, &[0; 4]);
        circle[12..14].copy_from_slice(&4u16.to_be_bytes());
        circle[18..22].copy_from_slice(&8u32.to_be_bytes());
        assert_eq!(read_block(&circle), []);
    }
}
