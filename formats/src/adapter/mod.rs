//! Describes adapter files by the names and shapes of their tensors and by their headers: the network and module of
//! each tensor in each trainer's dialect, the strength that the file states, and the family that it was made for. No
//! tensor is read here; `diffusion::lora` applies them.

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
