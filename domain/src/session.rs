//! Sessions: browsers that have logged in with a key, and hold a cookie in its place. A session has the project and the
//! scopes of its key, and ends with it. A login link starts a session without the key being typed. Not here: the cookie
//! (`api`).

use std::time::Duration;

use crate::key::token::{Credential, NotAToken};
use crate::{Caller, Database, Error, KeyId, ProjectId, Result, bounded};

/// How long a session lasts.
pub const SESSION: Duration = Duration::from_hours(30 * 24);
/// How long a login link can be used.
pub const LINK: Duration = Duration::from_mins(10);

/// The cookie of a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionToken(Credential);

/// The secret part of a login link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkToken(Credential);

impl SessionToken {
    pub fn reveal(&self) -> String {
        self.0.reveal("session")
    }
}

impl std::str::FromStr for SessionToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        Credential::read("session", text).map(Self)
    }
}

impl LinkToken {
    pub fn reveal(&self) -> String {
        self.0.reveal("login")
    }
}

impl std::str::FromStr for LinkToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        Credential::read("login", text).map(Self)
    }
}

/// Starts a session with a key that [`Grant::admit`] has admitted.
pub async fn start(database: &Database, key: KeyId) -> Result<SessionToken> {
    let token = Credential::new()?;
    // Each login removes those that have ended.
    let started = sqlx::query!(
        "WITH ended AS (DELETE FROM sessions WHERE expires_at < clock_timestamp())
         INSERT INTO sessions (id, key_id, secret_sha256, expires_at)
         VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))",
        token.id(),
        key as KeyId,
        &token.sha256(),
        SESSION.as_secs_f64(),
    );
    bounded(started.execute(database.before_caller())).await?;
    Ok(SessionToken(token))
}

/// Ends a session; does nothing if it has ended.
pub async fn end(database: &Database, token: &SessionToken) -> Result<()> {
    let ended =
        sqlx::query!("DELETE FROM sessions WHERE id = $1 AND secret_sha256 = $2", token.0.id(), &token.0.sha256());
    bounded(ended.execute(database.before_caller())).await?;
    Ok(())
}

/// The key of a session; `None` if the session has ended.
pub async fn key(database: &Database, token: &SessionToken) -> Result<Option<KeyId>> {
    let found = sqlx::query_scalar!(
        r#"SELECT key_id AS "key: KeyId" FROM sessions
           WHERE id = $1 AND secret_sha256 = $2 AND expires_at > clock_timestamp()"#,
        token.0.id(),
        &token.0.sha256(),
    );
    bounded(found.fetch_optional(database.before_caller())).await
}

/// Makes a login link for the key of `up`, or for the newest key that may do most. Errors: `Conflict` if there is no
/// key that counts.
pub async fn create_link(caller: &Caller, database: &Database) -> Result<LinkToken> {
    let token = Credential::new()?;
    let made = sqlx::query!(
        "WITH ended AS (DELETE FROM login_links WHERE expires_at < clock_timestamp())
         INSERT INTO login_links (id, key_id, secret_sha256, expires_at)
         SELECT $1, id, $2, clock_timestamp() + make_interval(secs => $3) FROM keys
         WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
           AND (is_local OR project_id = $4)
         ORDER BY is_local DESC, cardinality(scopes) DESC, id DESC LIMIT 1",
        token.id(),
        &token.sha256(),
        LINK.as_secs_f64(),
        caller.project() as ProjectId,
    );
    if bounded(made.execute(database.pool(caller))).await?.rows_affected() == 0 {
        return Err(Error::conflict("there is no key to log in with; create one with `pyrograph keys create`"));
    }
    Ok(LinkToken(token))
}

/// Uses a login link, which works once. `None` if there is none, or no longer.
pub async fn use_link(database: &Database, token: &LinkToken) -> Result<Option<KeyId>> {
    let used = sqlx::query_scalar!(
        r#"DELETE FROM login_links WHERE id = $1 AND secret_sha256 = $2 AND expires_at > clock_timestamp()
           RETURNING key_id AS "key: KeyId""#,
        token.0.id(),
        &token.0.sha256(),
    );
    bounded(used.fetch_optional(database.before_caller())).await
}
