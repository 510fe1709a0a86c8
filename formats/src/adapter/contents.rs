//! The modules of an adapter file, checked by the names, shapes and data types of its tensors. Server and engine both
//! read a file through this, so that the engine can load what the server accepts. Only values are checked later: they
//! must be finite.

use std::collections::{BTreeMap, BTreeSet};

use super::forms::{self, Side, Weight};
use super::keys::{self, Dialect, Key, Module, Part, Share};
use super::{Algorithm, AlphaRule};
use crate::{Header, Tensor, TensorType};

/// Highest supported rank of an adapter.
pub const MAX_RANK: usize = 512;
/// The warning of an adapter whose alpha is 0 in every module.
pub const CHANGES_NOTHING: &str = "alpha is 0 everywhere, so it changes nothing";
/// How many names a warning lists.
const SHOWN: usize = 3;

/// The contents of an adapter file.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The modules that are changed, by name.
    pub modules: Vec<Adapted>,
    /// Layers and tensors that no supported network has, as the file names them. They have no effect.
    pub unknown: Vec<String>,
    /// Modules with alpha or magnitudes and without factors. They have no effect.
    pub idle: Vec<String>,
    pub alpha: AlphaRule,
}

/// A module of the file that is changed.
#[derive(Debug, Clone)]
pub struct Adapted {
    pub module: Module,
    /// Names of its tensors.
    pub tensors: BTreeMap<Part, String>,
    pub algorithm: Algorithm,
    /// Shape of ΔW. LyCORIS flattens kernels along the inputs. `None` if only the bias changes.
    pub weight: Option<Weight>,
    /// The rank, by which alpha is divided; for a fused layer, that of all its parts together. `None` for forms without
    /// one: alpha has no meaning there.
    pub rank: Option<usize>,
    pub magnitude: Option<Magnitude>,
}

/// What DoRA's magnitudes are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magnitude {
    Outputs,
    Inputs,
}

/// The tensors of one module while it is checked.
struct Parts<'a> {
    module: Module,
    tensors: BTreeMap<Part, (&'a String, &'a Tensor)>,
}

impl Contents {
    /// Reads the header of a file, and `config`, the text of PEFT's config beside it. Errors: a sentence, if the file
    /// is not an adapter for the supported networks, uses an unsupported algorithm or does not fit together.
    pub fn read(header: &Header, config: Option<&str>) -> Result<Self, String> {
        let mut found: BTreeMap<String, Parts> = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for (name, tensor) in &header.tensors {
            match keys::parse(name) {
                Key::Unsupported(kind) => return Err(keys::not_used(kind)),
                Key::Other { layer } => drop(unknown.insert(layer)),
                Key::Known { module, part } => {
                    let entry = found.entry(module.name.clone());
                    let parts = entry.or_insert_with(|| Parts { module, tensors: BTreeMap::new() });
                    if let Some((other, _)) = parts.tensors.insert(part, (name, tensor)) {
                        return Err(format!("{}: {other} and {name} are the same part", parts.module.name));
                    }
                }
            }
        }
        let (mut modules, mut idle) = (Vec::new(), Vec::new());
        for parts in found.values() {
            match parts.check().map_err(|reason| format!("{}: {reason}", parts.module.name))? {
                Some(adapted) => modules.push(adapted),
                None => idle.push(parts.module.name.clone()),
            }
        }
        if modules.is_empty() {
            return Err(match idle.first() {
                Some(module) => format!("it has no factors, only alpha or magnitudes, such as those of {module}"),
                None => keys::not_known(header.tensors.keys()),
            });
        }
        let has_alpha = modules.iter().any(|adapted| adapted.tensors.contains_key(&Part::Alpha));
        let alpha = AlphaRule::read(&header.metadata, config, has_alpha)?;
        Ok(Self { modules, unknown: unknown.into_iter().collect(), idle, alpha })
    }

