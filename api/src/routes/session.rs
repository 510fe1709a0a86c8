//! `/v1/session`: browsers log in with a key or a link, and hold a cookie in its place.

use axum::Json as Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::session::SESSION;
use domain::{Caller, ProjectId, Scope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::State;
use crate::access::LogIn;
use crate::access::credentials::{self, COOKIE, SECURE_COOKIE};
use crate::extract::Json;
use crate::problem::{Problem, Result};
use crate::proxies::Client;

/// What a browser logs in with: a key, or the secret part of a link that `pyrograph login-link` printed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key": "pyro_0193796a8e5a7c3b9d1f0e2a4c6b8d9f_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}))]
pub(crate) struct SessionRequest {
    /// A key.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub key: Option<String>,
    /// The secret part of a login link. It works once.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub link: Option<String>,
}

/// Who sends the requests.
#[derive(Serialize, ToSchema)]
pub(crate) struct Session {
    /// The project in which the caller works.
    pub project: ProjectId,
    /// What the caller may do.
    pub scopes: Vec<Scope>,
}

impl From<&Caller> for Session {
    fn from(caller: &Caller) -> Self {
        Self { project: caller.project(), scopes: caller.scopes().iter().collect() }
    }
}

/// The parts of a request that a login looks at.
pub(crate) struct Browser {
    client: Option<Client>,
    headers: HeaderMap,
}

impl axum::extract::FromRequestParts<State> for Browser {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Self::Rejection> {
        Ok(Self { client: Client::of(&parts.extensions).cloned(), headers: parts.headers.clone() })
    }
}

/// Whether requests to `path` make, show or end a session.
pub(crate) fn is_at(path: &str) -> bool {
    path == "/v1/session"
}

/// Log in
///
/// Turns a key into a cookie that pages cannot read, so that `EventSource` and `<img>` work. It is valid for 30 days,
/// and as long as its key. A request with the cookie that changes something must come from a page of this server.
#[utoipa::path(
    post, path = "/v1/session", tag = "keys", operation_id = "log_in",
    request_body = SessionRequest,
    responses(
        (status = 200, description = "The caller; `Set-Cookie` has the session", body = Session),
        (status = 401, description = "The key or the link is not one of this server, was used, revoked or has expired"),
        (status = 409, description = "The installation has no key, and asks for none"),
        (status = 429, description = "Too many attempts with a wrong key came from this address"),
    ),
)]
pub(crate) async fn log_in(browser: Browser, state: State, Json(request): Json<SessionRequest>) -> Result<Response> {
    let unprocessable = |field: &str, message: &str| Problem::field(StatusCode::UNPROCESSABLE_ENTITY, field, message);
    let with = match (request.key, request.link) {
        (Some(key), None) => LogIn::Key(
            key.trim()
                .parse()
                .map_err(|_| unprocessable("key", "It is not a key; one looks like `pyro_<id>_<secret>`."))?,
        ),
        (None, Some(link)) => LogIn::Link(
            link.trim().parse().map_err(|_| unprocessable("link", "It is not the secret of a login link."))?,
        ),
        (None, None) => return Err(unprocessable("key", "Send a `key`, or the secret of a `link`.")),
        (Some(_), Some(_)) => return Err(unprocessable("link", "Send a `key` or a `link`, not both.")),
    };
    let (token, caller) = state.access.log_in(with, browser.client.as_ref().map(|client| client.address)).await?;
    let cookie = cookie(&state, &browser, &token.reveal(), SESSION.as_secs());
    Ok((cookie, Body(Session::from(&caller))).into_response())
}

/// Show who sends the requests
///
/// Any key or session may ask.
#[utoipa::path(
    get, path = "/v1/session", tag = "keys", operation_id = "get_session",
    security(("key" = [])),
    responses((status = 200, description = "The caller", body = Session)),
)]
pub(crate) async fn get(caller: Caller) -> Body<Session> {
    Body(Session::from(&caller))
}

/// Log out
///
/// Ends the session of the cookie, if there is one.
#[utoipa::path(
    delete, path = "/v1/session", tag = "keys", operation_id = "log_out",
    responses((status = 204, description = "There is no session any more")),
)]
pub(crate) async fn log_out(browser: Browser, state: State) -> Result<Response> {
    if let Some(token) = credentials::session(&browser.headers) {
        state.access.log_out(&token).await?;
    }
    Ok((StatusCode::NO_CONTENT, cookie(&state, &browser, "", 0)).into_response())
}

/// The header that keeps `value` in the browser for some seconds. Over TLS it is sent over TLS only.
fn cookie(state: &State, browser: &Browser, value: &str, seconds: u64) -> HeaderMap {
    let is_tls = state.names.is_tls(browser.client.as_ref(), &browser.headers);
    let (name, secure) = if is_tls { (SECURE_COOKIE, "; Secure") } else { (COOKIE, "") };
    let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let mut set = HeaderMap::new();
    if let Ok(mut text) = HeaderValue::from_str(&text) {
        text.set_sensitive(true);
        set.insert(header::SET_COOKIE, text);
    }
    set.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set
}
