//! Fuses FLUX.1's layers as Black Forest Labs do: the inverse of the splits in `keys`. Parts that were split from one
//! layer become that layer again. Other low-rank updates are concatenated, at the sum of their ranks.

use super::update::{Array, Delta, LoHa, LoKr, LowRank, Magnitude, Update};

/// One part of a fused layer.
pub(super) struct Part<'a> {
    /// `None` if the file has no update for it.
    pub update: Option<&'a Update>,
    /// Its share of the outputs, in the smallest unit of the layer.
    pub share: usize,
}

/// The update of the whole layer; `None` if its parts have no common form.
pub(super) fn fuse(parts: &[Part]) -> Option<Update> {
    let sizes = sizes(parts)?;
    let present = || parts.iter().filter_map(|part| part.update);
    let scale = present().next()?.scale;
    let delta = match parts.iter().find_map(|part| part.update?.delta.as_ref())? {
        Delta::LowRank(_) => {
            let factors: Vec<Option<(&LowRank, f64)>> = parts
                .iter()
                .map(|part| match part.update.map(|update| (&update.delta, update.scale)) {
                    None | Some((None, _)) => Some(None),
                    Some((Some(Delta::LowRank(factors)), scale)) if factors.mid.is_none() => {
                        Some(Some((factors, scale)))
                    }
                    _ => None,
                })
                .collect::<Option<_>>()?;
            return Some(Update { bias: bias(parts, &sizes), ..low_rank(&factors, &sizes, magnitude(parts)?)? });
        }
        Delta::LoHa(_) => Delta::LoHa(LoHa::joined(&all(parts, |delta| match delta {
            Delta::LoHa(factors) => Some(factors),
            _ => None,
        })?)?),
        Delta::LoKr(_) => Delta::LoKr(LoKr::joined(&all(parts, |delta| match delta {
            Delta::LoKr(factors) => Some(factors),
            _ => None,
        })?)?),
        Delta::Full(_) => {
            let all = all(parts, |delta| match delta {
                Delta::Full(delta) => Some(delta),
                _ => None,
            })?;
            Delta::Full(Array::stacked(all.into_iter())?)
        }
    };
    let same = present().all(|update| update.scale == scale);
    same.then_some(Update { delta: Some(delta), scale, magnitude: magnitude(parts)?, bias: bias(parts, &sizes) })
}

/// All parts in one form; `None` if any has another one.
fn all<'a, T>(parts: &[Part<'a>], form: impl Fn(&'a Delta) -> Option<T>) -> Option<Vec<T>> {
    parts.iter().map(|part| form(part.update?.delta.as_ref()?)).collect()
}

/// The outputs of each part.
fn sizes(parts: &[Part]) -> Option<Vec<usize>> {
    let unit = parts.iter().find_map(|part| {
        let outputs = part.update?.delta.as_ref()?.shape()[0];
        outputs.is_multiple_of(part.share).then_some(outputs / part.share)
    })?;
    let fits = |part: &Part| {
        part.update.and_then(|update| update.delta.as_ref()).is_none_or(|delta| delta.shape()[0] == unit * part.share)
    };
    parts.iter().all(fits).then(|| parts.iter().map(|part| unit * part.share).collect())
}

/// One pair of factors equivalent to all of them.
fn low_rank(factors: &[Option<(&LowRank, f64)>], sizes: &[usize], magnitude: Option<Magnitude>) -> Option<Update> {
    let mut present = factors.iter().flatten();
    let (first, scale) = present.next()?;
    let one_scale = present.clone().all(|(_, other)| other == scale);
    let one_down = present.all(|(other, _)| other.down == first.down);
    let (outputs, inputs) = (sizes.iter().sum(), first.down.shape.get(1).copied()?);
    let rank = if one_down { first.rank() } else { factors.iter().flatten().map(|(factors, _)| factors.rank()).sum() };
    let mut down = Array { shape: vec![rank, inputs], values: Vec::new() };
    let mut up = Array { shape: vec![outputs, rank], values: vec![0.0; outputs * rank] };
    let (mut row, mut column) = (0, 0);
    for (part, size) in factors.iter().zip(sizes) {
        if let Some((factors, own)) = part {
            if factors.down.shape != [factors.rank(), inputs] || factors.up.shape != [*size, factors.rank()] {
                return None;
            }
            // Different scales are multiplied into the factors.
            let by = if one_scale { 1.0 } else { *own as f32 };
            for (line, values) in factors.up.values.chunks(factors.rank()).enumerate() {
                let at = (row + line) * rank + column;
                up.values[at..at + values.len()].iter_mut().zip(values).for_each(|(to, value)| *to = value * by);
            }
            if !one_down || down.values.is_empty() {
                down.values.extend(&factors.down.values);
            }
            if !one_down {
                column += factors.rank();
            }
        }
        row += size;
    }
    let scale = if one_scale { *scale } else { 1.0 };
    Some(Update { delta: Some(Delta::LowRank(LowRank::new(down, None, up)?)), scale, magnitude, bias: None })
}

/// The magnitudes of all parts. `None` if some parts are not DoRA, or if magnitudes over inputs differ.
fn magnitude(parts: &[Part]) -> Option<Option<Magnitude>> {
    let all: Vec<Option<&Magnitude>> = parts.iter().map(|part| part.update?.magnitude.as_ref()).collect();
    if all.iter().all(Option::is_none) {
        return Some(None);
    }
    let all: Vec<&Magnitude> = all.into_iter().collect::<Option<_>>()?;
    let outputs: Option<Vec<&Array>> = all
        .iter()
        .map(|magnitude| match magnitude {
            Magnitude::Outputs(values) => Some(values),
            Magnitude::Inputs(_) => None,
        })
        .collect();
    // Over inputs, the norm covers all parts together, so the parts' own magnitudes cannot be combined.
    Some(Some(Magnitude::Outputs(Array::stacked(outputs?.into_iter())?)))
}

fn bias(parts: &[Part], sizes: &[usize]) -> Option<Array> {
    parts.iter().find_map(|part| part.update?.bias.as_ref())?;
    let values =
        parts.iter().zip(sizes).flat_map(|(part, size)| match part.update.and_then(|update| update.bias.as_ref()) {
            Some(bias) => bias.values.clone(),
            None => vec![0.0; *size],
        });
    let values: Vec<f32> = values.collect();
    Some(Array { shape: vec![values.len()], values })
}
