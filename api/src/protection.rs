//! Headers of every response that protect the browsers that show it: which scripts, pictures and connections a page of
//! this server may have (CSP, level 3), that no page frames it, that nobody guesses its type, and that a browser which
//! reached it over TLS keeps to TLS (RFC 6797). What users have stored gets a stricter policy; see [`crate::gateway`].

use std::sync::Arc;

use axum::extract::{Request, State as Extracted};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::State;
use crate::names::{Names, PublicUrl};
use crate::proxies::Client;

/// A year.
const TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

pub(crate) struct Protection {
    names: Names,
    policy: HeaderValue,
}

impl Protection {
    pub(crate) fn of(state: &State) -> Arc<Self> {
        let files = match (&state.gateway, &state.names.public_url) {
            (None, _) => Some(state.storage.origin()),
            // A page may be open at another address than the public one, which leads to the files.
            (Some(_), Some(public)) => Some(PublicUrl::origin(public)),
            (Some(_), None) => None,
        };
        let cdn = state.cdn.as_ref().map(PublicUrl::origin);
        let origins: Vec<String> = files.into_iter().chain(cdn).collect();
        Arc::new(Self { names: state.names.clone(), policy: policy(&origins) })
    }

    fn apply(&self, headers: &mut HeaderMap, is_tls: bool) {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert_with(|| self.policy.clone());
        if is_tls {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, TLS_ONLY);
        }
    }
}

/// The policy of our pages, which show files of these origins, too: that of the bucket and that of a CDN.
fn policy(origins: &[String]) -> HeaderValue {
    let sources = ["'self' data: blob:"].into_iter().chain(origins.iter().map(String::as_str));
    let sources = sources.collect::<Vec<_>>().join(" ");
    let policy = format!(
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src {sources}; connect-src \
         {sources}; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'"))
}

pub(crate) async fn protect(
    Extracted(protection): Extracted<Arc<Protection>>,
    request: Request,
    next: Next,
) -> Response {
    let is_tls = protection.names.is_tls(Client::of(request.extensions()), request.headers());
    let mut response = next.run(request).await;
    protection.apply(response.headers_mut(), is_tls);
    response
}
