//! `/v1/keys`: keys of the API.

use axum::Json as Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::key::{self, KeyChanges, KeyRequest};
use domain::{Caller, KeyId, Page, Scope};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::extract::{Json, PageQuery, Path, Query};
use crate::problem::Result;

/// A key without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Key {
    pub id: KeyId,
    pub name: String,
    /// What the key may do. `generate`, `train` and `models` imply `read`.
    pub scopes: Vec<Scope>,
    /// Whether `pyrograph up` made the key for its user's commands.
    pub local: bool,
    pub created_at: DateTime<Utc>,
    /// When it expires. Null: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// A use at most a minute before the last one. Null if it was never used.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked. Null if it was not.
    pub revoked_at: Option<DateTime<Utc>>,
}

type KeyPage = Page<Key>;

/// A new key with its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewKey {
    #[serde(flatten)]
    pub about: Key,
    /// The key as clients send it. It is shown only here.
    #[schema(pattern = "^pyro_[0-9a-f]{32}_[0-9a-f]{64}$")]
    pub key: String,
}

impl From<key::Key> for Key {
    fn from(key: key::Key) -> Self {
        Self {
            id: key.id,
            name: key.name,
            scopes: key.scopes.iter().collect(),
            local: key.is_local,
            created_at: key.created_at,
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// Create a key
///
/// The first key of an installation closes it: from then on, every request needs a key.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", operation_id = "create_key",
    security(("key" = ["admin"])),
    request_body = KeyRequest,
    responses((status = 201, description = "The new key with its secret, which is shown only here", body = NewKey,
               headers(("Location" = String, description = "Path of the key")))),
)]
pub(crate) async fn create(caller: Caller, state: State, Json(request): Json<KeyRequest>) -> Result<Response> {
    let (key, token) = key::create(&caller, &state.database, request).await?;
    state.access.forget();
    let location = format!("/v1/keys/{}", key.id);
    let body = Body(NewKey { about: key.into(), key: token.reveal() });
    let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, "no-store".to_owned())];
    Ok((StatusCode::CREATED, headers, body).into_response())
}

/// List keys, newest first
///
/// Revoked keys are listed, too.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys", operation_id = "list_keys",
    security(("key" = ["admin"])),
    params(PageQuery),
    responses((status = 200, description = "One page of keys", body = KeyPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Body<KeyPage>> {
    Ok(Body(key::list(&caller, &state.database, &query.page()?).await?.map(Key::from)))
}

/// Get a key
#[utoipa::path(
    get, path = "/v1/keys/{id}", tag = "keys", operation_id = "get_key",
    security(("key" = ["admin"])),
    params(("id" = KeyId, Path, description = "Id of the key")),
    responses((status = 200, description = "The key", body = Key)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<KeyId>) -> Result<Body<Key>> {
    Ok(Body(key::get(&caller, &state.database, id).await?.into()))
}

/// Change a key
///
/// Fields that are left out stay. The change takes effect within five seconds.
#[utoipa::path(
    patch, path = "/v1/keys/{id}", tag = "keys", operation_id = "change_key",
    security(("key" = ["admin"])),
    params(("id" = KeyId, Path, description = "Id of the key")),
    request_body = KeyChanges,
    responses(
        (status = 200, description = "The changed key", body = Key),
        (status = 409, description = "The key is revoked"),
    ),
)]
pub(crate) async fn change(
    caller: Caller,
    state: State,
    Path(id): Path<KeyId>,
    Json(changes): Json<KeyChanges>,
) -> Result<Body<Key>> {
    let changed = key::change(&caller, &state.database, id, changes).await?;
    state.access.forget();
    Ok(Body(changed.into()))
}

/// Revoke a key
///
/// Requests with it are refused within five seconds, and open event streams end. The key stays in the list.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys", operation_id = "revoke_key",
    security(("key" = ["admin"])),
    params(("id" = KeyId, Path, description = "Id of the key")),
    responses((status = 204, description = "The key is revoked")),
)]
pub(crate) async fn revoke(caller: Caller, state: State, Path(id): Path<KeyId>) -> Result<StatusCode> {
    key::revoke(&caller, &state.database, id).await?;
    state.access.forget();
    Ok(StatusCode::NO_CONTENT)
}
