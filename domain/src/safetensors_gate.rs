//! The gate for uploaded weights: reads the header of a safetensors file and nothing else, refuses by content what is not one
//! (pickle, zip, gzip). What the tensors are told to be is read in `model::family`; whether each key fits a network is the engine's
//! to judge, strictly, when it loads the file. Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::Deserialize;

use crate::{Error, Result};

/// Largest header, in bytes.
pub const MAX_HEADER_BYTES: u64 = 8 * 1024 * 1024;
/// Most tensors in one file.
pub const MAX_TENSORS: usize = 20_000;
pub(crate) const MAX_NAME_BYTES: usize = 256;
pub(crate) const MAX_DIMENSIONS: usize = 5;
/// Highest rank of a LoRA.
pub(crate) const MAX_RANK: u64 = 512;
const FIELD: &str = "file";

/// One tensor as the header states it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data_offsets: [u64; 2],
}

/// A header that passed the gate.
#[derive(Clone, Debug)]
pub struct Header {
    pub tensors: BTreeMap<String, Tensor>,
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Whether the name of a tensor begins so.
    pub(crate) fn has(&self, start: &str) -> bool {
        let from = (Bound::Included(start), Bound::Unbounded);
        self.tensors.range::<str, _>(from).next().is_some_and(|(name, _)| name.starts_with(start))
    }

    /// The file as an adapter. Errors: `Invalid` for what is none that can be used.
    pub(crate) fn adapter(&self) -> Result<formats::adapter::Inspection> {
        let shapes: Vec<(&str, Vec<usize>)> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (&name[..], tensor.shape.iter().map(|side| *side as usize).collect()))
            .collect();
        let shapes = shapes.iter().map(|(name, shape)| (*name, shape.as_slice()));
        formats::adapter::inspect(shapes, &self.metadata).map_err(invalid)
    }

    /// Whether the name of a tensor, or the rest of one after a dot, begins so.
    pub(crate) fn has_anywhere(&self, start: &str) -> bool {
        self.tensors.keys().any(|name| name.match_indices(start).any(|(at, _)| at == 0 || name[..at].ends_with('.')))
    }
}

/// How many bytes the header takes, from the first eight of the file; `file_bytes` is the length of the whole.
pub fn header_length(first: [u8; 8], file_bytes: u64) -> Result<u64> {
    let length = u64::from_le_bytes(first);
    if (2..=MAX_HEADER_BYTES).contains(&length) && length <= file_bytes.saturating_sub(8) {
        return Ok(length);
    }
    // A header of 640 bytes begins like a pickle of protocol 2, so the length is asked first.
    if first[0] == 0x80 || first.starts_with(b"PK\x03\x04") || first.starts_with(&[0x1f, 0x8b]) {
        return Err(Error::unsupported(
            FIELD,
            "The file is a pickle or an archive. Only safetensors files are read, since a pickle can run code.",
        ));
    }
    Err(Error::unsupported(FIELD, "The file is not a safetensors file: its header length makes no sense."))
}

/// Watches the beginning of a file that streams by, keeping the header and nothing more.
#[derive(Debug, Default)]
pub struct Sniffer {
    seen: Vec<u8>,
}

impl Sniffer {
    /// The next bytes of the file. Fails as soon as they show that the file is no safetensors file.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let missing = self.needed()?.saturating_sub(self.seen.len());
        self.seen.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        // The first eight bytes may just have told how much more is wanted.
        let more = self.needed()?.saturating_sub(self.seen.len());
        let rest = &bytes[missing.min(bytes.len())..];
        self.seen.extend_from_slice(&rest[..more.min(rest.len())]);
        match self.seen.get(8) {
            Some(first) if *first != b'{' => Err(invalid("the header does not begin with `{`")),
            _ => Ok(()),
        }
    }

    /// The header, once all `file_bytes` have streamed by.
    pub fn finish(self, file_bytes: u64) -> Result<Header> {
        let first = self.seen.first_chunk::<8>().ok_or_else(|| invalid("it is shorter than eight bytes"))?;
        let length = header_length(*first, file_bytes)? as usize;
        let json = self.seen.get(8..8 + length).ok_or_else(|| invalid("it ends within the header"))?;
        header(json, file_bytes)
    }

    fn needed(&self) -> Result<usize> {
        match self.seen.first_chunk::<8>() {
            None => Ok(8),
            Some(first) => Ok(8 + header_length(*first, u64::MAX)? as usize),
        }
    }
}

