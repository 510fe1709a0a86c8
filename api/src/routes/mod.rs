//! One file for each noun: its requests, its responses, its handlers. `job` holds what generations, trainings, imports
//! and exports share.

pub(crate) mod artifact;
pub(crate) mod audit;
pub(crate) mod dataset;
pub(crate) mod event;
pub(crate) mod export;
pub(crate) mod generation;
pub(crate) mod health;
pub(crate) mod import;
pub(crate) mod input;
pub(crate) mod job;
pub(crate) mod jobs;
pub(crate) mod key;
pub(crate) mod model;
pub(crate) mod object;
pub(crate) mod outbox;
pub(crate) mod picture_info;
pub(crate) mod project;
pub(crate) mod session;
pub(crate) mod swap;
pub(crate) mod training;
pub(crate) mod upload;
pub(crate) mod usage;
pub(crate) mod webhook;
pub(crate) mod webhook_delivery;
pub(crate) mod worker;
