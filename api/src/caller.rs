//! Who sent a request. A handler takes the [`Caller`] as its first argument, so that a request without one is refused
//! before its path, query or body is read.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use domain::Caller;

use crate::State;
use crate::problem::{Problem, Result};

/// How the caller of a request is determined.
#[derive(Clone, Debug)]
pub enum Access {
    /// Every request has this caller: an installation without keys.
    Open(Caller),
    /// No request has a caller: all routes but the public ones answer 401.
    Closed,
}

impl FromRequestParts<State> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, state: &State) -> Result<Self> {
        match &state.access {
            Access::Open(caller) => Ok(caller.clone()),
            Access::Closed => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "The request does not say who sends it, and this server asks.",
            )),
        }
    }
}
