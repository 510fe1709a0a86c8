//! The laboratory of the journeys: what a test needs to run Pyrograph as its users do.
//!
//! [`ground`] is the real Postgres and the real S3 below it, [`stack`] one installation on that ground (an API and any
//! number of workers, each the built binary as a process of its own), [`process`] what can be done to such a process
//! (kill, stop, continue, read its log), [`client`] the REST API as a stranger sees it, [`ledger`] what the database
//! says afterwards, [`hub`] a server that speaks as the Hugging Face Hub does, [`picture`], [`sse`] and
//! [`flux_files`] the formats on the way.
//!
//! No test is here, and nothing that reaches into the product: the laboratory knows the documented interfaces
//! (command line, environment, REST, table names) and nothing else. A panic is a verdict, so `unwrap` is at home.

#![expect(clippy::print_stderr, reason = "tests print the logs of processes that failed")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]

pub mod client;
pub mod flux_files;
pub mod ground;
pub mod hub;
pub mod ledger;
pub mod model;
pub mod picture;
pub mod process;
pub mod sse;
pub mod stack;
pub mod wait;
