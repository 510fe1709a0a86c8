//! Who sent a request. A handler takes the [`Caller`] as its first argument, so that a request without one is refused
//! before its path, query or body is read. So is one whose caller lacks the scope of the operation.

use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use domain::{Caller, Principal, project};

use crate::access::credentials;
use crate::access::scopes::{self, Asks};
use crate::names::{self, SEC_FETCH_SITE};
use crate::problem::{Problem, Result};
use crate::proxies::Client;
use crate::{State, project_choice};

impl FromRequestParts<State> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self> {
        let project = project_choice::of(parts)?;
        let address = Client::address(&parts.extensions);
        let proof = credentials::proof(&parts.headers);
        // A page of another origin is refused by `guard` already, where the browser says so.
        let says_page = [header::ORIGIN, SEC_FETCH_SITE].iter().any(|name| parts.headers.contains_key(name));
        if credentials::is_session(&parts.headers) && !names::is_safe(&parts.method) && !says_page {
            let message = "A browser says which page sends a request with a session, and this one does not.";
            return Err(Problem::field(StatusCode::FORBIDDEN, "Origin", message));
        }
        let caller = state.access.caller(proof, address).await?.at(address);
        if let Some(rates) = &state.rates {
            let is_counted = match caller.principal() {
                Principal::Key(key) => !state.access.is_local(*key).await?,
                Principal::Hub(_) => true,
                Principal::Anonymous | Principal::Operator => false,
            };
            if is_counted {
                rates.count(caller.principal(), parts)?;
            }
        }
        let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        match scopes::of(&parts.method, route) {
            Some(Asks::Key) => {}
            Some(Asks::Scope(scope)) => caller.require(scope)?,
            None => {
                tracing::error!(method = %parts.method, route, "the contract names no scope");
                return Err(Problem::new(StatusCode::FORBIDDEN, "Nobody may call this."));
            }
        }
        match project {
            Some(name) => Ok(project::enter(caller, &state.database, &name).await?),
            None => Ok(caller),
        }
    }
}
