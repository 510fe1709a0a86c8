//! The gate for files of weights, whatever their name says: told by their first bytes to be safetensors or GGUF, or refused. What
//! each format may claim is in `safetensors_gate` and `gguf_gate`.

use crate::gguf_gate::{self, HeaderError};
use crate::safetensors_gate::{self, Header, invalid};
use crate::{Error, Result, Storage};

/// Bytes after which a GGUF header is looked for first; it is looked for again at twice as many, and so on.
const FIRST_LOOK: usize = 64 * 1024;

/// Watches the beginning of a file that streams by, keeping the header and nothing more.
#[derive(Debug, Default)]
pub struct Sniffer(Format);

#[derive(Debug)]
enum Format {
    Unknown(Vec<u8>),
    Safetensors(safetensors_gate::Sniffer),
    /// What was seen, and after how many bytes it is worth another look.
    Gguf {
        seen: Vec<u8>,
        look_at: usize,
    },
    /// The header of a GGUF file, and how far its tensors reach.
    Known(Header, u64),
}

impl Default for Format {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

impl Sniffer {
    /// The next bytes of the file. Fails as soon as they show that it is no file of weights.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.0 {
            Format::Unknown(seen) => {
                seen.extend_from_slice(bytes);
                if seen.len() >= gguf_gate::MAGIC.len() {
                    let seen = std::mem::take(seen);
                    self.0 = match seen.starts_with(gguf_gate::MAGIC) {
                        true => Format::Gguf { seen: Vec::new(), look_at: FIRST_LOOK },
                        false => Format::Safetensors(safetensors_gate::Sniffer::default()),
                    };
                    return self.push(&seen);
                }
            }
            Format::Safetensors(sniffer) => sniffer.push(bytes)?,
            Format::Gguf { seen, look_at } => {
                seen.extend_from_slice(&bytes[..bytes.len().min(gguf_gate::MAX_HEADER_BYTES - seen.len())]);
                if seen.len() >= *look_at || seen.len() == gguf_gate::MAX_HEADER_BYTES {
                    *look_at = 2 * seen.len();
                    match gguf_gate::header(seen) {
                        Ok((header, end)) => self.0 = Format::Known(header, end),
                        Err(HeaderError::Refused(error)) => return Err(error),
                        Err(HeaderError::Short) => {}
                    }
                }
            }
            Format::Known(..) => {}
        }
        Ok(())
    }

    /// Whether the whole header has been seen.
    fn is_done(&self) -> bool {
        matches!(self.0, Format::Known(..))
    }

    /// The header, once all `file_bytes` have streamed by.
    pub fn finish(self, file_bytes: u64) -> Result<Header> {
        let (header, end) = match self.0 {
            Format::Unknown(_) => return Err(invalid("it is shorter than eight bytes")),
            Format::Safetensors(sniffer) => return sniffer.finish(file_bytes),
            Format::Gguf { seen, .. } => match gguf_gate::header(&seen) {
                Ok(found) => found,
                Err(HeaderError::Refused(error)) => return Err(error),
                Err(HeaderError::Short) => return Err(cut_off()),
            },
            Format::Known(header, end) => (header, end),
        };
        if end > file_bytes { Err(cut_off()) } else { Ok(header) }
    }
}

fn cut_off() -> Error {
    Error::invalid("file", "The GGUF file is refused: it is cut off.")
}

/// The header of a file of `file_bytes` bytes that lies in storage.
pub async fn stored(storage: &Storage, key: &str, file_bytes: u64) -> Result<Header> {
    let first = storage.get_range(key, 0..file_bytes.min(8)).await?;
    let mut sniffer = Sniffer::default();
    if first.starts_with(gguf_gate::MAGIC) {
        let (mut at, mut piece) = (0, FIRST_LOOK as u64);
        while at < file_bytes && !sniffer.is_done() {
            let bytes = storage.get_range(key, at..file_bytes.min(at + piece)).await?;
            sniffer.push(&bytes)?;
            at += bytes.len() as u64;
            piece = at;
        }
    } else if let Some(first) = first.first_chunk::<8>() {
        let length = safetensors_gate::header_length(*first, file_bytes)?;
        sniffer.push(first)?;
        sniffer.push(&storage.get_range(key, 8..8 + length).await?)?;
    }
    sniffer.finish(file_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_format_in_pieces_of_any_size() {
        let json = br#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let safetensors = [&(json.len() as u64).to_le_bytes()[..], json, &[0; 4]].concat();
        let tensor = [&1_u64.to_le_bytes()[..], b"t", &1_u32.to_le_bytes(), &1_u64.to_le_bytes(), &[0; 12]].concat();
        let gguf = [b"GGUF", &3_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &0_u64.to_le_bytes(), &tensor].concat();
        let gguf = [&gguf[..], &vec![0; gguf.len().next_multiple_of(32) - gguf.len() + 4]].concat();
        for file in [&safetensors, &gguf, &[&gguf[..], &vec![0; 200_000]].concat()] {
            for size in [1, 3, 7, file.len()] {
                let sniffed = |bytes: &[u8]| {
                    let mut sniffer = Sniffer::default();
                    bytes.chunks(size).try_for_each(|piece| sniffer.push(piece))?;
                    sniffer.finish(bytes.len() as u64)
                };
                let header = sniffed(file).unwrap();
                assert_eq!((&header.tensors["t"].dtype[..], &header.tensors["t"].shape[..]), ("F32", &[1][..]));
                let cut = file.len().min(gguf.len()) - 1;
                assert!(sniffed(&file[..cut]).is_err(), "a file that is cut off");
            }
        }
        assert!(Sniffer::default().push(b"PK\x03\x04\x14\0\0\0\x08\0").is_err());
    }
}
