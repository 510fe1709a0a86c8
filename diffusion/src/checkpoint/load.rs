//! Fills a network from a checkpoint, strictly: every parameter must be found, and every tensor used.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use burn::tensor::DType;
use memory::{BLOCK, READ_AT_ONCE, WeightStorage};
use rayon::prelude::*;

use super::{Checkpoint, values};
use crate::layers::{Codes, Packed, pack};
use crate::{Error, Result};

/// Fills `network` with the values of `checkpoint` in `dtype`; the path of each parameter is its key. Parameters
/// require gradients if the network was made on a device with autodiff. Values of packed matrices are packed as they
/// are read.
///
/// # Errors
/// Those of [`View::check`](formats::View::check). NaN and infinite values, since the picture would be NaN.
/// [`Error::Canceled`] if the checkpoint's [`Reading`](super::Reading) ends it.
pub fn load_strict<M: Module>(network: M, checkpoint: &Checkpoint, dtype: DType) -> Result<M> {
    load_partly(network, checkpoint, dtype, &[])
}

/// Like [`load_strict`], but leaves parameters whose paths begin with one of `absent` as they are. They have to be in
/// the checkpoint nevertheless.
pub(crate) fn load_partly<M: Module>(
    network: M,
    checkpoint: &Checkpoint,
    dtype: DType,
    absent: &[String],
) -> Result<M> {
    let mut requested = Requested::default();
    network.visit(&mut requested);
    let shapes: Vec<_> = requested.all.iter().map(|tensor| tensor.stored_shape(checkpoint)).collect();
    let wanted = requested.all.iter().zip(&shapes).map(|(tensor, shape)| (tensor.key.as_str(), shape.as_slice()));
    checkpoint.view().check(wanted).map_err(|reason| Error::Weights { path: checkpoint.path().to_owned(), reason })?;
    let is_absent = |path: &str| absent.iter().any(|start| path.starts_with(start));
    requested.all.retain(|tensor| !is_absent(&tensor.key));
    requested.all.reverse();
    let stage = checkpoint.reading().stage();
    if stage.is_outermost() {
        checkpoint.reading().expect(requested.all.iter().map(|tensor| checkpoint.bytes_of(&tensor.key)).sum());
    }
    let mut loader = Loader {
        checkpoint,
        dtype,
        is_absent: &is_absent,
        path: Names::default(),
        to_read: requested.all,
        read: BTreeMap::new(),
        failure: None,
    };
    let network = network.map(&mut loader);
    match loader.failure {
        Some(error) => Err(error),
        None => Ok(network),
    }
}

/// Whether Burn reports an enum. Its variants are not part of a path.
pub(crate) fn is_choice(container: &str) -> bool {
    container.starts_with("Enum:")
}

/// The path of a parameter: field names, and indices in lists.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn enter(&mut self, name: &str, container: &str) {
        if !is_choice(container) {
            self.0.push(name.to_owned());
        }
    }

    fn exit(&mut self, container: &str) {
        if !is_choice(container) {
            self.0.pop();
        }
    }

    fn path(&self) -> String {
        self.0.join(".")
    }
}

/// A tensor that the network requests from the checkpoint.
struct RequestedTensor {
    key: String,
    shape: Vec<usize>,
    storage: WeightStorage,
}

impl RequestedTensor {
    /// Its shape in the file: that of a convolution, if it is packed as a matrix.
    fn stored_shape(&self, checkpoint: &Checkpoint) -> Vec<usize> {
        let stored = checkpoint.view().get(&self.key).map(|seen| seen.tensor.shape.clone()).unwrap_or_default();
        let is_convolution = self.storage > WeightStorage::Half && stored.len() == 4;
        let rows = |shape: &[usize]| [shape[0], shape[1..].iter().product()];
        if is_convolution && rows(&stored) == rows(&self.shape) { stored } else { self.shape.clone() }
    }
}

/// All requested tensors, in the order in which the network is filled.
#[derive(Default)]
struct Requested {
    path: Names,
    all: Vec<RequestedTensor>,
    /// Shape of the codes visited last. Their scales follow; both are one tensor.
    codes: Option<[usize; 2]>,
    /// Whether the current parameter is stored in 16 bits.
    half: bool,
}

