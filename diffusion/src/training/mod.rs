//! Training on one device: the loss, the optimizer, the random choices, and what is cached. Which networks are trained on
//! which pictures is said by the trainers on top: LoRA adapters, and ember from scratch.

mod checkpointing;
mod data;
mod gradients;
mod initialise;
mod lora;
mod loss;
mod optimizer;
mod random;

pub use data::{Batch, Bucket, Cache, TrainingExample};
pub use gradients::Gradients;
pub use initialise::initialise;
pub use lora::{LoraTrainer, Subject, TrainStep};
pub use loss::{FlowBatch, draw_level, flow_batch, flow_loss};
pub use optimizer::{AdamW, AdamWConfig, Moments};
pub use random::Random;
pub use requests::TrainingParams;
