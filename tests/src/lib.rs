//! The test library of the journeys: everything that a test needs to run Pyrograph as its users do.
//!
//! [`ground`] provides the real Postgres and the real S3, [`stack`] one installation on them (an API and any number of
//! workers, each the built binary in its own process), [`process`] what can be done to such a process (kill, stop,
//! continue, read its log), [`client`] the REST API as any HTTP client sees it, [`ledger`] checks of the database,
//! [`lossy`] a proxy that loses replies of the database, [`gate`] one that holds requests to the bucket. [`programs`]
//! finds the programs that only tests need:
//! [`pgbouncer`], nginx with a private [`authority`], other versions of Postgres. [`connect_proxy`] is a company's
//! proxy, [`hub`] a server that speaks the Hugging Face Hub's protocol, and [`picture`], [`sse`], [`flux_files`] and
//! [`ldm_file`] the formats involved.
//!
//! It contains no tests and uses no internals of the product, only the documented interfaces (command line,
//! environment, REST, table names). A panic fails the test, so `unwrap` is fine here.

#![expect(clippy::print_stderr, reason = "tests print the logs of processes that failed")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]

pub mod authority;
pub mod client;
pub mod connect_proxy;
pub mod faulty_s3;
pub mod flux_files;
pub mod gate;
pub mod ground;
pub mod hub;
pub mod ldm_file;
pub mod ledger;
pub mod lossy;
pub mod model;
pub mod pgbouncer;
pub mod picture;
pub mod process;
pub mod programs;
pub mod sse;
pub mod stack;
pub mod wait;
