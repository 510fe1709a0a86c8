//! The REST API over a real Postgres and a real S3, one file for each noun of the API. `server` starts it all.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod absent_database;
mod archive;
mod audit;
mod bad_input;
mod browsers;
mod callers;
mod checkpoints;
mod contract;
mod datasets;
mod deliveries;
mod events;
mod examples;
mod forwarded;
mod generations;
mod headers;
mod hub_tokens;
mod imports;
mod inputs;
mod jobs;
mod keys;
mod log;
mod matrix;
mod models;
mod picture_info;
mod presigned;
mod project_deletion;
mod projects;
mod prompts;
mod protection;
mod proxy;
mod quotas;
mod rates;
mod retention;
mod sessions;
mod sink;
mod slow_clients;
mod stops;
mod test_server;
#[path = "../../../formats/tests/tiny/flux.rs"]
mod tiny_flux;
mod trainings;
mod unix_socket;
mod usage;
mod webhooks;
mod workers;