/// Checks the JSON header (without the eight bytes before it) against the length of the whole file.
pub fn header(json: &[u8], file_bytes: u64) -> Result<Header> {
    if json.first() != Some(&b'{') {
        return Err(invalid("the header does not begin with `{`"));
    }
    let Entries { tensors: entries, metadata } = serde_json::from_slice(json)
        .map_err(|error| invalid(format!("the header is not as the format wants it ({error})")))?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in entries {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("a tensor's name must be 1 to 256 printable ASCII characters"));
        }
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(invalid(format!("tensor `{name}` is there twice")));
        }
    }
    if tensors.is_empty() || tensors.len() > MAX_TENSORS {
        return Err(invalid(format!("it holds {} tensors; 1 to {MAX_TENSORS} are allowed", tensors.len())));
    }
    check_layout(&tensors, file_bytes - 8 - json.len() as u64)?;
    Ok(Header { tensors, metadata: metadata.unwrap_or_default() })
}

/// Every byte of the data belongs to exactly one tensor.
fn check_layout(tensors: &BTreeMap<String, Tensor>, data_bytes: u64) -> Result<()> {
    let mut spans = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        // Whole numbers count positions in many a checkpoint, and nobody reads them.
        let width = match tensor.dtype.as_str() {
            "F64" | "I64" | "U64" => 8,
            "F32" | "I32" | "U32" => 4,
            "F16" | "BF16" | "I16" | "U16" => 2,
            "F8_E4M3" | "F8_E5M2" | "I8" | "U8" | "BOOL" => 1,
            other => {
                return Err(invalid(format!("tensor `{name}` has dtype {other}; F32, F16, BF16 and F8 are read")));
            }
        };
        if tensor.shape.len() > MAX_DIMENSIONS {
            return Err(invalid(format!("tensor `{name}` has more than {MAX_DIMENSIONS} dimensions")));
        }
        let [start, end] = tensor.data_offsets;
        let bytes = tensor.shape.iter().try_fold(width, |product: u64, side| product.checked_mul(*side));
        if start > end || bytes != Some(end - start) {
            return Err(invalid(format!("tensor `{name}`: shape and offsets do not agree")));
        }
        spans.push((start, end));
    }
    spans.sort_unstable();
    let mut reached = 0;
    for (start, end) in spans {
        if start != reached {
            return Err(invalid("its tensors overlap or leave a hole"));
        }
        reached = end;
    }
    if reached != data_bytes {
        return Err(invalid(format!("its header speaks of {reached} bytes of data and {data_bytes} are there")));
    }
    Ok(())
}

pub(crate) fn invalid(message: impl std::fmt::Display) -> Error {
    Error::invalid(FIELD, format!("The safetensors file is refused: {message}."))
}

