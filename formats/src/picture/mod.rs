//! The texts in the files of pictures: text chunks of PNG, EXIF and XMP of PNG, JPEG and WebP. Pixels are not decoded,
//! checksums are not compared, and a damaged file yields the texts before the damage. What the texts mean is not known
//! here.

mod exif;
mod jpeg;
mod png;
mod webp;
pub mod xmp;

pub use exif::{EXIF_IFD, EXIF_VERSION, USER_COMMENT};

/// Keyword of the PNG chunk with A1111's text of parameters.
pub const PARAMETERS: &str = "parameters";
/// Keyword of the PNG chunk with our recipe.
pub const RECIPE: &str = "pyrograph";

/// Start of an `APP1` segment of a JPEG file with EXIF, with XMP and with extended XMP.
pub const JPEG_EXIF: &[u8] = b"Exif\0\0";
pub const JPEG_XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
pub const JPEG_EXTENDED_XMP: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";

/// Most texts of a file.
const MOST_TEXTS: usize = 64;
/// Longest text, in bytes; the graphs of ComfyUI are the longest.
const LONGEST_TEXT: usize = 8 * 1024 * 1024;
/// Most bytes of all texts.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// A text and the name under which it is stored: a keyword of PNG, a tag of EXIF, or [`RECIPE`] for that in XMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub name: String,
    pub text: String,
}

/// The texts in the order of the file; `None` if it is not a PNG, JPEG or WebP file.
pub fn texts(file: &[u8]) -> Option<Vec<Text>> {
    let mut texts = Texts::default();
    match file {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', chunks @ ..] => png::read(chunks, &mut texts),
        [0xff, 0xd8, segments @ ..] => jpeg::read(segments, &mut texts),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', chunks @ ..] => webp::read(chunks, &mut texts),
        _ => return None,
    }
    Some(texts.found)
}

/// The texts so far, within limits.
#[derive(Default)]
struct Texts {
    found: Vec<Text>,
    bytes: usize,
}

impl Texts {
    /// Adds a text, unless it is empty or the limits are reached.
    fn add(&mut self, name: &str, text: &str) {
        let text = text.trim_end_matches('\0');
        let fits = text.len() <= LONGEST_TEXT && self.bytes + text.len() <= MOST_BYTES;
        if !text.is_empty() && fits && self.found.len() < MOST_TEXTS {
            self.bytes += text.len();
            self.found.push(Text { name: name.to_owned(), text: text.to_owned() });
        }
    }

    fn add_xmp(&mut self, packet: &[u8]) {
        if let Some(recipe) = std::str::from_utf8(packet).ok().and_then(xmp::recipe) {
            self.add(RECIPE, &recipe);
        }
    }
}

/// The first `length` bytes and the rest; `None` if there are fewer.
fn split(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    (length <= bytes.len()).then(|| bytes.split_at(length))
}

/// ISO 8859-1, whose values are those of Unicode.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_picture_has_no_texts() {
        for file in [&b""[..], b"GIF89a", b"\x89PNG", b"RIFF\0\0\0\0WAVE", b"{}"] {
            assert_eq!(texts(file), None);
        }
        for file in [&b"\x89PNG\r\n\x1a\n"[..], b"\xff\xd8", b"RIFF\0\0\0\0WEBP"] {
            assert_eq!(texts(file), Some(Vec::new()));
        }
    }

    #[test]
    fn limits_hold() {
        let mut texts = Texts::default();
        for _ in 0..2 * MOST_TEXTS {
            texts.add("a", "b");
        }
        texts.add("a", &"b".repeat(LONGEST_TEXT + 1));
        assert_eq!(texts.found.len(), MOST_TEXTS);
        let mut texts = Texts::default();
        for _ in 0..4 {
            texts.add("a", &"b".repeat(LONGEST_TEXT));
        }
        assert_eq!(texts.bytes, MOST_BYTES);
    }
}
