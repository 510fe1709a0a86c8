//! LoRA adapters of FLUX.1: reading the files of all common trainers, hanging them on the transformer at run time, and
//! writing our own ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)). How an adapter is trained belongs to `training`.

mod alpha;
mod attach;
mod file;
mod keys;
mod save;

pub use attach::{MatchReport, attach};
pub use file::LoraFile;
pub use save::{Factors, save};
