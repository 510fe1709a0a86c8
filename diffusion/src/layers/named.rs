//! The layers of a network that adapters can be attached to, by path.

use super::{Conv2d, Linear, NormChanges};

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

impl<'a> NamedLayers<'a> {
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
