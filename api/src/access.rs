//! How this server finds the caller of a request. The extractor is in `caller`.

use domain::Caller;

/// How the caller of a request is found.
#[derive(Clone, Debug)]
pub enum Access {
    /// Every request has this caller: an installation without keys.
    Open(Caller),
    /// No request has a caller: all routes but the public ones answer 401.
    Closed,
}
