//! The validated header of a weight file of any format, and the limits that apply to all formats.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use crate::TensorType;

/// Limit on the number of tensors in a file.
pub const MAX_TENSORS: usize = 20_000;
/// Length limit of a tensor's name, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Limit on the number of dimensions of a tensor.
pub const MAX_DIMENSIONS: usize = 5;

/// Why a file is rejected. The text is part of a sentence and has no full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The file has another format, such as pickle.
    Unsupported(String),
    /// The file has a supported format, but is malformed or exceeds a limit.
    Invalid(String),
}

/// One tensor as described by the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub kind: TensorType,
    pub shape: Vec<usize>,
    /// Offset of its first byte from the beginning of the file.
    pub start: u64,
    /// Size in bytes.
    pub length: usize,
}

/// A header that passed all checks: names, shapes and offsets are consistent, and the tensors do not overlap.
#[derive(Debug, Clone, Default)]
pub struct Header {
    pub tensors: BTreeMap<String, Tensor>,
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Whether any tensor's name starts with `start`.
    pub fn has(&self, start: &str) -> bool {
        let from = (Bound::Included(start), Bound::Unbounded);
        self.tensors.range::<str, _>(from).next().is_some_and(|(name, _)| name.starts_with(start))
    }

    /// Whether any tensor's name, or the rest of it after a dot, starts with `start`.
    pub fn has_anywhere(&self, start: &str) -> bool {
        self.tensors.keys().any(|name| name.match_indices(start).any(|(at, _)| at == 0 || name[..at].ends_with('.')))
    }

    /// The shape of a tensor, if it exists.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| &tensor.shape[..])
    }

    /// Validates the tensors of a file. Errors: duplicate names, overlapping tensors, or no tensors.
    pub(crate) fn new(tensors: Vec<(String, Tensor)>, metadata: BTreeMap<String, String>) -> Result<Self, String> {
        if tensors.is_empty() {
            return Err("it has no tensors".to_owned());
        }
        let mut header = Self { tensors: BTreeMap::new(), metadata };
        let mut spans = Vec::with_capacity(tensors.len());
        for (name, tensor) in tensors {
            spans.push((tensor.start, tensor.length, name.clone()));
            if header.tensors.insert(name.clone(), tensor).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            let [(start, length, _), (next, _, name)] = pair else { continue };
            if *next < start + *length as u64 {
                return Err(format!("{name} overlaps the tensor before it"));
            }
        }
        Ok(header)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unsupported(reason) | Self::Invalid(reason)) = self;
        f.write_str(reason)
    }
}

/// Errors: the name is empty, too long or contains control characters. A name may contain what a user typed, in any
/// script.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("a tensor's name has {} bytes; 1 to {MAX_NAME_BYTES} are allowed", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("a tensor's name contains control characters: {name:?}"));
    }
    Ok(())
}

/// Errors: more dimensions than a network's tensor can have.
pub(crate) fn check_dimensions(name: &str, count: usize) -> Result<(), String> {
    if count > MAX_DIMENSIONS {
        return Err(format!("{name} has {count} dimensions, more than {MAX_DIMENSIONS}"));
    }
    Ok(())
}
