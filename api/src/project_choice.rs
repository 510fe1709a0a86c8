//! The project that a request names: by header, or by query where no header can be set, as in a browser's `EventSource`
//! and `<img>`. Not here: who may name one (`domain::project`).

use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode};

use crate::problem::{Problem, Result};

pub(crate) const HEADER: HeaderName = HeaderName::from_static("pyrograph-project");
/// A parameter of every query.
pub(crate) const PARAMETER: &str = "project";

/// The name or id of the project, if the request names one. Errors: 400 for several, and for what cannot be one.
pub(crate) fn of(parts: &Parts) -> Result<Option<String>> {
    let is_header = parts.headers.contains_key(HEADER);
    let wrong = || {
        let field = if is_header { "Pyrograph-Project" } else { PARAMETER };
        Problem::field(StatusCode::BAD_REQUEST, field, "It names no project, or several.")
    };
    let mut named = Vec::new();
    for value in parts.headers.get_all(HEADER) {
        named.push(value.to_str().map_err(|_| wrong())?.to_owned());
    }
    let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    named.extend(pairs.filter(|(name, _)| name == PARAMETER).map(|(_, value)| value.into_owned()));
    named.dedup();
    match named.as_slice() {
        [] => Ok(None),
        [name] if !name.is_empty() && !name.contains('\0') => Ok(Some(name.clone())),
        _ => Err(wrong()),
    }
}
