//! Adapters of FLUX.1 and Stable Diffusion: reading the files of all common trainers, hanging them on networks at run time,
//! and writing our own ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)). How an adapter is trained belongs to `training`.

mod alpha;
mod attach;
mod dora;
mod export;
mod family;
mod file;
mod fuse;
mod inspect;
mod keys;
mod merge;
mod save;
mod update;

pub use attach::{MatchReport, Target, attach};
pub use export::{Format, export};
pub use family::Family;
pub use file::LoraFile;
pub use inspect::{Inspection, Ranks, Tag, inspect};
pub use keys::{Dialect, Network};
pub use merge::{Merged, merge};
pub use save::{Factors, save};
pub use update::Algorithm;
