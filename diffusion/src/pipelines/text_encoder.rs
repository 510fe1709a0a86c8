//! A text encoder that can be unloaded after it has encoded a prompt, and is loaded again for the next one. Its
//! adapters are kept meanwhile. The pipeline decides when to unload it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Result;
use crate::layers::{Branch, Changes, NamedLayers, NormChanges};
use crate::lora::{LoraFile, Network, Target};

/// The layers of a network, by path.
type Layers<M> = for<'a> fn(&'a mut M) -> NamedLayers<'a>;

pub(super) struct TextEncoder<M> {
    loaded: Mutex<Option<M>>,
    load: Box<dyn Fn() -> Result<M> + Send + Sync>,
    layers: Layers<M>,
    /// The adapters of an unloaded encoder.
    saved: Mutex<HashMap<String, SavedAdapters>>,
}

/// The adapters of one layer.
#[expect(clippy::large_enum_variant, reason = "most are of linear layers, and there are a few hundred")]
enum SavedAdapters {
    Linear { branches: Vec<Branch>, changes: Option<Changes<2>> },
    Norm(NormChanges),
}

impl<M> TextEncoder<M> {
    /// An encoder that `load` loads on first use.
    pub(super) fn new(load: impl Fn() -> Result<M> + Send + Sync + 'static, layers: Layers<M>) -> Self {
        Self { loaded: Mutex::default(), load: Box::new(load), layers, saved: Mutex::default() }
    }

    /// Runs `work` with the encoder, which is loaded first if necessary.
    pub(super) fn with<R>(&self, work: impl FnOnce(&M) -> R) -> Result<R> {
        let mut loaded = self.locked();
        let encoder = self.load_or_keep(loaded.take())?;
        Ok(work(loaded.insert(encoder)))
    }

    /// Unloads the encoder and keeps its adapters.
    pub(super) fn unload(&self) {
        let Some(mut encoder) = self.locked().take() else { return };
        let NamedLayers { linears, norms, .. } = (self.layers)(&mut encoder);
        let adapted = linears.into_iter().filter(|(_, linear)| !linear.branches.is_empty() || linear.changes.is_some());
        let linears = adapted.map(|(path, linear)| {
            let (branches, changes) = (std::mem::take(&mut linear.branches), linear.changes.take());
            (path, SavedAdapters::Linear { branches, changes })
        });
        let norms =
            norms.into_iter().filter_map(|(path, norm)| Some((path, SavedAdapters::Norm(norm.changes.take()?))));
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = linears.chain(norms).collect();
    }

    /// Whether it is loaded.
    pub(super) fn is_loaded(&self) -> bool {
        self.locked().is_some()
    }

    /// The layers that adapters can be attached to. `None` if the encoder is unloaded and neither `loras` nor the
    /// current adapters concern it.
    pub(super) fn target(&mut self, network: Network, loras: &[(&LoraFile, f64)]) -> Result<Option<Target<'_>>> {
        let adapted = !self.saved.get_mut().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !self.is_loaded() && !adapted && !loras.iter().any(|(file, _)| file.adapts(network)) {
            return Ok(None);
        }
        let loaded = self.locked().take();
        let encoder = self.load_or_keep(loaded)?;
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(Target::of(network, (self.layers)(loaded.insert(encoder)))))
    }

    fn load_or_keep(&self, loaded: Option<M>) -> Result<M> {
        if let Some(encoder) = loaded {
            return Ok(encoder);
        }
        let mut encoder = (self.load)()?;
        let mut saved = std::mem::take(&mut *self.saved.lock().unwrap_or_else(PoisonError::into_inner));
        let NamedLayers { linears, norms, .. } = (self.layers)(&mut encoder);
        for (path, linear) in linears {
            if let Some(SavedAdapters::Linear { branches, changes }) = saved.remove(&path) {
                (linear.branches, linear.changes) = (branches, changes);
            }
        }
        for (path, norm) in norms {
            if let Some(SavedAdapters::Norm(changes)) = saved.remove(&path) {
                *norm.changes = Some(changes);
            }
        }
        Ok(encoder)
    }

    fn locked(&self) -> MutexGuard<'_, Option<M>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> fmt::Debug for TextEncoder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextEncoder").field("loaded", &self.is_loaded()).finish_non_exhaustive()
    }
}
