//! The header of a GGUF file, versions 2 and 3, little-endian
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

use std::collections::BTreeMap;

use crate::TensorType;
use crate::detect::Unsupported;
use crate::header::{
    Header, MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, Refusal, Tensor, check_dimensions, check_name,
};

/// The first bytes of every GGUF file.
pub const MAGIC: &[u8] = b"GGUF";
/// Size limit of a header, in bytes. A denoiser's has 100 kB, T5's with its vocabulary 1 MB.
pub const MAX_HEADER_BYTES: usize = 16 << 20;
/// Limit on the number of metadata entries.
const MAX_ENTRIES: u64 = 4096;
/// Longest string that is kept, in bytes.
const MAX_TEXT_BYTES: u64 = 4096;
/// Limit on the nesting of lists.
const MAX_DEPTH: usize = 4;
/// Tensors are aligned to this many bytes unless the file states another number.
const ALIGNMENT: u64 = 32;

/// GGML's numbers of tensor types. Unsupported types are listed too, so that the error can name them.
const TYPES: [(u32, &str, Option<TensorType>); 31] = [
    (0, "F32", Some(TensorType::F32)),
    (1, "F16", Some(TensorType::F16)),
    (2, "Q4_0", Some(TensorType::Q4_0)),
    (3, "Q4_1", Some(TensorType::Q4_1)),
    (6, "Q5_0", Some(TensorType::Q5_0)),
    (7, "Q5_1", Some(TensorType::Q5_1)),
    (8, "Q8_0", Some(TensorType::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(TensorType::Q2_K)),
    (11, "Q3_K", Some(TensorType::Q3_K)),
    (12, "Q4_K", Some(TensorType::Q4_K)),
    (13, "Q5_K", Some(TensorType::Q5_K)),
    (14, "Q6_K", Some(TensorType::Q6_K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", Some(TensorType::I8)),
    (25, "I16", Some(TensorType::I16)),
    (26, "I32", Some(TensorType::I32)),
    (27, "I64", Some(TensorType::I64)),
    (28, "F64", Some(TensorType::F64)),
    (29, "IQ1_M", None),
    (30, "BF16", Some(TensorType::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
];

/// Prefix of the metadata with the original shape of a tensor whose shape had to change for its blocks, such as a
/// convolution of Stable Diffusion. The slowest dimension comes first (ComfyUI-GGUF,
/// <https://github.com/city96/ComfyUI-GGUF>).
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// The beginnings of the values of `general.architecture` in files of language models.
const LANGUAGE_MODELS: [&str; 16] = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "phi",
    "mistral",
    "deepseek",
    "command-r",
    "falcon",
    "gpt",
    "mamba",
    "glm",
    "chatglm",
    "minicpm",
    "olmo",
    "starcoder",
];

/// Why a header could not be parsed.
#[derive(Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The given bytes end within the header.
    Short,
    /// More bytes would not help.
    Refused(Refusal),
}

type Parsed<T> = Result<T, HeaderError>;

/// Parses the header from `bytes`, the beginning of a file. [`check_end`] compares it with the length of the file.
pub fn parse(bytes: &[u8]) -> Parsed<Header> {
    let mut reader = Reader { bytes, at: 0 };
    reader.skip(MAGIC.len() as u64)?;
    let version = u32::from_le_bytes(reader.take()?);
    if !(2..=3).contains(&version) {
        return match version.swap_bytes() {
            2..=3 => unsupported("this is a big-endian GGUF file; only little-endian ones are read"),
            _ => refused(format!("version {version}; versions 2 and 3 are read")),
        };
    }
    let (count, entries) = (reader.number()?, reader.number()?);
    if count > MAX_TENSORS as u64 {
        return refused(format!("{count} tensors are more than {MAX_TENSORS}"));
    }
    if entries > MAX_ENTRIES {
        return refused(format!("{entries} entries of metadata are more than {MAX_ENTRIES}"));
    }
    let (mut metadata, mut shapes, mut alignment) = (BTreeMap::new(), BTreeMap::new(), ALIGNMENT);
    for _ in 0..entries {
        let Some(key) = reader.text(MAX_TEXT_BYTES)? else {
            return refused("a key of the metadata is too long or no text");
        };
        match reader.value(0)? {
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
    if let Some(architecture) = metadata.get("general.architecture").filter(|name| is_language_model(name)) {
        return unsupported(Unsupported::model(format!("a language model ({architecture})")));
    }
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return refused(format!("tensors cannot begin at multiples of {alignment}"));
    }
    let mut tensors = (0..count).map(|_| reader.tensor(alignment)).collect::<Parsed<Vec<_>>>()?;
    let data = (reader.at as u64).next_multiple_of(alignment);
    for (name, tensor) in &mut tensors {
        let start = data.checked_add(tensor.start);
        match start.filter(|start| start.checked_add(tensor.length as u64).is_some()) {
            Some(start) => tensor.start = start,
            None => return refused(format!("{name} ends after any file: the file is cut off")),
        }
        let Some(shape) = shapes.remove(name) else { continue };
        let values = |sides: &[usize]| sides.iter().try_fold(1usize, |all, side| all.checked_mul(*side));
        if values(&shape) != values(&tensor.shape) {
            return refused(format!("{name} is said to have had the shape {shape:?}, and has {:?}", tensor.shape));
        }
        tensor.shape = shape;
    }
    Header::new(tensors, metadata).or_else(refused)
}

/// Errors: a tensor reaches beyond the end of a file of `file_bytes`.
pub fn check_end(header: &Header, file_bytes: u64) -> Result<(), Refusal> {
    let beyond = |(_, tensor): &(&String, &Tensor)| tensor.start + tensor.length as u64 > file_bytes;
    match header.tensors.iter().find(beyond) {
        None => Ok(()),
        Some((name, _)) => Err(broken(format!("{name} ends after byte {file_bytes}: the file is cut off"))),
    }
}

/// The part of a metadata value that is used here.
enum Value {
    Text(String),
    Number(u32),
    /// A list of non-negative integers, no longer than a tensor's shape may be.
    Shape(Vec<usize>),
    Other,
}

/// Reads the header sequentially, never past its limit.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn slice(&mut self, count: u64) -> Parsed<&[u8]> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let Some(end) = end.filter(|end| *end <= MAX_HEADER_BYTES) else {
            return Err(HeaderError::Refused(cut_off()));
        };
        let slice = self.bytes.get(self.at..end).ok_or(HeaderError::Short)?;
        self.at = end;
        Ok(slice)
    }

    fn skip(&mut self, count: u64) -> Parsed<()> {
        self.slice(count).map(drop)
    }

    fn take<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        self.slice(N as u64)?.try_into().map_err(|_| HeaderError::Short)
    }

    fn number(&mut self) -> Parsed<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Reads a string; `None` if it is longer than `limit` or not UTF-8. It is then skipped.
    fn text(&mut self, limit: u64) -> Parsed<Option<String>> {
        let length = self.number()?;
        let bytes = self.slice(length)?;
        Ok((length <= limit).then(|| std::str::from_utf8(bytes).ok().map(str::to_owned)).flatten())
    }

    fn value(&mut self, depth: usize) -> Parsed<Value> {
        let kind = u32::from_le_bytes(self.take()?);
        self.value_of(kind, depth)
    }

    fn value_of(&mut self, kind: u32, depth: usize) -> Parsed<Value> {
        match kind {
            4 => return self.take().map(|bytes| Value::Number(u32::from_le_bytes(bytes))),
            8 => return Ok(self.text(MAX_TEXT_BYTES)?.map_or(Value::Other, Value::Text)),
            9 if depth < MAX_DEPTH => return self.list(depth),
            9 => return refused(format!("lists lie more than {MAX_DEPTH} deep in each other")),
            _ => match fixed_size(kind) {
                Some(bytes) => self.skip(bytes)?,
                None => return refused(format!("there is no type of metadata {kind}")),
            },
        }
        Ok(Value::Other)
    }

    fn list(&mut self, depth: usize) -> Parsed<Value> {
        let (kind, count) = (u32::from_le_bytes(self.take()?), self.number()?);
        if kind == 5 && (1..=MAX_DIMENSIONS as u64).contains(&count) {
            let sides = (0..count).map(|_| self.take().map(i32::from_le_bytes)).collect::<Parsed<Vec<_>>>()?;
            let shape: Option<Vec<usize>> = sides.into_iter().map(|side| usize::try_from(side).ok()).collect();
            return Ok(shape.map_or(Value::Other, Value::Shape));
        }
        match fixed_size(kind) {
            Some(bytes) => self.skip(count.saturating_mul(bytes))?,
            // Each entry takes bytes of the header, so a false count is detected soon.
            None => {
                for _ in 0..count {
                    self.value_of(kind, depth + 1)?;
                }
            }
        }
        Ok(Value::Other)
    }

    /// A tensor. Its `start` is relative to the beginning of the data.
    fn tensor(&mut self, alignment: u64) -> Parsed<(String, Tensor)> {
        let Some(name) = self.text(MAX_NAME_BYTES as u64)? else {
            return refused(format!("a tensor's name is no text of 1 to {MAX_NAME_BYTES} bytes"));
        };
        check_name(&name).or_else(refused)?;
        let rank = u32::from_le_bytes(self.take()?) as usize;
        check_dimensions(&name, rank).or_else(refused)?;
        let mut shape = Vec::with_capacity(rank);
        for _ in 0..rank {
            let Ok(side) = usize::try_from(self.number()?) else {
                return refused(format!("{name} is larger than any memory"));
            };
            shape.push(side);
        }
        // The file lists the fastest dimension first.
        shape.reverse();
        let number = u32::from_le_bytes(self.take()?);
        let kind = match TYPES.iter().find(|(known, ..)| *known == number) {
            Some((_, _, Some(kind))) => *kind,
            found => {
                let what = found.map_or_else(|| format!("type {number}"), |(_, name, _)| (*name).to_owned());
                let read: Vec<&str> = TYPES.iter().filter(|(_, _, kind)| kind.is_some()).map(|(_, n, _)| *n).collect();
                let read = read.join(", ");
                return unsupported(format!("{name} is quantised as {what}, which is not read; {read} are"));
            }
        };
        if shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side)).is_none() {
            return refused(format!("{name} is larger than any memory"));
        }
        let Some(length) = kind.length(&shape) else {
            return refused(format!("{name} has rows that are no whole blocks: {shape:?}"));
        };
        let start = self.number()?;
        if !start.is_multiple_of(alignment) {
            return refused(format!("{name} begins at {start}, no multiple of {alignment}"));
        }
        Ok((name, Tensor { kind, shape, start, length }))
    }
}

