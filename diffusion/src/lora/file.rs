//! One adapter file, read and checked: whatever trainer wrote it, it becomes a table of low-rank updates by our module
//! paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::alpha::AlphaRule;
use super::keys::{self, Key, Layer, Part, Share};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// Above this a file holds no low-rank update any more.
const HIGHEST_RANK: usize = 512;

/// An adapter of FLUX.1, checked and in memory.
#[derive(Debug, Clone)]
pub struct LoraFile {
    updates: Vec<(String, Update)>,
    others: Vec<String>,
    alpha_source: String,
}

/// The update of one module: `scale · B · A`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Update {
    /// A, `[rank, inputs]`
    pub down: Vec<f32>,
    /// B, `[outputs, rank]`
    pub up: Vec<f32>,
    pub rank: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub scale: f64,
}

/// The tensors of one layer of a file.
#[derive(Debug)]
struct Parts {
    layer: Layer,
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
}

impl LoraFile {
    /// Reads a safetensors file, whatever its name is. Refused with a sentence: pickles, other algorithms than LoRA,
    /// adapters of other model families, ranks above 512, values that are not finite.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let mut layers: BTreeMap<String, Parts> = BTreeMap::new();
        let mut others = BTreeSet::new();
        for name in &names {
            match keys::parse(name) {
                Key::Unsupported(kind) => {
                    return Err(Error::Adapter(format!("it is {kind}; only plain LoRA can be used")));
                }
                Key::Other { layer } => {
                    others.insert(layer);
                }
                Key::Flux { layer, part } => {
                    let parts = layers.entry(layer.name.clone()).or_insert_with(|| Parts {
                        layer,
                        down: None,
                        up: None,
                        alpha: None,
                    });
                    let place = match part {
                        Part::Down => &mut parts.down,
                        Part::Up => &mut parts.up,
                        Part::Alpha => &mut parts.alpha,
                    };
                    if place.replace(name.clone()).is_some() {
                        return Err(Error::malformed(path, format!("{} is there twice", parts.layer.name)));
                    }
                }
            }
        }
        if layers.is_empty() {
            let family = keys::family(&names);
            return Err(Error::Adapter(format!("it looks like {family}; a LoRA of FLUX.1 is needed")));
        }
        let rule = AlphaRule::read(path, file.metadata(), layers.values().any(|parts| parts.alpha.is_some()))?;
        let mut updates = Vec::new();
        for parts in layers.values() {
            updates.extend(read(path, &file, parts, &rule)?);
        }
        Ok(Self { updates, others: others.into_iter().collect(), alpha_source: rule.source.to_owned() })
    }

    /// Updates by module path; a path may occur twice.
    pub(super) fn updates(&self) -> &[(String, Update)] {
        &self.updates
    }

    /// Layers of the file that are no layers of a FLUX transformer.
    pub(super) fn others(&self) -> &[String] {
        &self.others
    }

    pub(super) fn alpha_source(&self) -> &str {
        &self.alpha_source
    }
}

/// The updates that one layer of a file stands for: several if the file fuses what we keep apart.
fn read(path: &Path, file: &Checkpoint, parts: &Parts, rule: &AlphaRule) -> Result<Vec<(String, Update)>> {
    let Parts { layer, down, up, alpha } = parts;
    let refused = |reason: String| Error::malformed(path, format!("{}: {reason}", layer.name));
    let (Some(down), Some(up)) = (down, up) else {
        return Err(refused("one of the two factors is missing".into()));
    };
    let (down_shape, up_shape) = (file.shape(down)?, file.shape(up)?);
    let (&[rank, inputs], &[outputs, up_rank]) = (&*down_shape, &*up_shape) else {
        return Err(refused(format!("the factors are no matrices: {down_shape:?} and {up_shape:?}")));
    };
    if rank != up_rank || !(1..=HIGHEST_RANK).contains(&rank) {
        return Err(refused(format!(
            "the ranks of its factors are {rank} and {up_rank}; 1 to {HIGHEST_RANK} is possible"
        )));
    }
    let (down, up) = (file.read_f32(down)?, file.read_f32(up)?);
    if down.iter().chain(&up).any(|value| !value.is_finite()) {
        return Err(refused("it holds values that are not finite".into()));
    }
    let alpha = match alpha {
        None => None,
        Some(name) => match file.read_f32(name)?.as_slice() {
            [alpha] if alpha.is_finite() => Some(f64::from(*alpha)),
            _ => return Err(refused("its alpha is not one finite number".into())),
        },
    };
    let mut updates = Vec::with_capacity(layer.targets.len());
    for (target, share) in &layer.targets {
        let scale = rule.scale(target, rank, alpha);
        if !scale.is_finite() {
            return Err(refused("its alpha is not finite".into()));
        }
        let up = rows(&up, outputs, rank, *share)
            .ok_or_else(|| refused(format!("{outputs} outputs cannot be shared among the layers it fuses")))?;
        let update = Update { down: down.clone(), outputs: up.len() / rank, up, rank, inputs, scale };
        updates.push((target.clone(), update));
    }
    Ok(updates)
}

/// The rows of B, `[outputs, rank]`, that belong to a share.
fn rows(up: &[f32], outputs: usize, rank: usize, share: Share) -> Option<Vec<f32>> {
    match share {
        Share::Whole => Some(up.to_vec()),
        Share::HalvesSwapped => {
            let (first, second) = up.split_at(outputs.is_multiple_of(2).then_some(outputs / 2 * rank)?);
            Some([second, first].concat())
        }
        Share::Parts { from, count, of } => {
            let part = outputs.is_multiple_of(of).then_some(outputs / of * rank)?;
            Some(up[from * part..(from + count) * part].to_vec())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_b_are_rows() {
        let up: Vec<f32> = (0..14).map(|value| value as f32).collect(); // [7, 2]
        let mlp = Share::Parts { from: 3, count: 4, of: 7 };
        assert_eq!(rows(&up, 7, 2, mlp).unwrap(), &up[6..]);
        assert_eq!(rows(&up, 7, 2, Share::Parts { from: 0, count: 1, of: 3 }), None);
        assert_eq!(rows(&up[..4], 2, 2, Share::HalvesSwapped).unwrap(), [2., 3., 0., 1.]);
    }
}