    /// Assumptions and parts without effect, as sentences without a full stop.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let ranked = || self.modules.iter().filter(|adapted| adapted.rank.is_some());
        let guessed: Vec<&str> = ranked()
            .filter(|adapted| !self.states_alpha(adapted))
            .map(|adapted| adapted.module.name.as_str())
            .collect();
        if guessed.len() == ranked().count() && !guessed.is_empty() {
            warnings.push("alpha is not in the file; taken as the rank".to_owned());
        } else if !guessed.is_empty() {
            warnings.push(format!("alpha of {} is not in the file; taken as the rank", some(&guessed)));
        }
        warnings.extend(self.alpha.warnings());
        if self.alpha.uses_dora() && self.modules.iter().all(|adapted| adapted.magnitude.is_none()) {
            warnings.push("its config says DoRA, and the file has no magnitudes; applied as LoRA".to_owned());
        }
        if !self.idle.is_empty() {
            warnings.push(format!("alpha or magnitudes without factors have no effect: {}", some(&self.idle)));
        }
        if !self.unknown.is_empty() {
            warnings.push(format!("unknown layers or tensors have no effect: {}", some(&self.unknown)));
        }
        warnings
    }

    /// Names of the alpha tensors on which it depends whether the adapter has an effect: it has none if all of them are
    /// 0. `None` if it has an effect anyway.
    pub fn deciding_alphas(&self) -> Option<Vec<&str>> {
        let mut alphas = Vec::new();
        for Adapted { module, tensors, rank, magnitude, .. } in &self.modules {
            let has_bias = [Part::UpBias, Part::DiffBias].iter().any(|part| tensors.contains_key(part));
            let rank = rank.filter(|_| magnitude.is_none() && !has_bias)?;
            match tensors.get(&Part::Alpha) {
                Some(name) => alphas.push(name.as_str()),
                None => {
                    let scale = |path| self.alpha.scale(module.network, &module.names(path), rank, None);
                    module.targets.iter().all(|(path, _)| scale(path) == 0.0).then_some(())?;
                }
            }
        }
        Some(alphas)
    }

    fn states_alpha(&self, adapted: &Adapted) -> bool {
        adapted.tensors.contains_key(&Part::Alpha)
            // XLabs' format has no alpha.
            || adapted.module.dialect == Dialect::Xlabs
            || adapted.module.targets.iter().all(|(path, _)| {
                self.alpha.states(adapted.module.network, &adapted.module.names(path))
            })
    }
}

