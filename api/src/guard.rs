//! Refuses requests that a page in a browser should not send (see [`crate::Names`]). As long as the installation has no
//! key, also refuses those that do not come from its own machine.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::{Serves, credentials};
use crate::names::{Names, Pages};
use crate::problem::{Problem, Result};
use crate::proxies::Client;
use crate::routes::{health, session};
use crate::{State, gateway, own_machine};

pub(crate) async fn guard(state: State, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if health::is_probe(path) {
        return next.run(request).await;
    }
    let (version, uri, headers) = (request.version(), request.uri(), request.headers());
    let client = Client::of(request.extensions());
    if client.is_some_and(|client| client.is_ambiguous) {
        return ambiguous().into_response();
    }
    let is_own = own_machine::sent(client.map(|client| client.address), version, uri, headers);
    let serves = tokio::select! {
        biased;
        serves = state.access.serves() => serves,
        // A request does not wait for a database that is away; `admit` refuses it.
        () = state.presence.lost() => Ok(state.access.served()),
    };
    let refusal = match serves {
        Err(error) => Some(error.into()),
        Ok(Serves::OwnMachine) if !is_own => Some(not_served()),
        // A signed URL is protected by its signature.
        Ok(_) if gateway::is_below(path) => None,
        Ok(serves) => check(&state.names, serves, &request).err(),
    };
    match refusal {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

/// Checks that the request names this server, and that a page that may have sent it belongs here.
fn check(names: &Names, serves: Serves, request: &Request) -> Result<()> {
    let (uri, headers) = (request.uri(), request.headers());
    names.check_host(uri, request.version(), headers)?;
    let pages = match serves {
        Serves::Keys if session::is_at(uri.path()) || credentials::is_session(headers) => Pages::Own,
        Serves::Keys if credentials::is_explicit(headers) => return Ok(()),
        // Where there is no key, any page could send one.
        Serves::Keys | Serves::OwnMachine | Serves::Everyone => Pages::Allowed,
    };
    let scheme = Client::of(request.extensions()).and_then(|client| client.scheme.as_ref());
    names.check_page(pages, request.method(), uri, headers, scheme)
}

fn ambiguous() -> Problem {
    let message = "It names another client than `X-Forwarded-For`. A proxy that sends one must remove the other.";
    Problem::field(StatusCode::BAD_REQUEST, "Forwarded", message)
}

fn not_served() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "This server has no key yet and serves its own machine only. Create a key with `pyrograph keys create --name \
         NAME` there, and send it as `Authorization: Bearer pyro_…`. Or start the server with --open, which allows \
         everything to everyone who reaches it.",
    )
}
