//! Finds the header at the beginning of a weight file as its bytes arrive. The format is detected from the content.

use crate::gguf::{self, HeaderError};
use crate::header::{Header, Refusal};
use crate::safetensors;

/// Bytes after which a GGUF header is first parsed. It is parsed again after twice as many, and so on.
const FIRST_PARSE: usize = 64 * 1024;

/// Collects the beginning of a file and keeps only the header.
#[derive(Debug, Default)]
pub struct Sniffer(State);

#[derive(Debug)]
enum State {
    /// Fewer than eight bytes.
    Unknown(Vec<u8>),
    /// The bytes so far, and the offset where the header ends.
    Safetensors { seen: Vec<u8>, end: usize },
    /// The bytes so far, and the number of bytes at which to parse again.
    Gguf { seen: Vec<u8>, parse_at: usize },
    /// The header of a GGUF file.
    Parsed(Header),
}

impl Default for State {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

impl Sniffer {
    /// How many bytes to push next; 0 once the header is complete.
    pub fn wants(&self) -> usize {
        match &self.0 {
            State::Unknown(seen) => 8 - seen.len(),
            State::Safetensors { seen, end } => end - seen.len(),
            State::Gguf { seen, parse_at } => parse_at - seen.len(),
            State::Parsed(_) => 0,
        }
    }

    /// Takes the next bytes of the file. Errors: as soon as the bytes show that the file is rejected.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while self.wants() > 0 && !bytes.is_empty() {
            let (now, rest) = bytes.split_at(self.wants().min(bytes.len()));
            self.take(now)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Takes at most as many bytes as requested.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        match &mut self.0 {
            State::Unknown(seen) => {
                seen.extend_from_slice(bytes);
                if let Some(first) = seen.first_chunk::<8>() {
                    let seen = seen.clone();
                    self.0 = if seen.starts_with(gguf::MAGIC) {
                        State::Gguf { seen, parse_at: FIRST_PARSE }
                    } else {
                        let end = 8 + safetensors::header_length(*first, u64::MAX)? as usize;
                        State::Safetensors { seen, end }
                    };
                }
            }
            State::Safetensors { seen, .. } => {
                seen.extend_from_slice(bytes);
                check_brace(seen)?;
            }
            State::Gguf { seen, parse_at } => {
                seen.extend_from_slice(bytes);
                if seen.len() == *parse_at {
                    match gguf::parse(seen) {
                        Ok(header) => self.0 = State::Parsed(header),
                        Err(HeaderError::Refused(refusal)) => return Err(refusal),
                        // At its limit the parser returns an error instead of asking for more.
                        Err(HeaderError::Short) => *parse_at = (2 * seen.len()).min(gguf::MAX_HEADER_BYTES + 1),
                    }
                }
            }
            State::Parsed(_) => {}
        }
        Ok(())
    }

    /// The header, after the beginning of a file of `file_bytes` was pushed.
    pub fn finish(self, file_bytes: u64) -> Result<Header, Refusal> {
        let header = match self.0 {
            State::Unknown(_) => {
                return Err(Refusal::Invalid(format!("{file_bytes} bytes are no safetensors file")));
            }
            State::Safetensors { seen, .. } => {
                let Some((first, json)) = seen.split_first_chunk::<8>() else { return Err(gguf::cut_off()) };
                // The length was plausible by itself; now it is checked against the size of this file.
                safetensors::header_length(*first, file_bytes)?;
                check_brace(&seen)?;
                return safetensors::parse(json, file_bytes);
            }
            State::Gguf { seen, .. } => match gguf::parse(&seen) {
                Ok(header) => header,
                Err(HeaderError::Refused(refusal)) => return Err(refusal),
                Err(HeaderError::Short) => return Err(gguf::cut_off()),
            },
            State::Parsed(header) => header,
        };
        gguf::check_end(&header, file_bytes)?;
        Ok(header)
    }
}

