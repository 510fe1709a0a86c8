//! How much memory a request takes, and how a model is loaded so that it fits. Everything here follows from the configs
//! of a checkpoint: no weight is read, and nothing is measured. The server asks before it accepts a request, a worker
//! before it downloads a model, and the engine before it loads one, so that all three give the same answer.
//!
//! Not here: the loading itself (`diffusion`), and which models are in memory now (`worker`).

mod budget;
mod compute_type;
#[cfg(test)]
mod examples;
mod footprint;
mod load_options;
mod sizes;
mod storage;
mod training;
mod training_budget;

pub use budget::{Budget, Demand, Offload, TooLarge, WeightChoice};
pub use compute_type::ComputeType;
pub use footprint::{Footprint, Needs, Networks, Picture, READ_AT_ONCE};
pub use load_options::{Keep, LoadOptions};
pub use storage::{BLOCK, WeightStorage};
pub use training::MOST_KEPT;
pub use training_budget::{TrainingDemand, TrainingPlan};
