//! Safetensors and GGUF on the local disk: read within limits and without mapping files into memory, loaded into networks
//! strictly, written whole or not at all. Which keys a network has is the network's own matter; how else the world calls them
//! is in `single_file`.

mod blocks;
mod load;
mod read;
pub mod single_file;
mod values;
mod view;
mod write;

pub use load::load_strict;
pub(crate) use load::{AT_ONCE, is_choice};
pub use read::Checkpoint;
pub use single_file::SingleFile;
pub use write::{Stored, save, write};
