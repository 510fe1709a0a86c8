//! The tensors of a file under other names: each of our keys with the stored tensor that it is read from. The maps in
//! `single_file` list the sources. Reading the values belongs to `diffusion::checkpoint`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Header, Tensor, scaling};

/// How many names of each kind an error lists.
const NAMED: usize = 5;

/// The tensors of a part, by key.
#[derive(Debug, Clone, Default)]
pub struct View {
    tensors: BTreeMap<String, Seen>,
    /// The file's names for expected keys that it lacks.
    absent: BTreeMap<String, String>,
    /// The file's prefix for keys that are in neither map.
    prefix: String,
    /// What the file was taken for, if that had to be detected.
    taken_for: Option<String>,
}

/// The stored tensor, or the part of one, that a key stands for.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The name in the file.
    pub name: String,
    /// Shape and bytes after the cut.
    pub tensor: Tensor,
    pub cut: Cut,
    /// The name of the tensor that holds a factor for all values.
    pub scale: Option<String>,
}

/// The source of one of our tensors.
#[derive(Debug, Clone)]
pub struct Source {
    pub ours: String,
    pub theirs: String,
    pub cut: Cut,
}

/// Which part of the stored tensor is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Whole,
    /// Rows `from..to` of a fused layer, or all rows from `from`.
    Rows {
        from: usize,
        to: Option<usize>,
    },
    /// `[out, in, 1, 1]` or `[out, in, 1]`: a convolution that acts as a linear layer.
    Linear,
    /// The two halves of the rows, of which the file has the second first.
    HalvesSwapped,
    /// `[in, out]`
    Transposed,
}

impl Source {
    pub fn whole(ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        Self { ours: ours.into(), theirs: theirs.into(), cut: Cut::Whole }
    }
}

impl View {
    /// The tensors under the file's own names.
    pub fn of(header: &Header) -> Self {
        let tensors = header.tensors.iter().map(|(name, tensor)| (name.clone(), Seen::whole(name, tensor)));
        Self { tensors: tensors.collect(), ..Self::default() }
    }

    /// The tensors of a part's folder: with the scales of fp8, without them and the markers of that format, and with
    /// today's names of attention layers. The autoencoders of the first published Stable Diffusion folders use those
    /// from before diffusers 0.18.
    ///
    /// # Errors
    /// A part of a sentence that names a scale that is not one number.
    pub fn of_folder(header: &Header) -> Result<Self, String> {
        const RENAMED: [(&str, &str); 4] =
            [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
        let renamed = |name: &str| {
            let (layer, leaf) = name.rsplit_once('.')?;
            let (path, old) = layer.rsplit_once('.')?;
            let block = path.rsplit_once('.').is_some_and(|(list, _)| list.ends_with(".attentions"));
            let (_, new) = RENAMED.iter().find(|(known, _)| block && *known == old)?;
            Some(format!("{path}.{new}.{leaf}"))
        };
        let mut view = Self::default();
        for (name, tensor) in header.tensors.iter().filter(|(name, _)| !scaling::is_scaling(name)) {
            let seen = Seen { scale: scaling::scale_of(header, name)?, ..Seen::whole(name, tensor) };
            view.tensors.insert(renamed(name).unwrap_or_else(|| name.clone()), seen);
        }
        Ok(view)
    }

    /// The tensors below `prefix` under the names of `sources`. Ignored tensors are left out. A tensor that no source
    /// names keeps its name, so that [`View::check`] reports it as unused. An absent source is used only to name the
    /// tensor in the error. If two sources have the same key, the first existing one is used.
    ///
    /// # Errors
    /// A part of a sentence that names a tensor that cannot be cut, or a scale that is not one number.
    pub fn renamed(
        header: &Header,
        prefix: &str,
        sources: impl IntoIterator<Item = Source>,
        ignored: impl Fn(&str) -> bool,
    ) -> Result<Self, String> {
        let mut view = Self { prefix: prefix.to_owned(), ..Self::default() };
        let mut named = BTreeSet::new();
        for Source { ours, theirs, cut } in sources {
            let theirs = format!("{prefix}{theirs}");
            match header.tensors.get(&theirs) {
                _ if view.tensors.contains_key(&ours) => {}
                Some(stored) => {
                    let (tensor, scale) = (cut.of(&theirs, stored)?, scaling::scale_of(header, &theirs)?);
                    view.absent.remove(&ours);
                    view.tensors.insert(ours, Seen { name: theirs.clone(), tensor, cut, scale });
                    named.insert(theirs);
                }
                None => drop(view.absent.entry(ours).or_insert(theirs)),
            }
        }
        for (name, tensor) in &header.tensors {
            let Some(short) = name.strip_prefix(prefix) else { continue };
            if !named.contains(name) && !ignored(short) && !scaling::is_scaling(name) {
                view.tensors.insert(name.clone(), Seen::whole(name, tensor));
            }
        }
        Ok(view)
    }

    /// The same, with what the file was taken for, which [`View::check`] adds to its error.
    #[must_use]
    pub fn taken_for(self, what: String) -> Self {
        Self { taken_for: Some(what), ..self }
    }

    /// Renames `copy`, another program's name for the same tensor, to `original`.
    #[must_use]
    pub fn alias(mut self, copy: &str, original: &str) -> Self {
        if let Some(seen) = self.tensors.remove(copy) {
            self.tensors.entry(original.to_owned()).or_insert(seen);
        }
        self
    }

    /// Removes a tensor without information, if it exists.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.tensors.remove(key);
        self
    }

