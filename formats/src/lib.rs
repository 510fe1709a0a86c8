//! What the files of FLUX.1 and Stable Diffusion say about themselves, without tensors: model families, schedulers, and the
//! names that trainers give to the tensors of an adapter. The server and the engine both read files through this crate, so they
//! cannot disagree about a file. Values of weights, networks and pipelines belong to `diffusion`; rows and requests to `domain`.

pub mod adapter;
mod family;
mod scheduler;

pub use family::Family;
pub use scheduler::Scheduler;