impl ModuleVisitor for Requested {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.half = is_choice(container) && name == HALF;
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.half = false;
        self.path.exit(container);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.codes = param.lazy_shape().as_slice().try_into().ok();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (path, shape) = (self.path.path(), param.lazy_shape());
        let packed = self.codes.take().zip(path.strip_suffix(SCALES));
        self.all.push(match (packed, shape.as_slice()) {
            (Some((codes, key)), &[outputs, blocks]) => RequestedTensor {
                key: key.to_owned(),
                shape: vec![outputs, blocks * BLOCK],
                storage: Packed::storage_of(codes, [outputs, blocks]),
            },
            (_, shape) => {
                let storage = if self.half { WeightStorage::Half } else { WeightStorage::Full };
                RequestedTensor { key: path, shape: shape.to_vec(), storage }
            }
        });
    }
}

/// The variant of [`crate::layers::Weight`] in 16 bits.
const HALF: &str = "Half";
/// Suffixes of the parameters of a packed matrix.
const CODES: &str = ".codes";
const SCALES: &str = ".scales";

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    dtype: DType,
    /// Whether a parameter is not loaded, by its path.
    is_absent: &'a (dyn Fn(&str) -> bool + Sync),
    path: Names,
    /// In reverse order: the next tensor is the last entry.
    to_read: Vec<RequestedTensor>,
    /// Tensors that were read, by the path of their parameter.
    read: BTreeMap<String, TensorData>,
    failure: Option<Error>,
}

impl Loader<'_> {
    /// The values of the current parameter. `None` after a failure, when nothing more is read.
    fn next(&mut self) -> Option<TensorData> {
        let path = self.path.path();
        if (self.is_absent)(&path) {
            return None;
        }
        while self.failure.is_none() {
            if let Some(data) = self.read.remove(&path) {
                return Some(data);
            }
            let (mut next, mut bytes) = (Vec::new(), 0);
            // A larger tensor is read by itself.
            while let Some(tensor) = self.to_read.last()
                && let size = 4 * tensor.shape.iter().product::<usize>()
                && (next.is_empty() || bytes + size <= READ_AT_ONCE)
            {
                bytes += size;
                next.extend(self.to_read.pop());
            }
            if next.is_empty() {
                break;
            }
            let all: Result<Vec<_>> = next.par_iter().map(|tensor| self.of(tensor)).collect();
            match all {
                Ok(all) => self.read.extend(all.into_iter().flatten()),
                Err(error) => self.failure = Some(error),
            }
        }
        None
    }

    /// Reads, checks and, if requested, packs a tensor. Returns each part with the path of its parameter.
    fn of(&self, RequestedTensor { key, shape, storage }: &RequestedTensor) -> Result<Vec<(String, TensorData)>> {
        if *storage <= WeightStorage::Half {
            let dtype = if *storage == WeightStorage::Full { self.dtype } else { self.checkpoint.half_of(key) };
            let data = self.finite(key, self.checkpoint.read(key, dtype)?)?;
            return Ok(vec![(key.clone(), TensorData::from_bytes(data.into_bytes(), shape.clone(), dtype))]);
        }
        let data = self.finite(key, self.checkpoint.read(key, DType::F32)?)?;
        let values =
            data.as_slice::<f32>().map_err(|error| Error::malformed(self.checkpoint.path(), format!("{error:?}")))?;
        let Codes { codes, scales } = pack(values, shape.last().copied().unwrap_or(1), *storage);
        Ok(vec![(format!("{key}{CODES}"), codes), (format!("{key}{SCALES}"), scales)])
    }

    fn finite(&self, key: &str, data: TensorData) -> Result<TensorData> {
        if values::are_finite(&data) {
            return Ok(data);
        }
        let name = self.checkpoint.view().name_in_file(key);
        let reason = format!("{name} has values that are NaN or infinite in {:?}", data.dtype());
        Err(Error::Weights { path: self.checkpoint.path().to_owned(), reason })
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    // Weights are persistent, so they get allocations of exactly their size, separate from the pool for temporary
    // tensors.
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.next() else { return param };
        let device = param.lazy_device();
        let tensor = device.memory_persistent_allocations(data, |data: TensorData| {
            let dtype = data.dtype();
            Tensor::from_data(data, (&device, dtype))
        });
        let tensor = if device.is_autodiff() { tensor.require_grad() } else { tensor };
        Param::initialized(ParamId::new(), tensor)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let Some(data) = self.next() else { return param };
        let device = param.lazy_device();
        let tensor = device.memory_persistent_allocations(data, |data: TensorData| {
            let dtype = data.dtype();
            Tensor::from_data(data, (&device, dtype))
        });
        Param::initialized(ParamId::new(), tensor)
    }
}
