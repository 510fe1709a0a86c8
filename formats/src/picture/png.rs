//! Text chunks of PNG: `tEXt`, `zTXt`, `iTXt`, and EXIF in `eXIf`.
//!
//! Source: [PNG, third edition](https://www.w3.org/TR/png-3/#11textinfo), section 11.3.3.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::{LONGEST_TEXT, Texts, exif, latin1, split};

/// Keyword of a packet of XMP.
const XMP: &str = "XML:com.adobe.xmp";

pub(super) fn read(mut rest: &[u8], texts: &mut Texts) {
    while let Some((head, after)) = split(rest, 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((data, after)) = split(after, length) else { return };
        match &head[4..] {
            b"tEXt" => drop(plain(data, texts)),
            b"zTXt" => drop(compressed(data, texts)),
            b"iTXt" => drop(international(data, texts)),
            b"eXIf" => exif::read(data, texts),
            _ => {}
        }
        // The checksum.
        let Some((_, after)) = split(after, 4) else { return };
        rest = after;
    }
}

/// The bytes before a NUL and those after it.
fn at_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn plain(data: &[u8], texts: &mut Texts) -> Option<()> {
    let (keyword, text) = at_nul(data)?;
    // Latin-1 by the specification; many programs write UTF-8.
    let text = std::str::from_utf8(text).map_or_else(|_| latin1(text), str::to_owned);
    texts.add(&latin1(keyword), &text);
    Some(())
}

fn compressed(data: &[u8], texts: &mut Texts) -> Option<()> {
    let (keyword, rest) = at_nul(data)?;
    let text = inflated(rest.get(1..)?)?;
    let text = String::from_utf8(text).unwrap_or_else(|error| latin1(error.as_bytes()));
    texts.add(&latin1(keyword), &text);
    Some(())
}

/// Keyword, flag and method of compression, language, translated keyword, text in UTF-8.
fn international(data: &[u8], texts: &mut Texts) -> Option<()> {
    let (keyword, rest) = at_nul(data)?;
    let (&is_compressed, rest) = rest.split_first()?;
    let (_, rest) = at_nul(rest.get(1..)?)?;
    let (_, text) = at_nul(rest)?;
    let text = if is_compressed == 1 { inflated(text)? } else { text.to_vec() };
    let keyword = latin1(keyword);
    if keyword == XMP {
        texts.add_xmp(&text);
    } else {
        texts.add(&keyword, &String::from_utf8_lossy(&text));
    }
    Some(())
}

/// `None` if it is damaged or too long.
fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    ZlibDecoder::new(data).take(LONGEST_TEXT as u64 + 1).read_to_end(&mut text).ok()?;
    (text.len() <= LONGEST_TEXT).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::super::{Text, texts};
    use super::*;

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        [&(data.len() as u32).to_be_bytes(), &kind[..], data, &[0; 4]].concat()
    }

    fn deflated(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
    }

    #[test]
    fn every_kind_of_text_is_read() {
        let international = [&b"prompt\0\x01\0\0\0"[..], &deflated("狐".as_bytes())].concat();
        let bytes = file(&[
            chunk(b"IHDR", &[0; 13]),
            chunk(b"tEXt", b"parameters\0caf\xe9"),
            chunk(b"tEXt", "utf\0狐".as_bytes()),
            chunk(b"zTXt", &[&b"workflow\0\0"[..], &deflated(b"{}")].concat()),
            chunk(b"iTXt", &international),
            chunk(b"iTXt", "pyrograph\0\0\0de\0\u{fc}\0{}".as_bytes()),
            chunk(b"tEXt", b"without a value"),
            chunk(b"zTXt", b"broken\0\0not zlib"),
        ]);
        let found = texts(&bytes).unwrap();
        let text = |name: &str, text: &str| Text { name: name.into(), text: text.into() };
        let expected = [
            text("parameters", "café"),
            text("utf", "狐"),
            text("workflow", "{}"),
            text("prompt", "狐"),
            text("pyrograph", "{}"),
        ];
        assert_eq!(found, expected);
        // Any beginning of the file yields a beginning of the texts.
        for length in 8..bytes.len() {
            assert!(expected.starts_with(&texts(&bytes[..length]).unwrap()));
        }
    }

    #[test]
    fn a_small_chunk_does_not_become_a_huge_text() {
        let bomb = [&b"parameters\0\0"[..], &deflated(&vec![b'a'; LONGEST_TEXT + 1])].concat();
        assert_eq!(texts(&file(&[chunk(b"zTXt", &bomb)])), Some(Vec::new()));
    }
}
