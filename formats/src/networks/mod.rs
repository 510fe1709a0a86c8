//! What each network consists of: its config, and the names and shapes of its parameters, under the keys of diffusers
//! and transformers. The server judges the files of a part by these lists, and the engine builds its modules from the
//! same configs. `diffusion::networks` computes with the parameters.

pub mod agreement;
pub mod clip;
pub mod flux;
pub mod t5;
pub mod unet;
pub mod vae;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Family, Part, View};

/// Limit on the number of blocks in a list of a network. No published one has more than 57.
pub(crate) const MAX_BLOCKS: usize = 1024;
/// Limit on widths and numbers of channels.
const MAX_WIDTH: usize = 1 << 16;
/// Limit on the number of words in a vocabulary.
const MAX_WORDS: usize = 1 << 20;

/// The parameters of a network: shape by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, Vec<usize>>);

impl Parameters {
    /// The parameters of a part of `family` with this `config.json`.
    ///
    /// # Errors
    /// A part of a sentence, if the config is malformed or describes a network that is not supported.
    pub fn of(family: Family, part: Part, config: &Value) -> Result<Self, String> {
        match (family, part) {
            (_, Part::Unet) => read::<unet::Config>(config)?.parameters(),
            (_, Part::Transformer) => read::<flux::Config>(config)?.parameters(),
            (_, Part::Vae) => read::<vae::Config>(config)?.parameters(),
            (Family::Flux, Part::TextEncoder2) => read::<t5::Config>(config)?.parameters(),
            (_, Part::TextEncoder | Part::TextEncoder2) => read::<clip::Config>(config)?.parameters(projects(part)),
        }
    }

    /// Keys and shapes, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.0.iter().map(|(key, shape)| (key.as_str(), shape.as_slice()))
    }

    fn put(&mut self, key: String, shape: &[usize]) {
        self.0.insert(key, shape.to_vec());
    }

    /// `[out, in]`
    fn matrix(&mut self, path: &str, inputs: usize, outputs: usize) {
        self.put(format!("{path}.weight"), &[outputs, inputs]);
    }

    /// A matrix and a bias.
    fn linear(&mut self, path: &str, inputs: usize, outputs: usize) {
        self.matrix(path, inputs, outputs);
        self.put(format!("{path}.bias"), &[outputs]);
    }

    /// `[out, in, kernel, kernel]` and a bias.
    fn convolution(&mut self, path: &str, inputs: usize, outputs: usize, kernel: usize) {
        self.put(format!("{path}.weight"), &[outputs, inputs, kernel, kernel]);
        self.put(format!("{path}.bias"), &[outputs]);
    }

    /// The factors of an RMS norm.
    fn factors(&mut self, path: &str, width: usize) {
        self.put(format!("{path}.weight"), &[width]);
    }

    /// A layer or group norm.
    fn norm(&mut self, path: &str, width: usize) {
        self.factors(path, width);
        self.put(format!("{path}.bias"), &[width]);
    }

    /// `[entries, width]`
    fn embedding(&mut self, path: &str, entries: usize, width: usize) {
        self.put(format!("{path}.weight"), &[entries, width]);
    }
}

/// Whether the engine can fill the network of a part with the tensors of a folder or of a single file.
///
/// # Errors
/// A part of a sentence, with the first missing, unused and wrongly shaped tensors.
pub fn check(family: Family, part: Part, wanted: &Parameters, view: View) -> Result<(), String> {
    let fits = match (family, part) {
        (Family::Flux, Part::TextEncoder2) => t5::seen(view).check(wanted.iter()),
        (_, Part::TextEncoder | Part::TextEncoder2) => {
            let view = clip::seen(view);
            let bare = clip::is_bare(&view, projects(part));
            let key = |key| if bare { clip::without_prefix(key) } else { key };
            view.check(wanted.iter().map(|(name, shape)| (key(name), shape)))
        }
        _ => view.check(wanted.iter()),
    };
    fits.map_err(|reason| format!("weights do not fit the network: {reason}"))
}

fn read<C: DeserializeOwned>(config: &Value) -> Result<C, String> {
    C::deserialize(config).map_err(|error| error.to_string())
}

/// Whether a CLIP text encoder of this part projects its output to the space that it shares with images.
fn projects(part: Part) -> bool {
    part == Part::TextEncoder2
}

/// Whether all sizes are possible widths.
fn are_widths(sizes: &[usize]) -> bool {
    sizes.iter().all(|size| (1..=MAX_WIDTH).contains(size))
}
