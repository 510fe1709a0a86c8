//! Random weights at full size, without a download: speed does not depend on values, as long as nothing overflows.

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::{DType, Distribution};

/// Draws every matrix from N(0, 0.02) on the device; biases are 0 and norms 1. All are in `dtype`.
pub(crate) fn draw<M: Module>(network: M, dtype: DType) -> M {
    network.map(&mut Draw(dtype))
}

struct Draw(DType);

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dtype = self.0;
        if D < 2 {
            return param.map(|tensor| tensor.cast(dtype));
        }
        let (dims, device) = (param.lazy_shape().dims::<D>(), param.lazy_device());
        // Placed like weights from a file.
        let values = device.memory_persistent_allocations(dims, |dims: [usize; D]| {
            Tensor::random(dims, Distribution::Normal(0.0, 0.02), (&device, dtype))
        });
        Param::initialized(param.id, values)
    }
}
