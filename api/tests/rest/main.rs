//! The REST API over a real Postgres and a real S3, one file for each noun of the API. `house` starts it all.

mod contract;
mod datasets;
mod events;
mod generations;
mod house;
mod models;
mod trainings;
