//! A text encoder that may leave the device once it has read a prompt, and is read from the disk again for the next one. What
//! hangs on it stays behind. When it has to leave is its pipeline's matter.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Result;
use crate::layers::{Branch, Changes, Linear};
use crate::lora::{LoraFile, Network, Target};

/// The linear layers of a network, by path.
type Linears<M> = for<'a> fn(&'a mut M) -> Vec<(String, &'a mut Linear)>;

pub(super) struct TextEncoder<M> {
    present: Mutex<Option<M>>,
    load: Box<dyn Fn() -> Result<M> + Send + Sync>,
    linears: Linears<M>,
    /// What hung on it when it left.
    hung: Mutex<Vec<(String, Hung)>>,
}

struct Hung {
    branches: Vec<Branch>,
    changes: Option<Changes<2>>,
}

impl<M> TextEncoder<M> {
    /// One that `load` brings when it is needed.
    pub fn new(load: impl Fn() -> Result<M> + Send + Sync + 'static, linears: Linears<M>) -> Self {
        Self { present: Mutex::default(), load: Box::new(load), linears, hung: Mutex::default() }
    }

    /// Uses the encoder, which is loaded first if it is away.
    pub fn with<R>(&self, work: impl FnOnce(&M) -> R) -> Result<R> {
        let mut present = self.locked();
        let encoder = self.bring(present.take())?;
        Ok(work(present.insert(encoder)))
    }

    /// Lets the encoder go, without what hangs on it.
    pub fn leave(&self) {
        let Some(mut encoder) = self.locked().take() else { return };
        let laden = (self.linears)(&mut encoder).into_iter();
        let laden = laden.filter(|(_, linear)| !linear.branches.is_empty() || linear.changes.is_some());
        let hung = laden.map(|(path, linear)| {
            (path, Hung { branches: std::mem::take(&mut linear.branches), changes: linear.changes.take() })
        });
        *self.hung.lock().unwrap_or_else(PoisonError::into_inner) = hung.collect();
    }

    /// Whether it is loaded.
    pub fn is_present(&self) -> bool {
        self.locked().is_some()
    }

    /// What adapters may hang on; nothing while the encoder is away, as long as `loras` ask nothing of it and nothing of
    /// earlier ones is to be taken off.
    pub fn target(&mut self, network: Network, loras: &[(&LoraFile, f64)]) -> Result<Option<Target<'_>>> {
        let laden = !self.hung.get_mut().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !self.is_present() && !laden && !loras.iter().any(|(file, _)| file.adapts(network)) {
            return Ok(None);
        }
        let present = self.locked().take();
        let encoder = self.bring(present)?;
        let present = self.present.get_mut().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(Target::new(network, (self.linears)(present.insert(encoder)))))
    }

    fn bring(&self, present: Option<M>) -> Result<M> {
        if let Some(encoder) = present {
            return Ok(encoder);
        }
        let mut encoder = (self.load)()?;
        let mut hung = std::mem::take(&mut *self.hung.lock().unwrap_or_else(PoisonError::into_inner));
        for (path, linear) in (self.linears)(&mut encoder) {
            if let Some(at) = hung.iter().position(|(laden, _)| *laden == path) {
                let (_, Hung { branches, changes }) = hung.swap_remove(at);
                (linear.branches, linear.changes) = (branches, changes);
            }
        }
        Ok(encoder)
    }

    fn locked(&self) -> MutexGuard<'_, Option<M>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> fmt::Debug for TextEncoder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextEncoder").field("present", &self.is_present()).finish_non_exhaustive()
    }
}
