//! One file for each noun: its requests, its answers, its handlers. `job` holds what generations, trainings, imports and exports share.

pub mod dataset;
pub mod event;
pub mod export;
pub mod generation;
pub mod health;
pub mod import;
pub mod input;
pub mod job;
pub mod jobs;
pub mod model;
pub mod swap;
pub mod training;
pub mod upload;
pub mod worker;
