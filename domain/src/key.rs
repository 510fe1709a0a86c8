//! Keys of the API: who may call, in which project, with which scopes and for how long. A revoked key keeps its row, so
//! that lists and records can name it. The text of a key is in `key::token`. Not here: where a request carries its key
//! (`api`), and whether one is needed (`access`).

pub(crate) mod token;

use chrono::{DateTime, Datelike as _, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use utoipa::ToSchema;

pub use self::token::{NotAToken, Token};
use crate::faults::Faults;
use crate::limits::check_display_name;
use crate::{
    Caller, Database, Error, KeyId, Page, PageRequest, Principal, ProjectId, Result, Scope, Scopes, access, audit,
    begin,
};

/// Most characters of a name.
pub const MAX_NAME_CHARS: usize = 63;

/// Parameters to create a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "shop backend", "scopes": ["generate"]}))]
pub struct KeyRequest {
    /// For people; need not be unique.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[^\u0000-\u001f\u007f]+$", example = "shop backend")]
    pub name: String,
    /// What the key may do. `generate`, `train` and `models` imply `read`. [default: `read`, `generate`, `train` and
    /// `models`; for the first key of an installation also `admin`]
    #[serde(default)]
    #[schema(min_items = 1, max_items = 5)]
    pub scopes: Option<Vec<Scope>>,
    /// When the key expires [default: never]
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
}

/// Changes of a key. Fields that are left out stay.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"scopes": ["read"]}))]
pub struct KeyChanges {
    /// For people; need not be unique.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, pattern = r"^[^\u0000-\u001f\u007f]+$", example = "shop backend")]
    pub name: Option<String>,
    /// What the key may do.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 5)]
    pub scopes: Option<Vec<Scope>>,
    /// When the key expires; null: never.
    #[serde(default, deserialize_with = "stated")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub expires_at: Option<Option<DateTime<Utc>>>,
}

/// Distinguishes a field that is null from one that is left out.
fn stated<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A key without its secret.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: KeyId,
    pub name: String,
    pub scopes: Scopes,
    /// Whether `up` made it for its user's commands.
    pub is_local: bool,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    /// A use at most a minute before the last one.
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A row of `keys`, before its texts become types.
struct Row {
    id: KeyId,
    name: String,
    scopes: Vec<String>,
    is_local: bool,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Key {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.id,
            name: row.name,
            scopes: Scopes::of_names(&row.scopes)?,
            is_local: row.is_local,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        })
    }
}

macro_rules! select_keys {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT id AS "id: KeyId", name, scopes, is_local, created_at, expires_at, last_used_at, revoked_at
               FROM keys WHERE project_id = $1 "# + $rest
            $(, $argument)*
        )
    };
}

