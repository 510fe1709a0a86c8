//! The REST API: HTTP on the outside, `domain` on the inside. No SQL, no tensors, no state but handles.
//!
//! | module | contents |
//! |---|---|
//! | `app` | the service: the routes with the documentation pages, the fallbacks and the layers |
//! | `router` | every route, on one page |
//! | `limits` | how large the bodies of requests may be |
//! | `routes` | one file for each noun: its requests and its responses |
//! | `names`, `guard` | `Host` and `Origin`: which requests of browsers are refused |
//! | `admission`, `place`, `arriving`, `per_address` | how many requests are served at the same time |
//! | `listener`, `pulse`, `server` | connections: limits, time limits, graceful shutdown |
//! | `observe`, `request_id` | one line in the log for each request |
//! | `gateway` | the bucket of `up` below the API's own address |
//! | `docs` | Swagger UI |
//! | `rate` | requests per second of a key |
//! | `access`, `caller` | how the caller of a request is determined, and its extractor |
//! | `project_choice` | the project that a request names |
//! | `protection` | headers that protect browsers: policies, HSTS |
//! | `proxies` | the client of a request, also behind a proxy that the operator has named |
//! | `own_machine` | which requests come from the server's own machine |
//! | `extract` | how bodies, paths and queries are read, so that a refusal names the field |
//! | `problem` | the only place where an error becomes HTTP |
//! | `document` | title, description and tags of the contract |
//! | `openapi` | the contract, made from the routes without a server |

mod access;
mod admission;
mod app;
mod arriving;
mod caller;
mod docs;
mod document;
mod extract;
mod gateway;
mod guard;
mod limits;
mod listener;
mod names;
mod observe;
mod openapi;
mod own_machine;
mod per_address;
mod place;
mod prefer;
mod problem;
mod project_choice;
mod protection;
mod proxies;
mod pulse;
mod rate;
mod request_id;
mod router;
mod routes;
mod server;
mod state;
mod wording;

pub use access::{Access, Hub, HubRules, HubTimes};
pub use app::app;
pub use listener::{Listener, UnixSocket};
pub use names::{HostPattern, Names, PublicUrl};
pub use openapi::openapi;
pub use problem::{FieldError, Problem};
pub use proxies::Proxies;
pub use rate::Rate;
pub use server::serve;
pub use state::State;
