//! Whole journeys: the built `pyrograph` as processes, a real Postgres, a real S3 server, and the REST API between
//! them.
//!
//! First the usual paths (`road`, `pictures`, `command_line`, `embedded_stack`, `start_up`), then what the API refuses
//! (`refusals`, `presigned`, `contract`), how models are imported (`imports`, `checkpoints`, `flux_files`) and exported
//! (`exports`), what the engine detects (`misfits`) and has loaded (`residency`), then failures below a running job
//! (`crash`, `lost_lease`, `takeover`, `resume`, `cancel`, `events`, `acknowledged`), secrets (`secrets`), and the
//! rehearsal of a run on a card (`gauge`).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tests print what they measure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod acknowledged;
mod cancel;
mod checkpoints;
mod clients;
mod command_line;
mod contract;
mod crash;
mod embedded_stack;
mod events;
mod exports;
mod flux_files;
mod gauge;
mod imports;
mod lost_lease;
mod misfits;
mod pictures;
mod presigned;
mod previews;
mod refusals;
mod residency;
mod resume;
mod road;
mod secrets;
mod stable_diffusion;
mod start_up;
mod takeover;
