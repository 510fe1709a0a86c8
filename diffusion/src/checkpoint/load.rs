//! Filling a network from a checkpoint, strictly: every parameter is found, and every tensor is used.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::prelude::*;
use burn::tensor::DType;

use super::Checkpoint;
use crate::{Error, Result};

/// How many keys of each kind an error names.
const NAMED: usize = 5;

/// The network with the values of `checkpoint`, where the path of each parameter is its key, in `dtype`. Parameters require
/// gradients if the network was made on a device with autodiff. Where the network has a matrix, a 1×1 convolution
/// `[out, in, 1, 1]` fits too, since it is one.
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
    let unused: Vec<String> = checkpoint.names().filter(|name| !used.contains(*name)).map(str::to_owned).collect();
    let problems: Vec<String> = [("missing", missing), ("unused", unused), ("of the wrong shape", misshapen)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| describe(what, &names))
        .collect();
    if problems.is_empty() {
        Ok(network)
    } else {
        Err(Error::Weights { path: checkpoint.path().to_owned(), reason: problems.join("; ") })
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
            self.missing.push(key);
            return param;
        };
        let wanted: [usize; D] = param.lazy_shape().dims();
        self.used.insert(key.clone());
        if found != wanted && !(D == 2 && found.strip_suffix(&[1, 1]) == Some(&wanted)) {
            self.misshapen.push(format!("{key}: {found:?} instead of {wanted:?}"));
            return param;
        }
        // Nothing more is read once the checkpoint is known not to fit.
        if self.failure.is_some() || !self.missing.is_empty() || !self.misshapen.is_empty() {
            return param;
        }
        match self.checkpoint.read(&key, self.dtype) {
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
