//! Which scope each operation asks for. `security` of an operation in the contract is the only place where that is
//! written; the routes are checked against it.

use std::collections::HashMap;
use std::sync::OnceLock;

use axum::http::Method;
use domain::Scope;
use serde::Deserialize;

use crate::document::SCHEME;
use crate::openapi;

/// The part of the contract that is of interest here.
#[derive(Deserialize)]
struct Contract {
    paths: HashMap<String, HashMap<String, Operation>>,
}

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    security: Vec<HashMap<String, Vec<Scope>>>,
}

/// What an operation asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Any key.
    Key,
    Scope(Scope),
}

type Scopes = HashMap<String, HashMap<String, Asks>>;

/// What the operation at this route asks for, such as `/v1/models/{model}`; `None` if the contract says nothing: then
/// nobody may call it with a caller.
pub(crate) fn of(method: &Method, route: &str) -> Option<Asks> {
    static SCOPES: OnceLock<Scopes> = OnceLock::new();
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let scopes = SCOPES.get_or_init(|| read(openapi::text()));
    scopes.get(route)?.get(method.as_str()).copied()
}

fn read(contract: &str) -> Scopes {
    let contract = serde_json::from_str(contract).unwrap_or_else(|error| {
        tracing::error!(%error, "the contract names no scopes, so that nobody may call anything");
        Contract { paths: HashMap::new() }
    });
    let scope = |operation: Operation| {
        let scopes = operation.security.first()?.get(SCHEME)?;
        Some(scopes.first().map_or(Asks::Key, |scope| Asks::Scope(*scope)))
    };
    let operations = |item: HashMap<String, Operation>| {
        item.into_iter().filter_map(|(method, operation)| Some((method.to_uppercase(), scope(operation)?))).collect()
    };
    contract.paths.into_iter().map(|(path, item)| (path, operations(item))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_the_scopes_of_the_contract() {
        assert_eq!(of(&Method::POST, "/v1/generations"), Some(Asks::Scope(Scope::Generate)));
        assert_eq!(of(&Method::HEAD, "/v1/generations/{id}"), Some(Asks::Scope(Scope::Read)));
        assert_eq!(of(&Method::GET, "/v1/trainings/{id}/events"), Some(Asks::Scope(Scope::Read)));
        assert_eq!(of(&Method::GET, "/v1/session"), Some(Asks::Key));
        assert_eq!(of(&Method::PUT, "/v1/generations"), None);
        assert_eq!(of(&Method::GET, "/healthz"), None);
    }
}
