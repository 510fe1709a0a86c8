//! The gate for GGUF files: reads the header and nothing else, little-endian, versions 2 and 3. Which types of tensors can be run is told
//! here by name; what their blocks mean is the engine's matter. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;

use crate::Error;
use crate::safetensors_gate::{Header, MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, Tensor};

/// The first bytes of every GGUF file.
pub const MAGIC: &[u8] = b"GGUF";
/// Largest header, in bytes: a denoiser's has 100 kB, T5's with its vocabulary 1 MB; those of language models are not wanted.
pub const MAX_HEADER_BYTES: usize = 16 * 1024 * 1024;
/// Most entries of metadata.
const MAX_ENTRIES: u64 = 4096;
/// Longest text that is kept, in bytes.
const MAX_TEXT_BYTES: u64 = 4096;
/// How deep lists may lie in lists.
const MAX_DEPTH: usize = 4;
/// Where tensors begin, if the file does not say it.
const ALIGNMENT: u64 = 32;
const FIELD: &str = "file";

/// Number, name, and values and bytes of a block, of the tensor types that are read.
const TYPES: [(u32, &str, u64, u64); 18] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (30, "BF16", 1, 2),
];

/// Why there is no header.
#[derive(Debug)]
pub enum HeaderError {
    /// The bytes end within it.
    Short,
    /// No more bytes would help.
    Refused(Error),
}

type Parsed<T> = std::result::Result<T, HeaderError>;

/// The header at the beginning of a file, of which `bytes` have come. Where the tensors end is told with it; the whole file must
/// reach that far.
pub fn header(bytes: &[u8]) -> Parsed<(Header, u64)> {
    let mut reader = Reader { bytes, at: 0 };
    reader.skip(MAGIC.len() as u64)?;
    let version = u32::from_le_bytes(reader.take()?);
    if !(2..=3).contains(&version) {
        return refused(format!("its version is {version}; 2 and 3 are read"));
    }
    let (count, entries) = (reader.number()?, reader.number()?);
    if count == 0 || count > MAX_TENSORS as u64 {
        return refused(format!("it holds {count} tensors; 1 to {MAX_TENSORS} are allowed"));
    }
    if entries > MAX_ENTRIES {
        return refused(format!("it has {entries} entries of metadata; {MAX_ENTRIES} are allowed"));
    }
    let (mut metadata, mut alignment) = (BTreeMap::new(), ALIGNMENT);
    for _ in 0..entries {
        let Some(key) = reader.text(MAX_TEXT_BYTES)? else { return refused("a key of its metadata is no text") };
        match reader.value()? {
            Value::Text(text) => drop(metadata.insert(key, text)),
            Value::Number(number) if key == "general.alignment" => alignment = number.into(),
            _ => {}
        }
    }
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return refused(format!("its tensors cannot begin at multiples of {alignment}"));
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..count {
        let (name, tensor) = reader.tensor(alignment)?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return refused(format!("tensor `{name}` is there twice"));
        }
    }
    let data = (reader.at as u64).next_multiple_of(alignment);
    let mut spans: Vec<[u64; 2]> = tensors.values().map(|tensor: &Tensor| tensor.data_offsets).collect();
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[1][0] < pair[0][1]) {
        return refused("its tensors overlap");
    }
    let end = spans.iter().map(|[_, end]| *end).max().unwrap_or(0).checked_add(data);
    let end = end.map_or_else(|| refused("its tensors are larger than any file"), Ok)?;
    Ok((Header { tensors, metadata }, end))
}

/// What matters here of a value of the metadata.
enum Value {
    Text(String),
    Number(u32),
    Other,
}

