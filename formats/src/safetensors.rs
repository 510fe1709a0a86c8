//! The header of a safetensors file (<https://github.com/huggingface/safetensors#format>): eight bytes of length, a
//! JSON object, then the tensors without gaps.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::TensorType;
use crate::header::{Header, MAX_TENSORS, Refusal, Tensor, check_dimensions, check_name};

/// Our size limit of a header, in bytes: trainers store long logs and all tags of a dataset there.
pub const MAX_HEADER_BYTES: u64 = 32 << 20;
/// The size limit of the format itself, in bytes.
const FORMAT_HEADER_BYTES: u64 = 100_000_000;

/// The length of the header, from the first eight bytes of a file of `file_bytes`.
pub fn header_length(first: [u8; 8], file_bytes: u64) -> Result<u64, Refusal> {
    let length = u64::from_le_bytes(first);
    // A header of 640 bytes begins like a pickle of protocol 2, so the length is checked first.
    if (2..=MAX_HEADER_BYTES).contains(&length) && length <= file_bytes.saturating_sub(8) {
        return Ok(length);
    }
    if let Some(refusal) = other_format(&first) {
        return Err(refusal);
    }
    Err(match length {
        0..2 => not_json(),
        2..=MAX_HEADER_BYTES => Refusal::Invalid(format!(
            "the file ends within its header: {file_bytes} bytes of {}",
            length.saturating_add(8)
        )),
        length if length <= FORMAT_HEADER_BYTES => Refusal::Invalid(format!(
            "its header has {length} bytes, and at most {MAX_HEADER_BYTES} are read here (the format allows \
             {FORMAT_HEADER_BYTES}); remove metadata such as training logs"
        )),
        _ => Refusal::Unsupported(format!(
            "not a safetensors file: a header of {length} bytes, and the format allows {FORMAT_HEADER_BYTES}"
        )),
    })
}

/// Errors: the first eight bytes of the file show that the header does not start like a JSON object.
pub(crate) fn check_brace(first: [u8; 8], brace: u8) -> Result<(), Refusal> {
    if brace == b'{' {
        return Ok(());
    }
    Err(other_format(&first).unwrap_or_else(not_json))
}

/// Parses the JSON after the first eight bytes of a file of `file_bytes`.
pub fn parse(json: &[u8], file_bytes: u64) -> Result<Header, Refusal> {
    let raw: RawHeader =
        serde_json::from_slice(json).map_err(|error| Refusal::Invalid(format!("the header is broken: {error}")))?;
    check(raw, 8 + json.len() as u64, file_bytes).map_err(Refusal::Invalid)
}

fn check(raw: RawHeader, data: u64, file_bytes: u64) -> Result<Header, String> {
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, RawTensor { dtype, shape, data_offsets: (from, to) }) in raw.tensors {
        check_name(&name)?;
        check_dimensions(&name, shape.len())?;
        let length = dtype.length(&shape).ok_or_else(|| format!("{name} is larger than any memory: {shape:?}"))?;
        if from > to || to - from != length as u64 {
            return Err(format!("{name} has {shape:?} values, {length} bytes, and claims the bytes {from} to {to}"));
        }
        if data.checked_add(to).is_none_or(|end| end > file_bytes) {
            let there = file_bytes.saturating_sub(data);
            return Err(format!("{name} ends at byte {to} of {there}: the file is cut off"));
        }
        tensors.push((name, Tensor { kind: dtype, shape, start: data + from, length }));
    }
    let header = Header::new(tensors, raw.metadata.unwrap_or_default())?;
    check_gaps(&header, data, file_bytes)?;
    Ok(header)
}

/// Checks that every byte of the data belongs to a tensor.
fn check_gaps(header: &Header, data: u64, file_bytes: u64) -> Result<(), String> {
    let mut order: Vec<(&String, &Tensor)> = header.tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| (tensor.start, tensor.length));
    let mut at = data;
    for (name, tensor) in order {
        if tensor.start != at {
            return Err(format!("{name} leaves a gap before it"));
        }
        at += tensor.length as u64;
    }
    if at == file_bytes { Ok(()) } else { Err(format!("{} bytes follow the last tensor", file_bytes - at)) }
}

fn not_json() -> Refusal {
    Refusal::Unsupported("not a safetensors file: the header is no JSON object".to_owned())
}

/// Detects files of other programs from the first bytes.
fn other_format(start: &[u8; 8]) -> Option<Refusal> {
    let lower = start.to_ascii_lowercase();
    let (what, pickled) = match start {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => ("a zip archive, as pickled PyTorch checkpoints are", true),
        [0x80, 2..=5, ..] => ("a pickle", true),
        [0x89, b'H', b'D', b'F', ..] => ("an HDF5 file", false),
        [0x1f, 0x8b, ..] => ("a gzip archive", false),
        [0x89, b'P', b'N', b'G', ..] => ("a PNG picture", false),
        [0xff, 0xd8, 0xff, ..] => ("a JPEG picture", false),
        b"version " => ("a pointer of Git LFS to the file, not the file", false),
        _ if lower.starts_with(b"<!doc") || lower.starts_with(b"<html") => ("a web page", false),
        _ if start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => ("text", false),
        _ => return None,
    };
    let why = if pickled { ", since a pickle can run code" } else { "" };
    Some(Refusal::Unsupported(format!("this is {what}; only safetensors and GGUF files are read{why}")))
}

/// One value of the header object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: TensorType,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The header object in the order of the file. Readers could disagree about a file with duplicate keys, so duplicate
/// tensors are kept for the check in [`Header`], and duplicate metadata is an error.
#[derive(Default)]
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: Option<BTreeMap<String, String>>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if header.metadata.is_some() {
                            return Err(A::Error::custom("`__metadata__` is there twice"));
                        }
                        let metadata = map.next_value().map_err(|error| {
                            A::Error::custom(format!("`__metadata__` must map strings to strings: {error}"))
                        })?;
                        header.metadata = Some(metadata);
                        continue;
                    }
                    let tensor =
                        map.next_value().map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
                    header.tensors.push((name, tensor));
                    if header.tensors.len() > MAX_TENSORS {
                        return Err(A::Error::custom(format!("it has more than {MAX_TENSORS} tensors")));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