/// Creates a key of the caller's project. From the first one on, requests to the installation need a key. Errors:
/// `Invalid`.
pub async fn create(caller: &Caller, database: &Database, request: KeyRequest) -> Result<(Key, Token)> {
    let mut faults = Faults::default();
    faults.take(check_display_name(&request.name, MAX_NAME_CHARS));
    let scopes = faults.take(request.scopes.as_deref().map(check_scopes).transpose());
    faults.take(check_expiry(request.expires_at));
    faults.check()?;
    let token = Token::new()?;
    let mut tx = begin(database.pool(caller)).await?;
    // Of two first keys, the second one waits here and sees the first.
    access::close_in(&mut *tx).await?;
    let is_first = sqlx::query_scalar!(r#"SELECT NOT EXISTS (SELECT FROM keys WHERE NOT is_local) AS "first!""#)
        .fetch_one(&mut *tx)
        .await?;
    let scopes = scopes.unwrap_or(if is_first { Scopes::ALL } else { Scopes::USUAL });
    let created_at = sqlx::query_scalar!(
        "INSERT INTO keys (id, project_id, name, scopes, secret_sha256, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING created_at",
        token.id() as KeyId,
        caller.project() as ProjectId,
        request.name,
        &scopes.names(),
        &token.sha256(),
        request.expires_at,
    )
    .fetch_one(&mut *tx)
    .await?;
    let details = json!({ "name": request.name, "scopes": scopes.names(), "expires_at": request.expires_at });
    audit::record(&mut tx, caller, "key.create", token.id(), details).await?;
    tx.commit().await?;
    let key = Key {
        id: token.id(),
        name: request.name,
        scopes,
        is_local: false,
        created_at,
        expires_at: request.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    Ok((key, token))
}

/// Creates the key that `up` keeps for its user's commands, in place of the last one. It may do everything, in
/// the project `default`, and does not count as a key of the installation.
pub async fn create_local(database: &Database) -> Result<Token> {
    let token = Token::new()?;
    let mut tx = begin(database.before_caller()).await?;
    sqlx::query!("DELETE FROM keys WHERE is_local").execute(&mut *tx).await?;
    sqlx::query!(
        "INSERT INTO keys (id, project_id, name, scopes, secret_sha256, is_local)
         VALUES ($1, $2, 'local', $3, $4, true)",
        token.id() as KeyId,
        ProjectId::DEFAULT as ProjectId,
        &Scopes::ALL.names(),
        &token.sha256(),
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(token)
}

/// Lists the keys of the caller's project, newest first, revoked ones too.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Key>> {
    let rows = select_keys!(
        "AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        caller.project() as ProjectId,
        page.before(),
        page.fetch_limit(),
    )
    .fetch_all(database.pool(caller))
    .await?;
    let keys = rows.into_iter().map(Key::try_from).collect::<Result<Vec<_>>>()?;
    Ok(page.cut(keys, |key| key.id.into()))
}

/// Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: KeyId) -> Result<Key> {
    select_keys!("AND id = $2", caller.project() as ProjectId, id as KeyId)
        .fetch_optional(database.pool(caller))
        .await?
        .ok_or_else(|| Error::not_found("key", id))?
        .try_into()
}

/// The project of a key, for the operator. Errors: `NotFound`.
pub async fn project(database: &Database, id: KeyId) -> Result<ProjectId> {
    let project = sqlx::query_scalar!(r#"SELECT project_id AS "id: ProjectId" FROM keys WHERE id = $1"#, id as KeyId);
    project.fetch_optional(database.before_caller()).await?.ok_or_else(|| Error::not_found("key", id))
}

/// Changes a key; every server follows within five seconds. Errors: `NotFound`; `Invalid`; `Conflict` for a key that is
/// revoked.
pub async fn change(caller: &Caller, database: &Database, id: KeyId, changes: KeyChanges) -> Result<Key> {
    let mut faults = Faults::default();
    faults.take(changes.name.as_deref().map_or(Ok(()), |name| check_display_name(name, MAX_NAME_CHARS)));
    let scopes = faults.take(changes.scopes.as_deref().map(check_scopes).transpose());
    faults.take(check_expiry(changes.expires_at.flatten()));
    faults.check()?;
    let scopes = scopes.map(Scopes::names);
    let mut tx = begin(database.pool(caller)).await?;
    let changed = sqlx::query!(
        "UPDATE keys SET name = coalesce($3, name), scopes = coalesce($4, scopes),
                expires_at = CASE WHEN $5 THEN $6 ELSE expires_at END
         WHERE project_id = $1 AND id = $2 AND revoked_at IS NULL",
        caller.project() as ProjectId,
        id as KeyId,
        changes.name,
        scopes.as_deref(),
        changes.expires_at.is_some(),
        changes.expires_at.flatten(),
    )
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() > 0 {
        let mut details = json!({});
        for (field, value) in [
            ("name", changes.name.as_ref().map(|name| json!(name))),
            ("scopes", scopes.as_ref().map(|scopes| json!(scopes))),
            ("expires_at", changes.expires_at.map(|expiry| json!(expiry))),
        ] {
            if let Some(value) = value {
                details[field] = value;
            }
        }
        audit::record(&mut tx, caller, "key.change", id, details).await?;
    }
    tx.commit().await?;
    let key = get(caller, database, id).await?;
    if changed.rows_affected() == 0 {
        return Err(Error::conflict(format!("Key `{id}` is revoked; create another one.")));
    }
    Ok(key)
}

/// Revokes a key; every server refuses it within five seconds. Does nothing if it is revoked. Errors: `NotFound`.
pub async fn revoke(caller: &Caller, database: &Database, id: KeyId) -> Result<()> {
    let mut tx = begin(database.pool(caller)).await?;
    let revoked = sqlx::query!(
        "UPDATE keys SET revoked_at = clock_timestamp() WHERE project_id = $1 AND id = $2 AND revoked_at IS NULL",
        caller.project() as ProjectId,
        id as KeyId,
    )
    .execute(&mut *tx)
    .await?;
    if revoked.rows_affected() == 0 {
        // The next statement may need the connection.
        tx.rollback().await?;
        return get(caller, database, id).await.map(drop);
    }
    audit::record(&mut tx, caller, "key.revoke", id, json!({})).await?;
    Ok(tx.commit().await?)
}

/// What a key gives to a caller who knows its secret.
#[derive(Clone, Debug)]
pub struct Grant {
    caller: Caller,
    secret_sha256: Vec<u8>,
    expires_at: Option<DateTime<Utc>>,
    is_revoked: bool,
    is_local: bool,
}

impl Grant {
    /// Whether it is neither revoked nor expired.
    pub fn counts(&self) -> bool {
        !self.is_revoked && self.expires_at.is_none_or(|expiry| Utc::now() < expiry)
    }

    /// Whether `up` made the key for its user's commands.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// The caller with this key, for a session that the key has started.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether `token` has the secret of this key.
    pub fn is_of(&self, token: &Token) -> bool {
        token.sha256().as_slice() == self.secret_sha256
    }

    /// The caller, if `token` is this key and the key counts.
    pub fn admit(&self, token: &Token) -> Option<&Caller> {
        (self.is_of(token) && self.counts()).then_some(&self.caller)
    }
}

/// What the key with this id gives; `None` if there is none.
pub async fn grant(database: &Database, id: KeyId) -> Result<Option<Grant>> {
    let row = sqlx::query!(
        r#"SELECT project_id AS "project_id: ProjectId", scopes, secret_sha256, expires_at, is_local,
                  revoked_at IS NOT NULL OR p.deleted_at IS NOT NULL AS "is_revoked!"
           FROM keys k JOIN projects p ON p.id = project_id WHERE k.id = $1"#,
        id as KeyId,
    );
    let Some(row) = row.fetch_optional(database.before_caller()).await? else { return Ok(None) };
    let scopes = Scopes::of_names(&row.scopes)?.with_implied();
    let caller = Caller::new(row.project_id, Principal::Key(id), scopes);
    let (secret_sha256, expires_at, is_revoked) = (row.secret_sha256, row.expires_at, row.is_revoked);
    Ok(Some(Grant { caller, secret_sha256, expires_at, is_revoked, is_local: row.is_local }))
}

/// Records that these keys were used just now.
pub async fn used(database: &Database, ids: &[KeyId]) -> Result<()> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| (*id).into()).collect();
    sqlx::query!("UPDATE keys SET last_used_at = clock_timestamp() WHERE id = ANY($1)", &ids)
        .execute(database.before_caller())
        .await?;
    Ok(())
}

fn check_scopes(scopes: &[Scope]) -> Result<Scopes> {
    match Scopes::of(scopes) {
        Scopes::NONE => Err(Error::invalid("scopes", "A key needs at least one scope.")),
        scopes => Ok(scopes),
    }
}

fn check_expiry(expires_at: Option<DateTime<Utc>>) -> Result<()> {
    match expires_at {
        Some(expiry) if expiry <= Utc::now() => Err(Error::invalid("expires_at", "The time has passed.")),
        // RFC 3339 has no later ones.
        Some(expiry) if expiry.year() > 9999 => Err(Error::invalid("expires_at", "It is after the year 9999.")),
        _ => Ok(()),
    }
}
