//! The header of a safetensors file, checked: what a stranger's file may claim, and what is refused with a sentence.
//!
//! The format: <https://github.com/huggingface/safetensors>. Eight bytes of length, a JSON object, then the tensors without
//! gaps.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::gguf;
use super::kind::Kind;
use crate::{Error, Result};

/// The longest header, in bytes.
const HEADER_LIMIT: u64 = 8 << 20;
/// The most tensors in a file.
pub(super) const TENSOR_LIMIT: usize = 20_000;
/// The highest rank of a tensor.
pub(super) const RANK_LIMIT: usize = 5;
/// The longest name, in bytes.
pub(super) const NAME_LIMIT: usize = 256;

/// What a file says it holds, and does.
#[derive(Debug)]
pub(super) struct Header {
    pub tensors: Vec<(String, Entry)>,
    pub metadata: BTreeMap<String, String>,
}

/// Where one tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: Kind,
    pub shape: Vec<usize>,
    /// First byte, from the beginning of the file.
    pub start: u64,
    /// Bytes.
    pub length: usize,
}

/// One value of the header object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: Kind,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The header object in the order of the file, duplicates included.
#[derive(Default)]
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: Option<BTreeMap<String, String>>,
    twice: Option<String>,
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
                        if header.metadata.replace(map.next_value()?).is_some() {
                            header.twice = Some(name);
                        }
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Header {
    /// Reads and checks the header of an open file of `size` bytes: safetensors or GGUF, whatever its name says.
    pub fn read(path: &Path, file: &File, size: u64) -> Result<Self> {
        let refused = |reason: String| Error::malformed(path, reason);
        let mut start = [0; 8];
        if size < 8 {
            return Err(refused(format!("{size} bytes are no safetensors file")));
        }
        file.read_exact_at(&mut start, 0).map_err(Error::file(path))?;
        if start.starts_with(gguf::MAGIC) {
            return gguf::read(path, file, size);
        }
        let mut brace = [0];
        file.read_at(&mut brace, 8).map_err(Error::file(path))?;
        let length = u64::from_le_bytes(start);
        // A header of 640 bytes has a length that begins as a pickle does.
        let plausible = brace == *b"{" && length <= size - 8;
        if let Some(other) = other_format(&start).filter(|_| !plausible) {
            return Err(refused(format!("this is {other}; only safetensors and GGUF files are read")));
        }
        if length > HEADER_LIMIT {
            return Err(refused(format!(
                "not a safetensors file: a header of {length} bytes (at most {HEADER_LIMIT})"
            )));
        }
        if length > size - 8 {
            return Err(refused(format!("the file ends within its header: {size} bytes of {}", length + 8)));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 8).map_err(Error::file(path))?;
        if bytes.first() != Some(&b'{') {
            return Err(refused("not a safetensors file: the header is no JSON object".into()));
        }
        let raw: RawHeader =
            serde_json::from_slice(&bytes).map_err(|error| refused(format!("the header is broken: {error}")))?;
        check(raw, 8 + length, size).map_err(refused)
    }
}

fn check(raw: RawHeader, data: u64, size: u64) -> Result<Header, String> {
    if let Some(name) = raw.twice {
        return Err(format!("{name} is there twice"));
    }
    if raw.tensors.len() > TENSOR_LIMIT {
        return Err(format!("{} tensors are more than {TENSOR_LIMIT}", raw.tensors.len()));
    }
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, RawEntry { dtype, shape, data_offsets: (from, to) }) in raw.tensors {
        if name.is_empty() || name.len() > NAME_LIMIT {
            return Err(format!("a tensor's name has {} bytes; 1 to {NAME_LIMIT} is possible", name.len()));
        }
        if shape.len() > RANK_LIMIT {
            return Err(format!("{name} has {} dimensions, more than {RANK_LIMIT}", shape.len()));
        }
        let length = dtype.length(&shape).ok_or_else(|| format!("{name} is larger than any memory: {shape:?}"))?;
        if from > to || to - from != length as u64 {
            return Err(format!("{name} has {shape:?} values, {length} bytes, and claims the bytes {from} to {to}"));
        }
        let end = data.checked_add(to).filter(|end| *end <= size);
        if end.is_none() {
            return Err(format!("{name} ends at byte {to} of {}: the file is cut off", size - data));
        }
        tensors.push((name, Entry { kind: dtype, shape, start: data + from, length }));
    }
    gapless(&tensors, data, size)?;
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("{} is there twice", pair[0]));
    }
    Ok(Header { tensors, metadata: raw.metadata.unwrap_or_default() })
}

/// Every byte belongs to exactly one tensor.
fn gapless(tensors: &[(String, Entry)], data: u64, size: u64) -> Result<(), String> {
    let mut order: Vec<&(String, Entry)> = tensors.iter().collect();
    order.sort_by_key(|(_, entry)| (entry.start, entry.length));
    let mut at = data;
    for (name, entry) in order {
        if entry.start != at {
            let what = if entry.start < at { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(format!("{name} {what}"));
        }
        at += entry.length as u64;
    }
    if at == size { Ok(()) } else { Err(format!("{} bytes follow the last tensor", size - at)) }
}

/// Names what else people call weights, by its first bytes.
fn other_format(start: &[u8; 8]) -> Option<&'static str> {
    match start {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => Some("a zip archive, as pickled PyTorch checkpoints are"),
        [0x80, 2..=5, ..] => Some("a pickle"),
        [0x89, b'H', b'D', b'F', ..] => Some("an HDF5 file"),
        _ => None,
    }
}
