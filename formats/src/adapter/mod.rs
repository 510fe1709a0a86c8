//! Describes adapter files by the names and shapes of their tensors and by their headers: the network and module of
//! each tensor in each trainer's dialect, the strength that the file states, and the family that it was made for. No
//! tensor is read here; `diffusion::lora` applies them.

mod algorithm;
mod alpha;
mod beside;
mod config;
mod contents;
mod family;
mod format;
pub mod forms;
mod inspect;
mod json;
pub mod keys;
mod network;

pub use algorithm::Algorithm;
pub use alpha::{AlphaRule, MULTIPLIED};
pub use beside::{CONFIG_FILE, MAX_CONFIG_BYTES, config_beside, is_peft};
pub use contents::{Adapted, CHANGES_NOTHING, Contents, MAX_RANK, Magnitude};
pub use family::AdapterFamily;
pub use format::{Dtype, Format};
pub use inspect::{Inspection, Ranks, Tag, inspect};
pub use keys::Dialect;
pub use network::Network;
