//! Safetensors on the local disk: read within limits and without mapping files into memory, loaded into networks strictly,
//! written whole or not at all. Which keys a network has is the network's own matter.

mod header;
mod load;
mod read;
mod write;

pub use load::load_strict;
pub use read::Checkpoint;
pub use write::{Stored, save, write};
