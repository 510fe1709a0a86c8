//! Pictures inside a request, as `data:` URIs (RFC 2397). Base64 is read as people write it: with the line breaks of
//! MIME, without padding, in the alphabet of URLs, percent-encoded. What the picture is, its bytes say, not the media
//! type in front of them.

use std::borrow::Cow;

use base64::DecodeError;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use uuid::Uuid;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A picture that a request refers to.
pub(super) enum Reference {
    /// Id of an input or an artifact.
    Id(Uuid),
    /// The picture itself.
    Bytes(Bytes),
}

/// Errors: the reason, as a sentence.
pub(super) fn read(text: &str) -> Result<Reference, String> {
    let text = text.trim();
    if let Some(rest) = text.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:")).map(|_| &text[5..]) {
        return decode(rest).map(Reference::Bytes);
    }
    text.parse().map(Reference::Id).map_err(|_| {
        if ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
            "It is a URL; send the picture to `POST /v1/inputs` and name its id, or write it as a data URI."
        } else if text.len() > 64 && text.bytes().all(is_base64) {
            "It looks like base64; write `data:image/png;base64,` in front of it."
        } else {
            "It is neither the id of an input or artifact nor a data URI with a picture."
        }
        .to_owned()
    })
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_=\r\n".contains(&byte)
}

/// Decodes what follows `data:`.
fn decode(rest: &str) -> Result<Bytes, String> {
    let example = "as in `data:image/png;base64,iVBOR…`";
    let (head, data) = rest.split_once(',').ok_or_else(|| format!("The data URI has no comma, {example}."))?;
    if !head.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64")) {
        return Err(format!("The data URI does not hold base64, {example}."));
    }
    let data: Cow<[u8]> = percent_decode_str(data).into();
    let data: Vec<u8> = data
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    if data.is_empty() {
        return Err(format!("The data URI holds nothing behind its comma, {example}."));
    }
    BASE64.decode(&data).map(Bytes::from).map_err(|error| match error {
        DecodeError::InvalidByte(at, _) => format!(
            "The data URI is not base64: character {} behind the comma, `{}`, is not of its alphabet.",
            at + 1,
            first_character(&data[at..])
        ),
        DecodeError::InvalidLength(_) | DecodeError::InvalidLastSymbol(..) | DecodeError::InvalidPadding => {
            "The base64 of the data URI is cut off: its last group of four characters is incomplete.".to_owned()
        }
    })
}

/// As it is shown; a byte that begins no character, as it is percent-encoded.
fn first_character(bytes: &[u8]) -> String {
    match bytes.utf8_chunks().next() {
        Some(chunk) if let Some(character) = chunk.valid().chars().next() => character.escape_debug().to_string(),
        Some(chunk) => percent_encode(chunk.invalid(), NON_ALPHANUMERIC).to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        match read(text) {
            Ok(Reference::Bytes(bytes)) => bytes.to_vec(),
            Ok(Reference::Id(id)) => panic!("{text}: the id {id}"),
            Err(why) => panic!("{text}: {why}"),
        }
    }

    #[test]
    fn base64_is_read_as_people_write_it() {
        let expected = [0xfb, 0xef, 0xff, 0x00, 0x01];
        for text in [
            "data:image/png;base64,++//AAE=",
            "data:image/png;base64,++//AAE",
            "data:image/png;base64,--__AAE",
            "data:image/png;base64,++//\r\nAAE=\r\n",
            "data:image/png;base64, ++// AAE=",
            "data:image/png;base64,%2B%2B%2F%2FAAE%3D",
            "DATA:image/png;name=fox.png;BASE64,++//AAE=",
            "data:;base64,++//AAE=",
            "\ndata:application/octet-stream;base64,++//AAE=",
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        assert!(matches!(read(" 0198c5a0-0000-7000-8000-000000000000 "), Ok(Reference::Id(_))));
    }

    #[test]
    fn what_cannot_be_read_is_explained() {
        let base64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
        for (text, part) in [
            ("data:image/png,plain", "does not hold base64"),
            ("data:image/png;base64", "no comma"),
            ("data:image/png;base64,", "holds nothing"),
            ("data:image/png;base64,AAA#", "character 4 behind the comma, `#`"),
            ("data:image/png;base64,AAé=", "character 3 behind the comma, `é`"),
            ("data:image/png;base64,A😀A=", "`😀`"),
            ("data:image/png;base64,A%C3%A9", "`é`"),
            ("data:image/png;base64,A%C3", "`%C3`"),
            ("data:image/png;base64,A%00", "`\\0`"),
            ("data:image/png;base64,AAAAA", "cut off"),
            ("https://example.com/fox.png", "POST /v1/inputs"),
            (base64, "in front of it"),
            ("a fox.png", "neither the id"),
        ] {
            match read(text) {
                Err(why) => assert!(why.contains(part), "{text}: {why}"),
                Ok(_) => panic!("{text} was read"),
            }
        }
    }
}
