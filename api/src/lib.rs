//! The REST API: HTTP on the outside, `domain` on the inside. No SQL, no tensors, no state but handles.
//!
//! | module | contents |
//! |---|---|
//! | `app` | the service: the routes with the documentation pages, the fallbacks and the layers |
//! | `router` | every route, on one page |
//! | `limits` | how large the bodies of requests may be |
//! | `routes` | one file for each noun: its requests and its responses |
//! | `access`, `caller` | how the caller of a request is determined, and its extractor |
//! | `extract` | how bodies, paths and queries are read, so that a refusal names the field |
//! | `problem` | the only place where an error becomes HTTP |
//! | `document` | title, description and tags of the contract |
//! | `openapi` | the contract, made from the routes without a server |
//! | `server` | connections: limits, time limits, graceful shutdown |

mod access;
mod app;
mod caller;
mod document;
mod extract;
mod limits;
mod observe;
mod openapi;
mod prefer;
mod problem;
mod router;
mod routes;
mod server;
mod state;

pub use access::Access;
pub use app::app;
pub use openapi::openapi;
pub use problem::{FieldError, Problem};
pub use server::serve;
pub use state::State;
