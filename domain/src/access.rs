//! Whether requests to this installation need a key. An installation that never had one is for its own machine only and
//! asks for none. Once it has had one, it asks for ever, even if all keys are revoked. Not here: which requests come
//! from the own machine (`api`).

use sqlx::PgConnection;

use crate::{Database, Result};

/// Whether requests need a key.
pub async fn is_closed(database: &Database) -> Result<bool> {
    let closed = sqlx::query_scalar!(r#"SELECT closed_at IS NOT NULL AS "closed!" FROM access"#);
    Ok(closed.fetch_one(database.before_caller()).await?)
}

/// From now on requests need a key. Others that do the same at this moment wait for the end of the transaction.
pub(crate) async fn close(connection: &mut PgConnection) -> Result<()> {
    let closed = sqlx::query!("UPDATE access SET closed_at = coalesce(closed_at, clock_timestamp())");
    closed.execute(connection).await?;
    Ok(())
}