/// Checks the first byte after the length.
fn check_brace(seen: &[u8]) -> Result<(), Refusal> {
    match (seen.first_chunk::<8>(), seen.get(8)) {
        (Some(first), Some(brace)) => safetensors::check_brace(*first, *brace),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sniffed(bytes: &[u8], size: usize) -> Result<Header, Refusal> {
        let mut sniffer = Sniffer::default();
        bytes.chunks(size).try_for_each(|piece| sniffer.push(piece))?;
        sniffer.finish(bytes.len() as u64)
    }

    fn safetensors(json: &str, data: usize) -> Vec<u8> {
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn the_first_bytes_tell_the_format_in_pieces_of_any_size() {
        let safetensors = safetensors(r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
        let tensor = [&1_u64.to_le_bytes()[..], b"t", &1_u32.to_le_bytes(), &1_u64.to_le_bytes(), &[0; 12]].concat();
        let gguf = [b"GGUF", &3_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &0_u64.to_le_bytes(), &tensor].concat();
        let gguf = [&gguf[..], &vec![0; gguf.len().next_multiple_of(32) - gguf.len() + 4]].concat();
        for file in [&safetensors, &gguf, &[&gguf[..], &vec![0; 200_000]].concat()] {
            for size in [1, 3, 7, 8, 9, file.len()] {
                let header = sniffed(file, size).unwrap();
                assert_eq!((header.tensors["t"].kind, header.shape("t")), (crate::TensorType::F32, Some(&[1][..])));
                let cut = file.len().min(gguf.len()) - 1;
                assert!(sniffed(&file[..cut], size).is_err(), "a file that is cut off");
            }
        }
    }

    #[test]
    fn other_formats_are_unsupported_as_soon_as_their_first_bytes_are_there() {
        for first in [*b"PK\x03\x04\x14\0\0\0", *b"\x80\x02}q\0\0\0\0", *b"\x1f\x8b\x08\x08\0\0\0\0", [0xff; 8], [0; 8]]
        {
            assert!(matches!(Sniffer::default().push(&first), Err(Refusal::Unsupported(_))), "{first:?}");
        }
        assert!(Sniffer::default().finish(0).is_err());
        // A header of 640 bytes starts like a pickle.
        let mut sniffer = Sniffer::default();
        sniffer.push(&640_u64.to_le_bytes()).unwrap();
        assert!(sniffer.push(b"(").is_err(), "no JSON object");
    }

    #[test]
    fn what_a_server_sends_instead_is_named() {
        for (first, named) in [
            (&b"<!DOCTYPE html>"[..], "a web page"),
            (b"<html lang='en'>", "a web page"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a JPEG picture"),
            (b"version https://git-lfs", "a pointer of Git LFS"),
            (b"404: Not Found\n", "text"),
        ] {
            let Err(Refusal::Unsupported(why)) = sniffed(first, 4) else { panic!("{named} is read") };
            assert!(why.starts_with(&format!("this is {named}")), "{why}");
        }
    }

    #[test]
    fn a_long_header_is_read_up_to_our_limit() {
        let long = |bytes: usize| {
            let tensor = r#""t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
            safetensors(&format!(r#"{{"__metadata__":{{"log":"{}"}},{tensor}}}"#, "x".repeat(bytes)), 4)
        };
        assert_eq!(sniffed(&long(30 << 20), 1 << 20).unwrap().metadata["log"].len(), 30 << 20);
        let Err(Refusal::Invalid(reason)) = sniffed(&long(33 << 20), 1 << 20) else { panic!("33 MiB are read") };
        assert!(reason.contains("at most 33554432 are read here"), "{reason}");
        let beyond = Sniffer::default().push(&100_000_001_u64.to_le_bytes()).unwrap_err();
        assert!(matches!(&beyond, Refusal::Unsupported(reason) if reason.contains("the format allows")), "{beyond:?}");
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        let tensor = |entry: &str| format!(r#"{{"t":{entry}}}"#);
        let fine = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        assert!(sniffed(&safetensors(&tensor(fine), 8), 5).is_ok());
        assert!(
            sniffed(&safetensors(&format!(r#"{{"a b.安原絵麻":{fine}}}"#), 8), 5).is_ok(),
            "a name that a user typed"
        );
        for kind in ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "BOOL"] {
            let width = TensorType::length(serde_json::from_str(&format!("\"{kind}\"")).unwrap(), &[8]).unwrap();
            let entry = format!(r#"{{"dtype":"{kind}","shape":[8],"data_offsets":[0,{width}]}}"#);
            assert!(sniffed(&safetensors(&tensor(&entry), width), 64).is_ok(), "{kind}");
        }
        for (what, json, data) in [
            ("an unknown dtype", tensor(r#"{"dtype":"F4","shape":[2],"data_offsets":[0,1]}"#), 1),
            ("a block format", tensor(r#"{"dtype":"Q8_0","shape":[32],"data_offsets":[0,34]}"#), 34),
            ("a control character in a name", format!(r#"{{"t\n":{fine}}}"#), 8),
            ("a long name", format!(r#"{{"{}":{fine}}}"#, "t".repeat(257)), 8),
            ("a tensor twice", format!(r#"{{"t":{fine},"t":{fine}}}"#), 8),
            ("metadata twice", format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},"t":{fine}}}"#), 8),
            ("a field twice", tensor(r#"{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}"#), 8),
            ("no tensors", "{}".to_owned(), 0),
        ] {
            assert!(matches!(sniffed(&safetensors(&json, data), 64), Err(Refusal::Invalid(_))), "{what}");
        }
    }

    use crate::TensorType;
}
