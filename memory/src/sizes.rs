//! The sizes of a network's weights, from its config alone, and how many bytes they take in each storage.

use std::collections::BTreeMap;

use crate::{ComputeType, WeightStorage};

/// The weights of a network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sizes {
    /// Number of linear layers by shape, `[out, in]`, that [`crate::LoadOptions`] stores as it says.
    linears: BTreeMap<[usize; 2], usize>,
    /// The same for convolutions, `[out, in · kernel · kernel]`.
    convolutions: BTreeMap<[usize; 2], usize>,
    /// Number of values in everything else, which stays in the type in which the device computes.
    other: usize,
}

impl Sizes {
    /// The sizes of a network's parameters. [`crate::LoadOptions`] stores the layers for which `stores` is true.
    pub(crate) fn of<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a [usize])>,
        stores: impl Fn(&str) -> bool,
    ) -> Self {
        let mut sizes = Self::default();
        for (key, shape) in parameters {
            let stored = key.ends_with(".weight") && !is_embedding(key) && stores(key);
            match *shape {
                [outputs, inputs] if stored => *sizes.linears.entry([outputs, inputs]).or_default() += 1,
                [outputs, inputs, height, width] if stored => {
                    *sizes.convolutions.entry([outputs, inputs * height * width]).or_default() += 1;
                }
                _ => sizes.other += shape.iter().product::<usize>(),
            }
        }
        sizes
    }

    /// Number of all values.
    pub(crate) fn values(&self) -> usize {
        self.shapes().map(|([outputs, inputs], count)| outputs * inputs * count).sum::<usize>() + self.other
    }

    /// Bytes of all weights where layers compute in `compute`.
    pub(crate) fn bytes(&self, storage: WeightStorage, compute: ComputeType) -> u64 {
        let sum = |shapes: &BTreeMap<[usize; 2], usize>, storage: WeightStorage| {
            shapes.iter().map(|(shape, count)| storage.bytes(*shape, compute) * *count as u64).sum::<u64>()
        };
        sum(&self.linears, storage)
            + sum(&self.convolutions, storage.of_convolution())
            + (self.other * compute.bytes()) as u64
    }

    /// Bytes of the largest layer in f32.
    pub(crate) fn largest(&self) -> u64 {
        let largest = self.shapes().map(|([outputs, inputs], _)| outputs * inputs).max();
        (largest.unwrap_or(0) * ComputeType::F32.bytes()) as u64
    }

    /// The most values that a linear layer reads or writes for each token.
    pub(crate) fn widest(&self) -> usize {
        self.linears.keys().flatten().copied().max().unwrap_or(0)
    }

    fn shapes(&self) -> impl Iterator<Item = ([usize; 2], usize)> {
        self.linears.iter().chain(&self.convolutions).map(|(shape, count)| (*shape, *count))
    }
}

/// Whether a matrix is a table of learned vectors, which is never packed.
fn is_embedding(key: &str) -> bool {
    ["embedding.weight", "shared.weight", "relative_attention_bias.weight"].iter().any(|end| key.ends_with(end))
}
