//! The audit log: who changed keys, projects and models, and when. A row is written in the transaction of the change, and
//! the database refuses to change or delete it. It has no secrets, prompts or URLs.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::{Caller, Database, KeyId, Page, PageRequest, Principal, ProjectId, Result};

/// A change.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: Uuid,
    /// The key of the caller; `None` if it had none.
    pub key: Option<KeyId>,
    /// The account of the Hugging Face Hub whose token the caller had.
    pub account: Option<String>,
    /// Whether a command on the database made the change.
    pub by_operator: bool,
    /// Address of the client, or of the proxy before it.
    pub address: Option<String>,
    /// The noun and the verb, such as `key.create`.
    pub action: String,
    /// Id of the key, project, model or import.
    pub object: String,
    /// The new values.
    pub details: Value,
    pub created_at: DateTime<Utc>,
}

/// Writes down a change that the transaction makes.
pub(crate) async fn record(
    connection: &mut PgConnection,
    caller: &Caller,
    action: &'static str,
    object: impl std::fmt::Display,
    details: Value,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO audit (id, project_id, key_id, account, by_operator, address, action, object, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        Uuid::now_v7(),
        caller.project() as ProjectId,
        caller.key() as Option<KeyId>,
        caller.account(),
        *caller.principal() == Principal::Operator,
        caller.address().map(|address| address.to_string()),
        action,
        object.to_string(),
        Json(details) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lists the changes in the caller's project, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Entry>> {
    let rows = sqlx::query_as!(
        Entry,
        r#"SELECT id, key_id AS "key: KeyId", account, by_operator, address, action, object, details, created_at
           FROM audit
           WHERE project_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"#,
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit(),
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(rows, |entry| entry.id))
}
