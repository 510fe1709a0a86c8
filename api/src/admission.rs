//! Gives each request its [`Place`](crate::place::Place), or refuses it, also while the database is away.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::database::Presence;

use crate::arriving::Arriving;
use crate::place::Place;
use crate::problem::Problem;
use crate::proxies::Client;
use crate::routes::health;
use crate::{State, extract, gateway};

/// How soon a request that gets a place again notices that the database is gone.
const LOOK: Duration = Duration::from_millis(200);

/// How long a form that is refused is still read, so that the client receives the response.
const DRAINING: Duration = Duration::from_secs(1);

/// Gives the request a place, or refuses it. The probes need none.
pub(crate) async fn admit(state: State, mut request: Request, next: Next) -> Response {
    if health::is_probe(request.uri().path()) {
        return next.run(request).await;
    }
    let Some(place) = state.admission.enter(Client::of(request.extensions())) else {
        let message = "The server has more requests than it can work on, of this client or in all; try again.";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    };
    let passes_on = gateway::is_below(request.uri().path());
    let is_form = is_form(request.headers());
    request.extensions_mut().insert(place.clone());
    let request = request.map(|body| Body::new(Arriving::new(body, place.clone())));
    if is_form && !passes_on && state.presence.is_lost() {
        let mut rest = request.into_body().into_data_stream();
        let _ = tokio::time::timeout(DRAINING, extract::drain(&mut rest)).await;
        place.leave();
        return refusal();
    }
    // A form that is under way may outlast a short absence of the database. The gateway needs no database.
    let patient = is_form || passes_on;
    let response = tokio::select! {
        biased;
        response = next.run(request) => response,
        () = database_lost(&state.presence, &place), if !patient => refusal(),
    };
    place.leave();
    response
}

/// The response while the database is away.
fn refusal() -> Response {
    Problem::from(domain::Error::unavailable("the database does not answer")).into_response()
}

/// Resolves when the database is gone while the request works; one that waits for its client may see it come back.
async fn database_lost(presence: &Presence, place: &Place) {
    loop {
        presence.lost().await;
        if place.is_held() {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"multipart/"))
}
