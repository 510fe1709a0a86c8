//! Adapter files by the names and shapes of their tensors and by their headers: which module of which network a tensor belongs
//! to in the dialect of each trainer, the strength that the file states, the family that it was made for. No tensor is read
//! here; what the tensors do is in `diffusion::lora`.

mod alpha;
mod family;
mod format;
mod inspect;
pub mod keys;
mod network;

pub use alpha::AlphaRule;
pub use family::AdapterFamily;
pub use format::{Dtype, Format};
pub use inspect::{Algorithm, Inspection, MAX_RANK, Ranks, Tag, inspect, inspect_header};
pub use keys::Dialect;
pub use network::Network;