/// Size in bytes of a metadata value of fixed size.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

pub(crate) fn cut_off() -> Refusal {
    broken("it is cut off, or longer than any header")
}

fn broken(reason: impl std::fmt::Display) -> Refusal {
    Refusal::Invalid(format!("the GGUF header is broken: {reason}"))
}

/// Whether `general.architecture` names a language model of llama.cpp.
fn is_language_model(architecture: &str) -> bool {
    LANGUAGE_MODELS.iter().any(|family| architecture.starts_with(family))
}

fn unsupported<T>(reason: impl std::fmt::Display) -> Parsed<T> {
    Err(HeaderError::Refused(Refusal::Unsupported(reason.to_string())))
}

fn refused<T>(reason: impl std::fmt::Display) -> Parsed<T> {
    Err(HeaderError::Refused(broken(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn tensor(name: &str, shape: &[u64], kind: u32, start: u64) -> Vec<u8> {
        let sides: Vec<u8> = shape.iter().rev().flat_map(|side| side.to_le_bytes()).collect();
        let rank = (shape.len() as u32).to_le_bytes();
        [&text(name)[..], &rank, &sides, &kind.to_le_bytes(), &start.to_le_bytes()].concat()
    }

    fn file(version: u32, entries: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
        let counts = [(tensors.len() as u64).to_le_bytes(), (entries.len() as u64).to_le_bytes()].concat();
        [MAGIC, &version.to_le_bytes(), &counts, &entries.concat(), &tensors.concat()].concat()
    }

    #[test]
    fn a_header_is_short_until_it_is_whole() {
        let architecture = [&text("general.architecture")[..], &8_u32.to_le_bytes(), &text("flux")].concat();
        let list =
            [&text("list")[..], &9_u32.to_le_bytes(), &4_u32.to_le_bytes(), &2_u64.to_le_bytes(), &[0; 8]].concat();
        let whole = file(3, &[architecture, list], &[tensor("a", &[4, 256], 12, 0), tensor("b", &[3], 0, 576)]);
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]).unwrap_err(), HeaderError::Short, "{cut}");
        }
        let read = parse(&whole).unwrap();
        assert_eq!(read.metadata["general.architecture"], "flux");
        assert_eq!((read.tensors["a"].kind, &read.tensors["a"].shape[..]), (TensorType::Q4_K, &[4, 256][..]));
        let end = (whole.len() as u64).next_multiple_of(32) + 576 + 12;
        assert!(check_end(&read, end).is_ok() && check_end(&read, end - 1).is_err());
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let fine = tensor("a", &[2], 0, 0);
        assert!(parse(&file(3, &[], std::slice::from_ref(&fine))).is_ok());
        let long = [&text("x")[..], &9_u32.to_le_bytes(), &4_u32.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
        let architecture = [&text("general.architecture")[..], &8_u32.to_le_bytes(), &text("qwen3vl")].concat();
        for (what, bytes) in [
            ("big-endian", [MAGIC, &3_u32.to_be_bytes(), &[0; 16]].concat()),
            ("IQ4_NL", file(3, &[], &[tensor("a", &[32], 20, 0)])),
            ("a language model (qwen3vl)", file(3, &[architecture], &[tensor("blk.0.x", &[256], 16, 0)])),
        ] {
            let Err(HeaderError::Refused(Refusal::Unsupported(message))) = parse(&bytes) else { panic!("{what}") };
            assert!(message.contains(what), "{message}");
        }
        for (what, bytes) in [
            ("another version", file(1, &[], std::slice::from_ref(&fine))),
            ("no tensors", file(3, &[], &[])),
            ("twice", file(3, &[], &[fine.clone(), fine.clone()])),
            ("overlapping", file(3, &[], &[tensor("a", &[64], 0, 0), tensor("b", &[64], 0, 64)])),
            ("beside the alignment", file(3, &[], &[tensor("a", &[2], 0, 4)])),
            ("a type that is not read", file(3, &[], &[tensor("a", &[256], 16, 0)])),
            ("rows that are no whole blocks", file(3, &[], &[tensor("a", &[16], 2, 0)])),
            ("a product that overflows", file(3, &[], &[tensor("a", &[u64::MAX, u64::MAX], 0, 0)])),
            ("an end that overflows", file(3, &[], &[tensor("a", &[2], 0, u64::MAX - 31)])),
            ("too many dimensions", file(3, &[], &[tensor("a", &[1; 6], 0, 0)])),
            ("a space in a name", file(3, &[], &[tensor("a b", &[2], 0, 0)])),
            ("a list without end", file(3, &[long], &[fine])),
        ] {
            assert!(matches!(parse(&bytes), Err(HeaderError::Refused(_))), "{what}");
        }
    }
}
