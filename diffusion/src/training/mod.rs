//! Training on one device: losses, the optimizer, random choices and cached inputs, and the trainer of LoRA adapters.
//! `models/ember-recipe` trains a model from scratch with the same parts.

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
