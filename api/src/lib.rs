//! The REST API: HTTP on the outside, `domain` on the inside. No SQL, no tensors, no state but handles.
//!
//! | room | what is in it |
//! |---|---|
//! | `router` | every route, on one page |
//! | `routes` | one file for each noun: what a request says, and what the answer looks like |
//! | `extract` | how bodies, paths and queries are read, so that a refusal names the field |
//! | `problem` | the only place where an error becomes HTTP |
//! | `openapi` | the contract, made from the routes without a server |
//! | `server` | connections: limits, time limits, orderly end |

mod extract;
mod observe;
mod openapi;
mod prefer;
mod problem;
mod router;
mod routes;
mod server;
mod state;

pub use openapi::openapi;
pub use problem::{FieldError, Problem};
pub use router::app;
pub use server::serve;
pub use state::State;
