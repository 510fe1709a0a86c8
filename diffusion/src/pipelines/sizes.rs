//! The sizes of a network's weights, from its config and its header alone, and how many bytes they take in each storage.

use std::collections::BTreeMap;

use burn::tensor::DType;

use crate::checkpoint::Checkpoint;
use crate::layers::{NamedLayers, WeightStorage};

/// The weights of a network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sizes {
    /// Number of linear layers by shape, `[out, in]`, that [`super::LoadOptions`] stores as it says.
    linears: BTreeMap<[usize; 2], usize>,
    /// The same for convolutions, `[out, in · kernel · kernel]`.
    convolutions: BTreeMap<[usize; 2], usize>,
    /// Number of values in everything else, which stays in the network's dtype.
    other: usize,
}

impl Sizes {
    /// The sizes of a network's layers for which `stores` is true, and of the rest of its `values` values.
    pub(super) fn of(layers: NamedLayers<'_>, values: usize, stores: impl Fn(&str) -> bool) -> Self {
        let mut sizes = Self::default();
        for (_, linear) in layers.linears.into_iter().filter(|(path, _)| stores(path)) {
            *sizes.linears.entry(linear.weight.dims()).or_default() += 1;
        }
        for (_, convolution) in layers.convolutions.into_iter().filter(|(path, _)| stores(path)) {
            let [outputs, inputs, height, width] = convolution.weight.dims();
            *sizes.convolutions.entry([outputs, inputs * height * width]).or_default() += 1;
        }
        sizes.other = values.saturating_sub(sizes.values());
        sizes
    }

    /// Number of all values.
    pub(crate) fn values(&self) -> usize {
        self.shapes().map(|([outputs, inputs], count)| outputs * inputs * count).sum::<usize>() + self.other
    }

    /// Bytes of all weights in a model of `dtype`.
    pub(super) fn bytes(&self, storage: WeightStorage, dtype: DType) -> u64 {
        let sum = |shapes: &BTreeMap<[usize; 2], usize>, storage: WeightStorage| {
            shapes.iter().map(|(shape, count)| storage.bytes(*shape, dtype) * *count as u64).sum::<u64>()
        };
        sum(&self.linears, storage)
            + sum(&self.convolutions, storage.of_convolution())
            + (self.other * dtype.size()) as u64
    }

    /// Bytes of the largest layer in f32.
    pub(super) fn largest(&self) -> u64 {
        let largest = self.shapes().map(|([outputs, inputs], _)| outputs * inputs).max();
        (largest.unwrap_or(0) * DType::F32.size()) as u64
    }

    /// The most values that a linear layer reads or writes for each token.
    pub(super) fn widest(&self) -> usize {
        self.linears.keys().flatten().copied().max().unwrap_or(0)
    }

    fn shapes(&self) -> impl Iterator<Item = ([usize; 2], usize)> {
        self.linears.iter().chain(&self.convolutions).map(|(shape, count)| (*shape, *count))
    }
}

/// Number of values in a checkpoint, from its header.
pub(super) fn values(checkpoint: &Checkpoint) -> usize {
    let shapes = checkpoint.names().filter_map(|name| checkpoint.shape(name).ok());
    shapes.map(|shape| shape.iter().product::<usize>()).sum()
}
