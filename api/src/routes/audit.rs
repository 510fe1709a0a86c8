//! `/v1/audit`: who changed keys, projects and models.

use axum::Json;
use chrono::{DateTime, Utc};
use domain::{Caller, KeyId, Page, audit};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::extract::{PageQuery, Query};
use crate::problem::Result;

/// A change to a key, a project or a model.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    pub id: Uuid,
    /// The noun and the verb.
    #[schema(example = "key.create")]
    pub action: String,
    /// Id of the key, project, model or import.
    pub object: String,
    /// The new values.
    #[schema(value_type = Object)]
    pub details: Value,
    /// The key of the caller. Null if it had none.
    pub key: Option<KeyId>,
    /// The account of the Hugging Face Hub whose token the caller had. Null if it had none.
    pub account: Option<String>,
    /// Whether a command on the database made the change, such as `pyrograph keys`.
    pub operator: bool,
    /// Address of the client, or of the proxy before it. Null if there was no connection.
    pub address: Option<String>,
    pub created_at: DateTime<Utc>,
}

type AuditEntryPage = Page<AuditEntry>;

impl From<audit::Entry> for AuditEntry {
    fn from(entry: audit::Entry) -> Self {
        Self {
            id: entry.id,
            action: entry.action,
            object: entry.object,
            details: entry.details,
            key: entry.key,
            account: entry.account,
            operator: entry.by_operator,
            address: entry.address,
            created_at: entry.created_at,
        }
    }
}

/// List changes, newest first
///
/// Changes to keys, projects and models that were made in the caller's project. They are neither changed nor deleted.
#[utoipa::path(
    get, path = "/v1/audit", tag = "keys", operation_id = "list_audit",
    security(("key" = ["admin"])),
    params(PageQuery),
    responses((status = 200, description = "One page of changes", body = AuditEntryPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<AuditEntryPage>> {
    Ok(Json(audit::list(&caller, &state.database, &query.page()?).await?.map(AuditEntry::from)))
}
