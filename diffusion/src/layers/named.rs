//! The layers of a network that adapters can be attached to, by path.

use super::{Branch, Changes, Conv2d, ConvBranch, Linear, NormChanges};

/// Layers with their paths.
#[derive(Debug, Default)]
pub struct NamedLayers<'a> {
    pub linears: Vec<(String, &'a mut Linear)>,
    pub convolutions: Vec<(String, &'a mut Conv2d)>,
    pub norms: Vec<(String, NormSlot<'a>)>,
}

/// The part of a norm that adapters change.
#[derive(Debug)]
pub struct NormSlot<'a> {
    /// Number of its channels.
    pub width: usize,
    pub changes: &'a mut Option<NormChanges>,
}

/// The adapters of all layers of a network, in the order of its [`NamedLayers`].
#[derive(Debug)]
pub(crate) struct Adapters {
    linears: Vec<(Vec<Branch>, Option<Changes<2>>)>,
    convolutions: Vec<(Vec<ConvBranch>, Option<Changes<4>>)>,
    norms: Vec<Option<NormChanges>>,
}

impl<'a> NamedLayers<'a> {
    /// Detaches all adapters.
    pub(crate) fn take_adapters(self) -> Adapters {
        let Self { linears, convolutions, norms } = self;
        let linears = linears.into_iter().map(|(_, layer)| (std::mem::take(&mut layer.branches), layer.changes.take()));
        let convolutions =
            convolutions.into_iter().map(|(_, layer)| (std::mem::take(&mut layer.branches), layer.changes.take()));
        let norms = norms.into_iter().map(|(_, norm)| norm.changes.take());
        Adapters { linears: linears.collect(), convolutions: convolutions.collect(), norms: norms.collect() }
    }

    /// Attaches the adapters of another instance of the same network.
    pub(crate) fn set_adapters(self, adapters: Adapters) {
        for ((_, layer), adapters) in self.linears.into_iter().zip(adapters.linears) {
            (layer.branches, layer.changes) = adapters;
        }
        for ((_, layer), adapters) in self.convolutions.into_iter().zip(adapters.convolutions) {
            (layer.branches, layer.changes) = adapters;
        }
        for ((_, norm), changes) in self.norms.into_iter().zip(adapters.norms) {
            *norm.changes = changes;
        }
    }

    pub(crate) fn linear(&mut self, path: &str, name: &str, linear: &'a mut Linear) {
        self.linears.push((format!("{path}.{name}"), linear));
    }

    pub(crate) fn convolution(&mut self, path: &str, name: &str, convolution: &'a mut Conv2d) {
        self.convolutions.push((format!("{path}.{name}"), convolution));
    }

    pub(crate) fn norm(&mut self, path: &str, name: &str, slot: NormSlot<'a>) {
        self.norms.push((format!("{path}.{name}"), slot));
    }
}