    /// The tensors whose keys begin with `prefix`, without it.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Self {
        let below = |(key, seen): (&String, &Seen)| Some((key.strip_prefix(prefix)?.to_owned(), seen.clone()));
        let prefix = format!("{}{prefix}", self.prefix);
        Self { tensors: self.tensors.iter().filter_map(below).collect(), prefix, ..Self::default() }
    }

    /// All keys, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of a key, if it exists.
    pub fn get(&self, key: &str) -> Option<&Seen> {
        self.tensors.get(key)
    }

    /// The file's name for a key, whether the file contains it or not.
    pub fn name_in_file(&self, key: &str) -> String {
        let found = self.tensors.get(key).map(|seen| &seen.name);
        found.or_else(|| self.absent.get(key)).cloned().unwrap_or_else(|| format!("{}{key}", self.prefix))
    }

    /// Whether the tensors are exactly the parameters of a network, given as keys and shapes. A matrix may be stored as
    /// a 1×1 convolution, and the other way round.
    ///
    /// # Errors
    /// A part of a sentence: the first missing, unused and wrongly shaped tensors, and those that are no floats, by the
    /// names in the file.
    pub fn check<'a>(&self, parameters: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Result<(), String> {
        // Several parameters may come from one fused tensor, which is missing once.
        let (mut used, mut missing) = (BTreeSet::new(), BTreeSet::new());
        let (mut misshapen, mut integers) = (BTreeSet::new(), BTreeSet::new());
        for (key, wanted) in parameters {
            let Some(Seen { name, tensor, .. }) = self.tensors.get(key) else {
                missing.insert(self.name_in_file(key));
                continue;
            };
            if !fits(&tensor.shape, wanted) {
                misshapen.insert(format!("{name}: {:?} instead of {wanted:?}", tensor.shape));
            }
            if tensor.kind.is_integer() {
                integers.insert(format!("{name} is {}", tensor.kind));
            }
            used.insert(name);
        }
        let unused = self.tensors.values().map(|seen| &seen.name).filter(|name| !used.contains(name));
        let unused: BTreeSet<String> = unused.cloned().collect();
        let kinds = [
            ("missing", missing),
            ("unused", unused),
            ("of the wrong shape", misshapen),
            ("of another type than floats", integers),
        ];
        let problems: Vec<String> =
            kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| described(what, names)).collect();
        if problems.is_empty() {
            return Ok(());
        }
        let taken_for = self.taken_for.iter().map(|what| format!("the file was taken for {what}"));
        Err(problems.into_iter().chain(taken_for).collect::<Vec<_>>().join("; "))
    }
}

impl Seen {
    fn whole(name: &str, tensor: &Tensor) -> Self {
        Self { name: name.to_owned(), tensor: tensor.clone(), cut: Cut::Whole, scale: None }
    }
}

/// Whether shapes are equal except for sides of 1 at the end, between a matrix and a 1×1 convolution.
fn fits(found: &[usize], wanted: &[usize]) -> bool {
    let is_pointwise = |of: &[usize], matrix: &[usize]| matrix.len() == 2 && of.strip_suffix(&[1, 1]) == Some(matrix);
    found == wanted || is_pointwise(found, wanted) || is_pointwise(wanted, found)
}

fn described(what: &str, names: &BTreeSet<String>) -> String {
    let first = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{} {what} ({first}{more})", names.len())
}

impl Cut {
    /// The part of the stored tensor `name`. The shape is that after rearranging, the bytes are those before.
    fn of(self, name: &str, stored: &Tensor) -> Result<Tensor, String> {
        let mut part = stored.clone();
        let refused = |what: &str| Err(format!("{name} {:?} {what}", stored.shape));
        match self {
            Self::Whole => {}
            Self::Rows { from, to } => {
                let Some((&rows, inner)) = stored.shape.split_first() else { return refused("has no rows") };
                let to = to.unwrap_or(rows);
                if from >= to || to > rows {
                    return refused(&format!("has no rows {from} to {to}"));
                }
                let Some(row) = stored.kind.length(if inner.is_empty() { &[1] } else { inner }) else {
                    return refused("cannot be cut into rows");
                };
                part.start += (from * row) as u64;
                part.length = (to - from) * row;
                part.shape[0] = to - from;
            }
            Self::Linear => {
                if part.shape.len() > 2 && part.shape[2..].iter().all(|side| *side == 1) {
                    part.shape.truncate(2);
                }
            }
            Self::HalvesSwapped => match stored.shape.first() {
                Some(rows) if rows.is_multiple_of(2) => {}
                _ => return refused("has no two halves"),
            },
            Self::Transposed => {
                if stored.shape.len() != 2 {
                    return refused("is no matrix");
                }
                part.shape.reverse();
            }
        }
        Ok(part)
    }
}
