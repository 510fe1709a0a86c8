//! Refuses requests that a page in a browser should not send (see [`crate::Names`]). As long as the installation has no
//! key, also refuses those that do not come from its own machine.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::{Serves, credentials};
use crate::problem::Problem;
use crate::proxies::Client;
use crate::routes::health;
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
    // A signed URL is protected by its signature.
    let (named, from_own_page) = if gateway::is_below(path) {
        (Ok(()), Ok(()))
    } else {
        let named = state.names.check_host(uri, version, headers);
        let page = state.names.check_page(request.method(), uri, headers);
        (named, page)
    };
    let is_explicit = credentials::is_explicit(headers);
    let serves = tokio::select! {
        biased;
        serves = state.access.serves() => serves,
        // A request does not wait for a database that is away; `admit` refuses it.
        () = state.presence.lost() => Ok(state.access.served()),
    };
    let refusal = match serves {
        Ok(Serves::OwnMachine) if !is_own => Some(not_served()),
        // Where there is no key, any page could send one.
        Ok(Serves::Keys) if is_explicit => named.err(),
        Ok(_) => named.and(from_own_page).err(),
        Err(error) => Some(error.into()),
    };
    match refusal {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
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
