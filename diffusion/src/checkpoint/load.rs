//! Filling a network from a checkpoint, strictly: every parameter is found, and every tensor is used.

use std::collections::BTreeSet;
use std::ops::BitAnd;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::prelude::*;
use burn::tensor::DType;

use super::Checkpoint;
use crate::{Error, Result};

/// How many keys of each kind an error names.
const NAMED: usize = 5;

/// The network with the values of `checkpoint`, where the path of each parameter is its key, in `dtype`. Parameters require
/// gradients if the network was made on a device with autodiff. Where the network has a matrix, a 1×1 convolution
/// `[out, in, 1, 1]` fits too, since it is one. An error names keys as the file does; a value that is NaN or infinite is an error
/// too, since no picture comes out of it.
pub fn load_strict<M: Module>(network: M, checkpoint: &Checkpoint, dtype: DType) -> Result<M> {
    let mut loader = Loader {
        checkpoint,
        dtype,
        path: Vec::new(),
        used: BTreeSet::new(),
        missing: Vec::new(),
        misshapen: Vec::new(),
        failure: None,
    };
    let network = network.map(&mut loader);
    let Loader { used, missing, misshapen, failure, .. } = loader;
    if let Some(error) = failure {
        return Err(error);
    }
    let used: BTreeSet<String> = used.iter().map(|key| checkpoint.name_in_file(key)).collect();
    let all: BTreeSet<String> = checkpoint.names().map(|key| checkpoint.name_in_file(key)).collect();
    let unused: Vec<String> = all.difference(&used).cloned().collect();
    let problems: Vec<String> = [("missing", missing), ("unused", unused), ("of the wrong shape", misshapen)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| describe(what, &names))
        .collect();
    if problems.is_empty() {
        Ok(network)
    } else {
        let taken_for = checkpoint.taken_for.iter().map(|family| format!("the file was taken for {family}"));
        let reason = problems.into_iter().chain(taken_for).collect::<Vec<_>>().join("; ");
        Err(Error::Weights { path: checkpoint.path().to_owned(), reason })
    }
}

/// Whether Burn speaks of an enum, whose variants have no part in a path.
pub(super) fn is_choice(container: &str) -> bool {
    container.starts_with("Enum:")
}

fn describe(what: &str, names: &[String]) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{} {what} ({}{more})", names.len(), names[..names.len().min(NAMED)].join(", "))
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    dtype: DType,
    path: Vec<String>,
    used: BTreeSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    failure: Option<Error>,
}

impl Loader<'_> {
    fn finite(&self, key: &str, data: TensorData) -> Result<TensorData> {
        // The exponent's bits are all set in infinities and NaN alone.
        let fine = match data.dtype() {
            DType::F32 => all_below(data.as_bytes(), |b| u32::from_le_bytes(*b), 0x7f80_0000),
            DType::F16 => all_below(data.as_bytes(), |b| u16::from_le_bytes(*b), 0x7c00),
            DType::BF16 => all_below(data.as_bytes(), |b| u16::from_le_bytes(*b), 0x7f80),
            _ => true,
        };
        if fine {
            return Ok(data);
        }
        let name = self.checkpoint.name_in_file(key);
        let reason = format!("{name} has values that are NaN or infinite in {:?}", data.dtype());
        Err(Error::Weights { path: self.checkpoint.path().to_owned(), reason })
    }
}

/// Whether no number has all bits of `exponent`. Without an early end, so that it runs at the speed of memory.
fn all_below<const N: usize, T: Copy + PartialEq + BitAnd<Output = T>>(
    bytes: &[u8],
    number: impl Fn(&[u8; N]) -> T,
    exponent: T,
) -> bool {
    bytes.as_chunks().0.iter().fold(true, |fine, bytes| fine & (number(bytes) & exponent != exponent))
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !is_choice(container) {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if !is_choice(container) {
            self.path.pop();
        }
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let key = self.path.join(".");
        let Ok(found) = self.checkpoint.shape(&key) else {
            let name = self.checkpoint.name_in_file(&key);
            // One fused tensor may be missed by several of ours.
            if !self.missing.contains(&name) {
                self.missing.push(name);
            }
            return param;
        };
        let wanted: [usize; D] = param.lazy_shape().dims();
        self.used.insert(key.clone());
        if found != wanted && !(D == 2 && found.strip_suffix(&[1, 1]) == Some(&wanted)) {
            self.misshapen.push(format!("{}: {found:?} instead of {wanted:?}", self.checkpoint.name_in_file(&key)));
            return param;
        }
        // Nothing more is read once the checkpoint is known not to fit.
        if self.failure.is_some() || !self.missing.is_empty() || !self.misshapen.is_empty() {
            return param;
        }
        match self.checkpoint.read(&key, self.dtype).and_then(|data| self.finite(&key, data)) {
            Ok(data) => {
                let device = param.lazy_device();
                // Weights stay, so they get memory of exactly their size, apart from that of what comes and goes.
                let dtype = self.dtype;
                let tensor = device.memory_persistent_allocations(data, |data: TensorData| {
                    let data = TensorData::from_bytes(data.into_bytes(), wanted, dtype);
                    Tensor::from_data(data, (&device, dtype))
                });
                let tensor = if device.is_autodiff() { tensor.require_grad() } else { tensor };
                Param::initialized(ParamId::new(), tensor)
            }
            Err(error) => {
                self.failure = Some(error);
                param
            }
        }
    }
}
