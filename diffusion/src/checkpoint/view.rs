//! A checkpoint under other names: each of our keys with its source in the file. The maps in `single_file` list the
//! sources.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use formats::scaling;

use super::Checkpoint;
use super::read::{Located, Order};
use crate::{Error, Result};

/// The source of one of our tensors.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub ours: String,
    pub theirs: String,
    pub cut: Cut,
}

/// Which part of the stored tensor is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Whole,
    /// Rows `from..to` of a fused layer, or all rows from `from`.
    Rows {
        from: usize,
        to: Option<usize>,
    },
    /// `[out, in, 1, 1]` or `[out, in, 1]`: a convolution that acts as a linear layer.
    Linear,
    /// The two halves of the rows, exchanged.
    HalvesSwapped,
    /// `[in, out]`
    Transposed,
}

impl Source {
    pub(super) fn whole(ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        Self { ours: ours.into(), theirs: theirs.into(), cut: Cut::Whole }
    }
}

impl Checkpoint {
    /// The tensors below `prefix` under the names of `sources`. Ignored tensors are left out. A tensor that no source
    /// names keeps its name, so that strict loading reports it as unused. An absent source is used only to name the
    /// tensor in the error. If two sources have the same key, the first existing one is used.
    pub(super) fn renamed(
        &self,
        prefix: &str,
        sources: impl IntoIterator<Item = Source>,
        ignored: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut view = Self {
            path: self.path.clone(),
            files: self.files.clone(),
            tensors: BTreeMap::new(),
            metadata: self.metadata.clone(),
            absent: BTreeMap::new(),
            prefix: prefix.to_owned(),
            taken_for: self.taken_for.clone(),
        };
        let mut named = BTreeSet::new();
        for Source { ours, theirs, cut } in sources {
            let theirs = format!("{prefix}{theirs}");
            match self.tensors.get(&theirs) {
                Some(_) if view.tensors.contains_key(&ours) => {}
                Some(found) => {
                    let mut part = cut.of(found).map_err(|reason| Error::malformed(&self.path, reason))?;
                    part.scale = self.scale_of(&theirs)?;
                    view.absent.remove(&ours);
                    view.tensors.insert(ours, part);
                    named.insert(theirs);
                }
                None if view.tensors.contains_key(&ours) => {}
                None => drop(view.absent.entry(ours).or_insert(theirs)),
            }
        }
        let below = self.tensors.iter().filter_map(|(name, at)| Some((name.strip_prefix(prefix)?, name, at)));
        for (short, name, at) in below {
            if !named.contains(name) && !ignored(short) && !scaling::is_scaling(name) {
                view.tensors.insert(name.clone(), at.clone());
            }
        }
        Ok(view)
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub(crate) fn below(&self, prefix: &str) -> Self {
        let named = |name: &String, at: &Located| Some((name.strip_prefix(prefix)?.to_owned(), at.clone()));
        let tensors = self.tensors.iter().filter_map(|(name, at)| named(name, at)).collect();
        Self { tensors, absent: BTreeMap::new(), ..self.clone() }
    }

    /// The scale of a scaled fp8 weight.
    pub(super) fn scale_of(&self, weight: &str) -> Result<Option<f32>> {
        let Some(beside) = scaling::names_of_scale(weight) else { return Ok(None) };
        let Some(name) = beside.iter().find(|name| self.tensors.contains_key(*name)) else { return Ok(None) };
        let shape = self.shape(name)?;
        if shape.iter().any(|side| *side != 1) {
            return Err(Error::malformed(&self.path, format!("{name} has the shape {shape:?}; one scale is read")));
        }
        Ok(self.read_f32(name)?.first().copied())
    }

    /// Whether any tensor's name starts with the prefix.
    pub(super) fn has_prefix(&self, prefix: &str) -> bool {
        let mut from = self.tensors.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.next().is_some_and(|(name, _)| name.starts_with(prefix))
    }
}

impl Cut {
    fn of(self, found: &Located) -> Result<Located, String> {
        let mut part = found.clone();
        let refused = |what: &str| Err(format!("{} {:?} {what}", found.name, found.entry.shape));
        let entry = &mut part.entry;
        match self {
            Self::Whole => {}
            Self::Rows { from, to } => {
                let Some((&rows, inner)) = found.entry.shape.split_first() else { return refused("has no rows") };
                let to = to.unwrap_or(rows);
                if from >= to || to > rows {
                    return refused(&format!("has no rows {from} to {to}"));
                }
                let lone = [1];
                let Some(row) = entry.kind.length(if inner.is_empty() { &lone } else { inner }) else {
                    return refused("cannot be cut into rows");
                };
                entry.start += (from * row) as u64;
                entry.length = (to - from) * row;
                entry.shape[0] = to - from;
            }
            Self::Linear => {
                if entry.shape.len() > 2 && entry.shape[2..].iter().all(|side| *side == 1) {
                    entry.shape.truncate(2);
                }
            }
            Self::HalvesSwapped => match entry.shape.first() {
                Some(rows) if rows.is_multiple_of(2) => part.order = Order::HalvesSwapped,
                _ => return refused("has no two halves"),
            },
            Self::Transposed => {
                if entry.shape.len() != 2 {
                    return refused("is no matrix");
                }
                entry.shape.reverse();
                part.order = Order::Transposed;
            }
        }
        Ok(part)
    }
}