/// The header, read forward only.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn slice(&mut self, count: u64) -> Parsed<&[u8]> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let Some(end) = end.filter(|end| *end <= MAX_HEADER_BYTES) else {
            return refused(format!("its header is longer than {MAX_HEADER_BYTES} bytes"));
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

    /// A text; none, and passed over, if it is longer than `limit` or no UTF-8.
    fn text(&mut self, limit: u64) -> Parsed<Option<String>> {
        let length = self.number()?;
        let bytes = self.slice(length)?;
        Ok((length <= limit).then(|| std::str::from_utf8(bytes).ok().map(str::to_owned)).flatten())
    }

    fn value(&mut self) -> Parsed<Value> {
        let kind = u32::from_le_bytes(self.take()?);
        self.value_of(kind, 0)
    }

    fn value_of(&mut self, kind: u32, depth: usize) -> Parsed<Value> {
        match kind {
            4 => return self.take().map(|bytes| Value::Number(u32::from_le_bytes(bytes))),
            8 => return Ok(self.text(MAX_TEXT_BYTES)?.map_or(Value::Other, Value::Text)),
            9 if depth < MAX_DEPTH => {
                let (kind, count) = (u32::from_le_bytes(self.take()?), self.number()?);
                match fixed_size(kind) {
                    Some(bytes) => self.skip(count.saturating_mul(bytes))?,
                    // Each of these takes bytes of the header, so that the count cannot lie for long.
                    None => {
                        for _ in 0..count {
                            self.value_of(kind, depth + 1)?;
                        }
                    }
                }
            }
            9 => return refused(format!("lists lie more than {MAX_DEPTH} deep in each other")),
            _ => match fixed_size(kind) {
                Some(bytes) => self.skip(bytes)?,
                None => return refused(format!("there is no type of metadata {kind}")),
            },
        }
        Ok(Value::Other)
    }

    fn tensor(&mut self, alignment: u64) -> Parsed<(String, Tensor)> {
        let name = self.text(MAX_NAME_BYTES as u64)?;
        let Some(name) = name.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
        else {
            return refused(format!("a tensor's name must be 1 to {MAX_NAME_BYTES} printable ASCII characters"));
        };
        let rank = u32::from_le_bytes(self.take()?) as usize;
        if rank > MAX_DIMENSIONS {
            return refused(format!("tensor `{name}` has more than {MAX_DIMENSIONS} dimensions"));
        }
        let mut shape = (0..rank).map(|_| self.number()).collect::<Parsed<Vec<u64>>>()?;
        // The fastest dimension comes first in the file.
        shape.reverse();
        let number = u32::from_le_bytes(self.take()?);
        let Some((_, dtype, values, bytes)) = TYPES.iter().find(|(known, ..)| *known == number) else {
            let read: Vec<&str> = TYPES.iter().map(|(_, name, ..)| *name).collect();
            return refused(format!("tensor `{name}` is of GGML's type {number}; {} are read", read.join(", ")));
        };
        let whole_rows = *values == 1 || shape.last().is_some_and(|row| row.is_multiple_of(*values));
        let count = shape.iter().try_fold(1_u64, |all, side| all.checked_mul(*side));
        let length = count.filter(|_| whole_rows).and_then(|count| (count / values).checked_mul(*bytes));
        let start = self.number()?;
        match length.and_then(|length| start.checked_add(length)).filter(|_| start.is_multiple_of(alignment)) {
            Some(end) => Ok((name, Tensor { dtype: (*dtype).to_owned(), shape, data_offsets: [start, end] })),
            None => refused(format!("tensor `{name}`: its shape or its place make no sense")),
        }
    }
}

/// Bytes of a value of one size.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn refused<T>(message: impl std::fmt::Display) -> Parsed<T> {
    Err(HeaderError::Refused(Error::invalid(FIELD, format!("The GGUF file is refused: {message}."))))
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
    fn reads_a_header_and_asks_for_more_until_it_is_whole() {
        let architecture = [&text("general.architecture")[..], &8_u32.to_le_bytes(), &text("flux")].concat();
        let list =
            [&text("list")[..], &9_u32.to_le_bytes(), &4_u32.to_le_bytes(), &2_u64.to_le_bytes(), &[0; 8]].concat();
        let whole = file(3, &[architecture, list], &[tensor("a", &[4, 256], 12, 0), tensor("b", &[3], 0, 576)]);
        for cut in 0..whole.len() {
            assert!(matches!(header(&whole[..cut]), Err(HeaderError::Short)), "{cut}");
        }
        let (read, end) = header(&whole).unwrap();
        assert_eq!(read.metadata["general.architecture"], "flux");
        assert_eq!((&read.tensors["a"].dtype[..], &read.tensors["a"].shape[..]), ("Q4_K", &[4, 256][..]));
        assert_eq!(end, (whole.len() as u64).next_multiple_of(32) + 576 + 12);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let fine = tensor("a", &[2], 0, 0);
        assert!(header(&file(3, &[], std::slice::from_ref(&fine))).is_ok());
        let long = [&text("x")[..], &9_u32.to_le_bytes(), &4_u32.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
        for (what, bytes) in [
            ("another version", file(1, &[], std::slice::from_ref(&fine))),
            ("no tensors", file(3, &[], &[])),
            ("twice", file(3, &[], &[fine.clone(), fine.clone()])),
            ("overlapping", file(3, &[], &[tensor("a", &[64], 0, 0), tensor("b", &[64], 0, 64)])),
            ("beside the alignment", file(3, &[], &[tensor("a", &[2], 0, 4)])),
            ("a type that is not read", file(3, &[], &[tensor("a", &[256], 16, 0)])),
            ("rows that are no whole blocks", file(3, &[], &[tensor("a", &[16], 2, 0)])),
            ("a product that overflows", file(3, &[], &[tensor("a", &[u64::MAX, u64::MAX], 0, 0)])),
            ("too many dimensions", file(3, &[], &[tensor("a", &[1; 6], 0, 0)])),
            ("a space in a name", file(3, &[], &[tensor("a b", &[2], 0, 0)])),
            ("a list without end", file(3, &[long], &[fine])),
        ] {
            assert!(matches!(header(&bytes), Err(HeaderError::Refused(_))), "{what}");
        }
    }
}
