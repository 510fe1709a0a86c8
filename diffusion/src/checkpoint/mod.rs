//! Safetensors and GGUF files on the local disk: read within limits and without memory mapping, loaded into networks
//! strictly, and written completely or not at all. `formats` lists each network's keys, and maps other names to them.

mod blocks;
mod load;
mod read;
mod reading;
pub mod single_file;
mod values;
mod write;

pub use load::load_strict;
pub(crate) use load::{is_choice, load_partly};
pub use read::Checkpoint;
pub use reading::{BytesRead, Reading};
pub use single_file::SingleFile;
pub use write::{Stored, save, write};
