//! Adapters of FLUX.1 and Stable Diffusion: reading the files of all common trainers, hanging them on networks at run time,
//! and writing our own ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)). How an adapter is trained belongs to `training`,
//! and what the names of its tensors mean to `formats::adapter`.

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
