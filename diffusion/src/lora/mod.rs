//! LoRA adapters of FLUX.1 and Stable Diffusion: reads the files of all common trainers, attaches them to networks at
//! run time, and writes adapters ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)). `training` trains them, and
//! `formats::adapter` parses the names of their tensors.

mod attach;
mod dora;
mod export;
mod file;
mod fuse;
mod merge;
mod save;
mod update;

pub use attach::{MatchReport, Target, attach};
pub use export::export;
pub use file::{LoraFile, inspect};
pub use formats::adapter::{AdapterFamily, Algorithm, Dialect, Dtype, Format, Inspection, Network, Ranks, Tag};
pub use merge::{Merged, merge};
pub use save::{Factors, save};
