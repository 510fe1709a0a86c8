//! Adapter files of FLUX.1 and Stable Diffusion by their names and headers: which module of which network a tensor belongs to in
//! the dialect of each trainer, how strong a file means itself to be, for which family it was made. No tensor is read here, so that
//! a server tells the same of a file as the engine that runs it; what tensors do is in `diffusion::lora`.

mod alpha;
mod family;
mod inspect;
pub mod keys;

pub use alpha::AlphaRule;
pub use family::Family;
pub use inspect::{Algorithm, Inspection, Ranks, Tag, inspect};
pub use keys::{Dialect, Network};
