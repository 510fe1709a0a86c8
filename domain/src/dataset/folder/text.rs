//! Captions as bytes and as text.

use crate::Error;

/// A caption without byte order mark and surrounding white space, its lines ending as on Unix.
pub fn clean(caption: &str) -> String {
    caption.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n").trim().to_owned()
}

/// The text of a file. Errors: why it cannot be read, as the end of a sentence.
pub(super) fn read(bytes: &[u8]) -> Result<String, &'static str> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => String::from_utf8(bytes.to_vec()).map_err(|_| "is not UTF-8 text")?,
    };
    if text.contains('\0') {
        return Err("is not text: it holds NUL characters");
    }
    Ok(clean(&text))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, &'static str> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
    if bytes.len() % 2 == 1 {
        return Err("is not UTF-16 text, as its first bytes say");
    }
    String::from_utf16(&units).map_err(|_| "is not UTF-16 text, as its first bytes say")
}

/// The message of an error without its field.
pub(super) fn sentence(error: Error) -> String {
    match error {
        Error::Invalid { message, .. } => message,
        other => other.to_string(),
    }
}
