//! The nouns of Pyrograph, their rows and their rules. No HTTP and no tensors.
//!
//! | word | meaning |
//! |---|---|
//! | [`dataset`], example, caption | pictures to learn from, each with a sentence |
//! | [`model`] | weights: a checkpoint to run, or a LoRA to run on top of one |
//! | [`training`] | a request for a LoRA |
//! | [`import`] | a request for a model from elsewhere |
//! | [`export`] | a request for a LoRA in another dialect |
//! | [`generation`] | a request for pictures |
//! | [`input`] | a picture that a generation starts from |
//! | [`picture_info`] | the request that a picture's file records |
//! | [`job`], attempt, epoch | the work behind a request, one claim of it by a worker, and the claim's fencing token |
//! | [`jobs`] | jobs of every kind as clients see them |
//! | [`event`] | what happened to a job, numbered |
//! | [`artifact`] | what a job made |
//! | [`delivery`], outbox | a picture or event that is sent to an endpoint, and the rows of all of them |
//! | [`capacity`] | whether a running worker has the memory for a request |
//! | [`worker`], resident | a process that does jobs, and the models that it has loaded |
//! | [`swap`] | a request to a worker to load or unload a model |
//! | [`storage`] | the bucket with all bytes |
//! | [`project`] | the owner of everything above |
//! | [`webhook`] | an endpoint that is notified of the jobs of a project |
//! | [`audit`] | who changed keys, projects, models and webhooks |
//! | quota | what a project may use |
//! | [`usage`] | what a project has used: device time, stored bytes |
//! | [`session`] | a browser that has logged in with a key |
//! | [`access`], [`key`], scope | whether requests need a key, and what a key allows |
//! | [`deletion`] | an object that is to be deleted, until it is |
//! | [`leftover`] | what an attempt may have stored that is over |
//! | [`sweep`], stray | the search for objects that no row names |
//!
//! Functions for users take a [`Caller`] and a [`Database`], and see the rows of the caller's project. Functions for
//! workers and the reaper take a pool, which the API does not have.
//!
//! All SQL is here, in checked queries. Every effect of an attempt is one transaction that asks for `id AND epoch AND
//! worker`.

pub mod access;
pub mod artifact;
pub mod audit;
mod batcher;
mod caller;
pub mod capacity;
pub mod database;
pub mod dataset;
pub mod deletion;
pub mod delivery;
mod deposit;
mod error;
pub mod event;
pub mod export;
mod faults;
pub mod generation;
mod id;
pub mod image_gate;
pub mod import;
pub mod input;
mod integer;
pub mod job;
pub mod jobs;
pub mod key;
pub mod leftover;
pub mod limits;
mod liveness;
pub mod model;
mod named;
mod notice;
mod object;
mod page;
pub mod picture_info;
pub mod preview;
pub mod prices;
pub mod project;
mod quota;
pub mod report;
pub mod session;
pub mod storage;
pub mod swap;
pub mod sweep;
pub mod training;
pub mod upload;
pub mod usage;
pub mod webhook;
pub mod weights_gate;
pub mod worker;
pub mod zip_gate;

pub use caller::{Caller, Principal, Scope, Scopes};
pub use database::{Addresses, Database, MIGRATIONS, PoolSizes, Pools, Unusable, begin, bounded, migrate};
pub use error::{Error, Result};
pub use export::ExportId;
pub use id::{
    ArtifactId, DatasetId, DeliveryId, ExampleId, GenerationId, ImportId, InputId, JobId, KeyId, ModelId, ProjectId,
    SwapId, TrainingId, UploadId, WebhookId, WorkerId,
};
pub use page::{DEFAULT_LIMIT, MAX_LIMIT, Page, PageRequest};
pub use quota::{QuotaChanges, Quotas};
pub use storage::{Storage, StorageConfig, StorageKey};
