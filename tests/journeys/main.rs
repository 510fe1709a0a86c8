//! Whole journeys: the built `pyrograph` as processes, a real Postgres, a real S3 server, and the REST API between
//! them.
//!
//! First the usual paths (`road`, `pictures`, `folders`, `command_line`, `embedded_stack`, `start_up`), who is served
//! (`access`, `public`, `browser`) and what that costs (`usage`), then what the API refuses (`refusals`, `presigned`,
//! `contract`, `clients`), how models are imported (`imports`, `checkpoints`, `flux_files`) and exported (`exports`),
//! what the engine detects (`misfits`) and has loaded (`residency`), then failures below a running job (`crash`,
//! `lost_lease`, `lost_replies`, `takeover`, `resume`, `cancel`, `events`, `loading`, `acknowledged`, `disks`), how
//! processes stop (`stops`), what the platform provides (`database`, `certificates`, `proxies`, `credentials`,
//! `nameless`), what must not be reached (`addresses`) or shown (`secrets`, `canaries`), the rehearsal of a run on a
//! card (`gauge`), and the scripts of the set-up (`set_up`).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tests print what they measure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod access;
mod acknowledged;
mod addresses;
mod archive;
mod browser;
mod canaries;
mod cancel;
mod certificates;
mod checkpoints;
mod clients;
mod command_line;
mod contract;
mod crash;
mod credentials;
mod database;
mod deliveries;
mod disks;
mod embedded_stack;
mod events;
mod exports;
mod flux_files;
mod folders;
mod gauge;
mod imports;
mod loading;
mod lost_lease;
mod lost_replies;
mod misfits;
mod nameless;
mod pictures;
mod presigned;
mod previews;
mod proxies;
mod public;
mod recipes;
mod refusals;
mod residency;
mod resume;
mod retention;
mod road;
mod secrets;
mod set_up;
mod stable_diffusion;
mod start_up;
mod stops;
mod takeover;
mod unheard;
mod usage;
mod webhooks;