impl Parts<'_> {
    fn shape(&self, part: Part) -> Option<&[usize]> {
        self.tensors.get(&part).map(|(_, tensor)| &*tensor.shape)
    }

    /// `None` if it has alpha or magnitudes only.
    fn check(&self) -> Result<Option<Adapted>, String> {
        if self.tensors.keys().all(|part| matches!(part, Part::Alpha | Part::DoraScale | Part::MagnitudeVector)) {
            return Ok(None);
        }
        for (part, (name, tensor)) in &self.tensors {
            if tensor.shape.contains(&0) {
                return Err(format!("{name} is empty; ranks of 1 to {MAX_RANK} are possible"));
            }
            let kind = tensor.kind;
            let readable = !kind.is_integer() || (*part == Part::Alpha && kind != TensorType::BOOL);
            if !readable {
                return Err(format!("{name} has the type {kind}; it must consist of floats"));
            }
        }
        if self.shape(Part::Alpha).is_some_and(|shape| shape.iter().any(|side| *side != 1)) {
            return Err("its alpha is not one number".to_owned());
        }
        let (algorithm, weight, rank) = self.form()?;
        let bias = [Part::UpBias, Part::DiffBias].into_iter().filter_map(|part| self.shape(part));
        let outputs = weight.map(|[outputs, ..]| outputs).or_else(|| bias.clone().next()?.first().copied());
        for bias in bias {
            if bias.len() != 1 || bias.first().copied() != outputs {
                return Err("its bias is not one number for each output".to_owned());
            }
        }
        let fused = self.module.targets.len();
        // A fused layer may hold the factors of each part side by side.
        if let Some(rank) = rank.filter(|rank| *rank > MAX_RANK * fused) {
            return Err(format!("its rank is {rank}; 1 to {MAX_RANK} is possible"));
        }
        let outputs = outputs.unwrap_or(0);
        let magnitude = if weight.is_some() { self.magnitude(outputs, weight)? } else { None };
        if !self.module.targets.iter().all(|(_, share)| self.can_be_shared(algorithm, *share, outputs)) {
            return Err(format!("{outputs} outputs cannot be shared among the layers it fuses"));
        }
        let tensors = self.tensors.iter().map(|(part, (name, _))| (*part, (*name).clone()));
        Ok(Some(Adapted {
            module: self.module.clone(),
            tensors: tensors.collect(),
            algorithm,
            weight,
            rank,
            magnitude,
        }))
    }

    /// How ΔW is stored, its shape and its rank.
    fn form(&self) -> Result<(Algorithm, Option<Weight>, Option<usize>), String> {
        let has = |parts: &[Part]| parts.iter().any(|part| self.tensors.contains_key(part));
        let low_rank = has(&[Part::Down, Part::Up, Part::Mid, Part::UpBias]);
        let loha = has(&[Part::HadaW1A, Part::HadaW1B, Part::HadaW2A, Part::HadaW2B, Part::HadaT1, Part::HadaT2]);
        let lokr = has(&[
            Part::LokrW1,
            Part::LokrW1A,
            Part::LokrW1B,
            Part::LokrW2,
            Part::LokrW2A,
            Part::LokrW2B,
            Part::LokrT2,
        ]);
        let full = has(&[Part::Diff]);
        let norm = self.module.targets.iter().any(|(path, _)| keys::is_norm(path));
        if norm && (low_rank || loha || lokr || has(&[Part::DoraScale, Part::MagnitudeVector])) {
            return Err("it is a norm, which takes a difference only".to_owned());
        }
        let (algorithm, weight, rank) = match (low_rank, loha, lokr, full) {
            (true, false, false, false) => {
                let (down, up) = (self.needed(Part::Down)?, self.needed(Part::Up)?);
                let algorithm = if down.len() == 4 { Algorithm::Locon } else { Algorithm::Lora };
                (algorithm, forms::low_rank(down, self.shape(Part::Mid), up), down.first().copied())
            }
            (false, true, false, false) => {
                let a = [self.needed(Part::HadaW1A)?, self.needed(Part::HadaW2A)?];
                let b = [self.needed(Part::HadaW1B)?, self.needed(Part::HadaW2B)?];
                let cores = match (self.shape(Part::HadaT1), self.shape(Part::HadaT2)) {
                    (Some(first), Some(second)) => Some([first, second]),
                    (None, None) => None,
                    _ => return Err("one of its two cores is missing".to_owned()),
                };
                (Algorithm::Loha, forms::loha(a, b, cores), b[0].first().copied())
            }
            (false, false, true, false) => {
                let left = self.side(Part::LokrW1, Part::LokrW1A, Part::LokrW1B, None)?;
                let core = self.shape(Part::LokrT2);
                let right = self.side(Part::LokrW2, Part::LokrW2A, Part::LokrW2B, core)?;
                let weight =
                    forms::lokr(left, right).map(|([a, c], [b, d, height, width])| [a * b, c * d, height, width]);
                (Algorithm::Lokr, weight, right.rank().or(left.rank()))
            }
            (false, false, false, true) => {
                let diff = self.needed(Part::Diff)?;
                let fits = if norm { diff.len() == 1 } else { forms::is_weight(diff) };
                let algorithm = if norm { Algorithm::Norm } else { Algorithm::Full };
                (algorithm, fits.then(|| forms::sides(diff)), None)
            }
            (false, false, false, false) => {
                return Ok((if norm { Algorithm::Norm } else { Algorithm::Bias }, None, None));
            }
            _ => return Err("it holds tensors of several algorithms".to_owned()),
        };
        match weight {
            Some(weight) => Ok((algorithm, Some(weight), rank)),
            None => {
                let tensors = self.tensors.values();
                let shapes: Vec<String> =
                    tensors.map(|(name, tensor)| format!("{}: {:?}", self.suffix(name), tensor.shape)).collect();
                Err(format!("the shapes of its tensors do not belong together: {}", shapes.join(", ")))
            }
        }
    }

    fn side<'a>(&'a self, whole: Part, a: Part, b: Part, core: Option<&'a [usize]>) -> Result<Side<'a>, String> {
        match self.shape(whole) {
            Some(whole) => Ok(Side::Whole(whole)),
            None => Ok(Side::Factored { a: self.needed(a)?, b: self.needed(b)?, core }),
        }
    }

    fn needed(&self, part: Part) -> Result<&[usize], String> {
        self.shape(part).ok_or_else(|| {
            let there: Vec<_> = self.tensors.values().map(|(name, _)| self.suffix(name)).collect();
            format!("it has {}, and its factor {part:?} is missing", there.join(", "))
        })
    }

    /// The end of a tensor's name that is not the module's.
    fn suffix<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.module.name.as_str()).map_or(name, |rest| rest.trim_start_matches(['.', '_']))
    }

    fn magnitude(&self, outputs: usize, weight: Option<Weight>) -> Result<Option<Magnitude>, String> {
        let wrong = || Err("its magnitudes are not one for each output or input".to_owned());
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        if let Some(vector) = self.shape(Part::MagnitudeVector) {
            return if count(vector) == outputs { Ok(Some(Magnitude::Outputs)) } else { wrong() };
        }
        let Some(scale) = self.shape(Part::DoraScale) else { return Ok(None) };
        match (scale.first() == Some(&outputs), count(scale)) {
            (true, count) if count == outputs => Ok(Some(Magnitude::Outputs)),
            (true, _) if outputs > 1 => wrong(),
            // The inputs may be those of a flattened kernel.
            (_, count) if weight.is_some_and(|[_, inputs, ..]| inputs.is_multiple_of(count)) => {
                Ok(Some(Magnitude::Inputs))
            }
            _ => wrong(),
        }
    }

    fn can_be_shared(&self, algorithm: Algorithm, share: Share, outputs: usize) -> bool {
        let cores = self.tensors.contains_key(&Part::HadaT1);
        match share {
            Share::Whole => true,
            // The outputs of a Kronecker product cannot be exchanged, and with cores, outputs are columns.
            Share::HalvesSwapped => algorithm != Algorithm::Lokr && !cores && outputs.is_multiple_of(2),
            Share::Parts { of, .. } => !cores && outputs.is_multiple_of(of),
        }
    }
}

/// The first names, and the number of the others.
fn some<T: AsRef<str>>(names: &[T]) -> String {
    let listed: Vec<_> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", listed.join(", "))
}
