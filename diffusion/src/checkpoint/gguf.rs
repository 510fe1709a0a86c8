//! The header of a GGUF file, checked: versions 2 and 3, little-endian
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). What quantised blocks mean is in `blocks`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, sink};
use std::path::Path;

use super::header::{Entry, Header, NAME_LIMIT, RANK_LIMIT, TENSOR_LIMIT};
use super::kind::Kind;
use crate::{Error, Result};

/// The first bytes of every GGUF file.
pub(super) const MAGIC: &[u8] = b"GGUF";
/// The longest header, in bytes. Tokenizers of language models lie in it.
const HEADER_LIMIT: u64 = 64 << 20;
/// The most entries of metadata.
const METADATA_LIMIT: u64 = 4096;
/// The longest text that is kept, in bytes.
const TEXT_LIMIT: u64 = 4096;
/// How deep lists may lie in lists.
const DEPTH_LIMIT: usize = 4;
/// Where tensors begin, if the file does not say it.
const ALIGNMENT: u64 = 32;

/// GGML's numbers of tensor types. Whoever is not read has at least a name for the error.
const TYPES: [(u32, &str, Option<Kind>); 31] = [
    (0, "F32", Some(Kind::F32)),
    (1, "F16", Some(Kind::F16)),
    (2, "Q4_0", Some(Kind::Q4_0)),
    (3, "Q4_1", Some(Kind::Q4_1)),
    (6, "Q5_0", Some(Kind::Q5_0)),
    (7, "Q5_1", Some(Kind::Q5_1)),
    (8, "Q8_0", Some(Kind::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(Kind::Q2_K)),
    (11, "Q3_K", Some(Kind::Q3_K)),
    (12, "Q4_K", Some(Kind::Q4_K)),
    (13, "Q5_K", Some(Kind::Q5_K)),
    (14, "Q6_K", Some(Kind::Q6_K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", Some(Kind::I8)),
    (25, "I16", Some(Kind::I16)),
    (26, "I32", Some(Kind::I32)),
    (27, "I64", Some(Kind::I64)),
    (28, "F64", Some(Kind::F64)),
    (29, "IQ1_M", None),
    (30, "BF16", Some(Kind::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
];

/// Before the name of a tensor whose shape had to be changed for its blocks, as convolutions of Stable Diffusion had: the shape
/// that it had, slowest dimension first (ComfyUI-GGUF, <https://github.com/city96/ComfyUI-GGUF>).
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// Reads and checks the header of an open GGUF file of `size` bytes.
pub(super) fn read(path: &Path, file: &File, size: u64) -> Result<Header> {
    let mut bytes = Bytes { file: BufReader::new(file), left: size.min(HEADER_LIMIT), at: 0 };
    parse(&mut bytes, size).map_err(|reason| Error::malformed(path, format!("the GGUF header is broken: {reason}")))
}

fn parse(bytes: &mut Bytes, size: u64) -> Result<Header, String> {
    bytes.skip(MAGIC.len() as u64)?;
    let version = u32::from_le_bytes(bytes.take()?);
    if !(2..=3).contains(&version) {
        return Err(match version.swap_bytes() {
            2..=3 => "its numbers are big-endian".to_owned(),
            _ => format!("version {version}; versions 2 and 3 are read"),
        });
    }
    let (tensors, entries) = (bytes.number()?, bytes.number()?);
    if tensors > TENSOR_LIMIT as u64 {
        return Err(format!("{tensors} tensors are more than {TENSOR_LIMIT}"));
    }
    if entries > METADATA_LIMIT {
        return Err(format!("{entries} entries of metadata are more than {METADATA_LIMIT}"));
    }
    let mut metadata = BTreeMap::new();
    let mut alignment = ALIGNMENT;
    let mut shapes = BTreeMap::new();
    for _ in 0..entries {
        let key = bytes.text(TEXT_LIMIT)?.ok_or("a key of the metadata is too long")?;
        match bytes.value(0)? {
            Value::Text(text) => drop(metadata.insert(key, text)),
            Value::Number(number) if key == "general.alignment" => alignment = u64::from(number),
            Value::Shape(shape) => {
                if let Some(name) = key.strip_prefix(ORIGINAL_SHAPE) {
                    shapes.insert(name.to_owned(), shape);
                }
            }
            _ => {}
        }
    }
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(format!("tensors cannot begin at multiples of {alignment}"));
    }
    let mut found: Vec<(String, Entry)> = (0..tensors).map(|_| bytes.tensor(alignment)).collect::<Result<_, _>>()?;
    for (name, entry) in &mut found {
        let Some(shape) = shapes.remove(name) else { continue };
        let count = |sides: &[usize]| sides.iter().try_fold(1usize, |all, side| all.checked_mul(*side));
        if count(&shape) != count(&entry.shape) {
            return Err(format!("{name} is said to have had the shape {shape:?}, and has {:?}", entry.shape));
        }
        entry.shape = shape;
    }
    let data = bytes.at.next_multiple_of(alignment);
    place(found, data, size).map(|tensors| Header { tensors, metadata })
}

/// Counts offsets from the beginning of the file, and refuses names and bytes that belong to two tensors.
fn place(mut tensors: Vec<(String, Entry)>, data: u64, size: u64) -> Result<Vec<(String, Entry)>, String> {
    let mut names = BTreeSet::new();
    for (name, entry) in &mut tensors {
        if !names.insert(name.clone()) {
            return Err(format!("{name} is there twice"));
        }
        let start = data.checked_add(entry.start);
        let end = start.and_then(|start| start.checked_add(entry.length as u64)).filter(|end| *end <= size);
        match (start, end) {
            (Some(start), Some(_)) => entry.start = start,
            _ => return Err(format!("{name} ends after byte {size}: the file is cut off")),
        }
    }
    tensors.sort_by_key(|(_, entry)| (entry.start, entry.length));
    for pair in tensors.windows(2) {
        let [(_, before), (name, after)] = pair else { continue };
        if after.start < before.start + before.length as u64 {
            return Err(format!("{name} overlaps the tensor before it"));
        }
    }
    Ok(tensors)
}

/// The part of a metadata value that matters here.
enum Value {
    Text(String),
    Number(u32),
    /// A list of as many whole numbers as a tensor has dimensions, none of them negative.
    Shape(Vec<usize>),
    Other,
}

/// The header, read forward only and never past its limit.
struct Bytes<'a> {
    file: BufReader<&'a File>,
    left: u64,
    at: u64,
}

impl Bytes<'_> {
    fn claim(&mut self, count: u64) -> Result<(), String> {
        self.left = self.left.checked_sub(count).ok_or("it is cut off, or longer than any header")?;
        self.at += count;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.claim(N as u64)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, String> {
        self.take().map(u64::from_le_bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), String> {
        self.claim(count)?;
        let skipped = std::io::copy(&mut self.file.by_ref().take(count), &mut sink()).map_err(|e| e.to_string())?;
        if skipped == count { Ok(()) } else { Err("it is cut off".to_owned()) }
    }

    /// A text; none, and passed over, if it is longer than `limit` or no UTF-8.
    fn text(&mut self, limit: u64) -> Result<Option<String>, String> {
        let length = self.number()?;
        if length > limit {
            self.skip(length)?;
            return Ok(None);
        }
        self.claim(length)?;
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(bytes).ok())
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        let kind = u32::from_le_bytes(self.take()?);
        self.value_of(kind, depth)
    }

    fn value_of(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        match kind {
            4 => return self.take().map(|bytes| Value::Number(u32::from_le_bytes(bytes))),
            8 => return Ok(self.text(TEXT_LIMIT)?.map_or(Value::Other, Value::Text)),
            9 if depth < DEPTH_LIMIT => {
                let (kind, count) = (u32::from_le_bytes(self.take()?), self.number()?);
                if kind == 5 && (1..=RANK_LIMIT as u64).contains(&count) {
                    let sides =
                        (0..count).map(|_| self.take().map(i32::from_le_bytes)).collect::<Result<Vec<_>, _>>()?;
                    let shape: Option<Vec<usize>> = sides.into_iter().map(|side| usize::try_from(side).ok()).collect();
                    return Ok(shape.map_or(Value::Other, Value::Shape));
                }
                match fixed_size(kind) {
                    Some(bytes) => self.skip(count.checked_mul(bytes).ok_or("a list is longer than any file")?)?,
                    // Each of these takes bytes of the header, so that the count cannot lie for long.
                    None => {
                        for _ in 0..count {
                            self.value_of(kind, depth + 1)?;
                        }
                    }
                }
            }
            9 => return Err(format!("lists lie more than {DEPTH_LIMIT} deep in each other")),
            _ => self.skip(fixed_size(kind).ok_or(format!("there is no type of metadata {kind}"))?)?,
        }
        Ok(Value::Other)
    }

    fn tensor(&mut self, alignment: u64) -> Result<(String, Entry), String> {
        let name = self.text(NAME_LIMIT as u64)?.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("a tensor's name is no text of 1 to {NAME_LIMIT} bytes"))?;
        let rank = u32::from_le_bytes(self.take()?) as usize;
        if rank > RANK_LIMIT {
            return Err(format!("{name} has {rank} dimensions, more than {RANK_LIMIT}"));
        }
        let huge = || format!("{name} is larger than any memory");
        let mut shape = Vec::with_capacity(rank);
        for _ in 0..rank {
            shape.push(usize::try_from(self.number()?).map_err(|_| huge())?);
        }
        // The fastest dimension comes first in the file.
        shape.reverse();
        let number = u32::from_le_bytes(self.take()?);
        let kind = match TYPES.iter().find(|(known, ..)| *known == number) {
            Some((_, _, Some(kind))) => *kind,
            found => {
                let what = found.map_or_else(|| format!("type {number}"), |(_, name, _)| (*name).to_owned());
                let read: Vec<&str> = TYPES.iter().filter(|(_, _, kind)| kind.is_some()).map(|(_, n, _)| *n).collect();
                return Err(format!("{name} is quantised as {what}, which is not read; {} are", read.join(", ")));
            }
        };
        shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side)).ok_or_else(huge)?;
        let length =
            kind.length(&shape).ok_or_else(|| format!("{name} has rows that are no whole blocks: {shape:?}"))?;
        let start = self.number()?;
        if !start.is_multiple_of(alignment) {
            return Err(format!("{name} begins at {start}, no multiple of {alignment}"));
        }
        Ok((name, Entry { kind, shape, start, length }))
    }
}

/// Bytes of a metadata value of one size.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