/// The header's entries in file order. What is there twice would let two readers see two different files, so it is kept or refused.
#[derive(Default)]
struct Entries {
    tensors: Vec<(String, Tensor)>,
    metadata: Option<BTreeMap<String, String>>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let refused = |reason: String| Err(serde::de::Error::custom(reason));
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        match map.next_value() {
                            Ok(tensor) => entries.tensors.push((name, tensor)),
                            Err(error) => return refused(format!("tensor `{name}`: {error}")),
                        }
                    } else if entries.metadata.is_some() {
                        return refused("`__metadata__` is there twice".to_owned());
                    } else {
                        match map.next_value() {
                            Ok(metadata) => entries.metadata = Some(metadata),
                            Err(error) => {
                                return refused(format!("`__metadata__` must map strings to strings: {error}"));
                            }
                        }
                    }
                    if entries.tensors.len() > MAX_TENSORS {
                        return refused("too many tensors".to_owned());
                    }
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// The header of a file with tensors of one value each.
    pub(crate) fn headed(names: &[&str]) -> Header {
        let tensor = |at: usize| Tensor {
            dtype: "F32".into(),
            shape: vec![1],
            data_offsets: [4 * at as u64, 4 * at as u64 + 4],
        };
        let tensors = names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), tensor(at))).collect();
        Header { tensors, metadata: BTreeMap::new() }
    }

    fn read(header: &serde_json::Value, data: u64) -> Result<Header> {
        let json = serde_json::to_vec(header).unwrap();
        super::header(&json, 8 + json.len() as u64 + data)
    }

    fn pair(prefix: &str) -> serde_json::Value {
        json!({
            "__metadata__": {"format": "pt"},
            format!("{prefix}.lora_A.weight"): {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]},
            format!("{prefix}.lora_B.weight"): {"dtype": "BF16", "shape": [8, 4], "data_offsets": [128, 192]},
        })
    }

    #[test]
    fn refuses_malformed_headers() {
        let tensor = |dtype: &str, shape: &[u64], offsets: [u64; 2]| json!({"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}});
        for (dtype, shape) in [("F32", [2]), ("I64", [1]), ("F8_E4M3", [8])] {
            assert!(read(&tensor(dtype, &shape, [0, 8]), 8).is_ok(), "{dtype}");
        }
        for (what, header, data) in [
            ("unknown dtype", tensor("F4", &[2], [0, 1]), 1),
            ("shape and offsets disagree", tensor("F32", &[3], [0, 8]), 8),
            ("product overflows", tensor("F32", &[u64::MAX, u64::MAX], [0, 8]), 8),
            ("offsets backwards", tensor("F32", &[2], [8, 0]), 8),
            ("hole at the start", tensor("F32", &[1], [4, 8]), 8),
            ("data too short", tensor("F32", &[2], [0, 8]), 4),
            ("data too long", tensor("F32", &[2], [0, 8]), 12),
            ("too many dimensions", tensor("F32", &[1, 1, 1, 1, 1, 2], [0, 8]), 8),
            ("no tensors", json!({}), 0),
            ("unknown key", json!({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "x": 1}}), 8),
            (
                "metadata not strings",
                json!({"__metadata__": {"a": 1}, "t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
                8,
            ),
            ("control character in a name", json!({"t\n": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), 8),
            ("long name", json!({"t".repeat(257): {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), 8),
            ("negative side", json!({"t": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}), 8),
            ("not an object", json!([1]), 0),
        ] {
            assert!(read(&header, data).is_err(), "{what} was taken");
        }
        let twice = br#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert!(super::header(twice, 8 + twice.len() as u64 + 8).is_err());
        for twice in [
            &br#"{"__metadata__":{},"__metadata__":{},"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#[..],
            br#"{"t":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}"#,
        ] {
            assert!(super::header(twice, 8 + twice.len() as u64 + 8).is_err());
        }
    }

    #[test]
    fn sniffs_a_stream_in_pieces_of_any_size() {
        let json = serde_json::to_vec(&pair("transformer.transformer_blocks.0.attn.to_q")).unwrap();
        let file = [&(json.len() as u64).to_le_bytes()[..], &json, &[0; 192]].concat();
        for size in [1, 3, 8, 9, file.len()] {
            let mut sniffer = Sniffer::default();
            for piece in file.chunks(size) {
                sniffer.push(piece).unwrap();
            }
            assert_eq!(sniffer.finish(file.len() as u64).unwrap().tensors.len(), 2);
        }
        let mut sniffer = Sniffer::default();
        assert!(sniffer.push(b"PK\x03\x04\x14\0\0\0\x08\0").is_err());
        assert!(Sniffer::default().finish(0).is_err());
    }

    #[test]
    fn refuses_by_content_what_is_no_safetensors() {
        for first in [*b"PK\x03\x04\0\0\0\0", *b"\x80\x02}q\0\0\0\0", *b"\x1f\x8b\x08\x08\0\0\0\0", [0xff; 8], [0; 8]] {
            assert!(matches!(header_length(first, 1 << 40), Err(Error::Unsupported { .. })));
        }
        assert!(header_length(100u64.to_le_bytes(), 50).is_err());
        assert_eq!(header_length(0x280u64.to_le_bytes(), 1 << 20).unwrap(), 0x280);
    }
}
