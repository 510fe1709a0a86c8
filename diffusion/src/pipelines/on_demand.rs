//! A network that is loaded on first use and can be unloaded. The pipeline decides when to unload it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::Module;
use burn::prelude::*;

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::layers::NamedLayers;
use crate::lora::{Network, Target};

/// The layers of a network, by path.
type Layers<M> = for<'a> fn(&'a mut M) -> NamedLayers<'a>;

/// Fills a network with the values of its checkpoint.
type Load<M> = Box<dyn Fn(M, &Checkpoint) -> Result<M> + Send + Sync>;

pub(super) struct OnDemand<M> {
    /// The network without its weights, but with all adapters.
    outline: M,
    checkpoint: Checkpoint,
    device: Device,
    load: Load<M>,
    layers: Layers<M>,
    loaded: Mutex<Option<M>>,
}

impl<M: Module> OnDemand<M> {
    /// A new network on `device`, whose weights `load` reads from the checkpoint on first use.
    pub(super) fn new(
        network: M,
        checkpoint: Checkpoint,
        device: &Device,
        load: impl Fn(M, &Checkpoint) -> Result<M> + Send + Sync + 'static,
        layers: Layers<M>,
    ) -> Self {
        let device = device.clone();
        Self { outline: network, checkpoint, device, load: Box::new(load), layers, loaded: Mutex::default() }
    }

    /// Runs `work` with the network, which is loaded first if necessary. What a canceled loading has read is dropped.
    pub(super) fn with<R>(&self, work: impl FnOnce(&M) -> R) -> Result<R> {
        let mut loaded = self.locked();
        let network = match loaded.take() {
            Some(network) => network,
            None => self.load_with_adapters()?,
        };
        Ok(work(loaded.insert(network)))
    }

    /// Bytes that its weights take in their files.
    pub(super) fn bytes(&self) -> u64 {
        self.checkpoint.bytes()
    }

    /// The network, loaded.
    pub(super) fn into_loaded(self) -> Result<M> {
        let loaded = self.locked().take();
        loaded.map_or_else(|| self.load_with_adapters(), Ok)
    }

    /// The network without its weights.
    pub(super) fn outline(&self) -> &M {
        &self.outline
    }

    /// Unloads the weights.
    pub(super) fn unload(&self) {
        self.locked().take();
    }

    /// Whether it is loaded.
    pub(super) fn is_loaded(&self) -> bool {
        self.locked().is_some()
    }

    /// The layers that adapters can be attached to. They take effect at the next [`Self::adapt`] or loading.
    pub(super) fn target(&mut self, network: Network) -> Target<'_> {
        Target::of(network, (self.layers)(&mut self.outline)).with_base(&self.checkpoint, &self.device)
    }

    /// Attaches the adapters of the outline to the loaded network.
    pub(super) fn adapt(&mut self) {
        let adapters = (self.layers)(&mut self.outline.clone()).take_adapters();
        if let Some(network) = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner) {
            (self.layers)(network).set_adapters(adapters);
        }
    }

    fn load_with_adapters(&self) -> Result<M> {
        let mut network = self.outline.clone();
        let adapters = (self.layers)(&mut network).take_adapters();
        let mut network = (self.load)(network, &self.checkpoint)?;
        (self.layers)(&mut network).set_adapters(adapters);
        Ok(network)
    }

    fn locked(&self) -> MutexGuard<'_, Option<M>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Module> fmt::Debug for OnDemand<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand").field("loaded", &self.is_loaded()).finish_non_exhaustive()
    }
}
