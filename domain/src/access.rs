//! Whether requests to this installation need a key. An installation that never had one is for its own machine only and
//! asks for none. Once it has had one, or has admitted tokens of the Hugging Face Hub, it asks for ever, even if all
//! keys are revoked. Not here: which requests come from the own machine, and which tokens are admitted (`api`).

use sqlx::PgExecutor;

use crate::{Caller, Database, Result};

/// Whether requests need a key.
pub async fn is_closed(database: &Database) -> Result<bool> {
    let closed = sqlx::query_scalar!(r#"SELECT closed_at IS NOT NULL AS "closed!" FROM access"#);
    Ok(closed.fetch_one(database.before_caller()).await?)
}

/// From now on requests need a key or a token of the Hugging Face Hub.
pub async fn close(caller: &Caller, database: &Database) -> Result<()> {
    close_in(database.pool(caller)).await
}

/// From now on requests need a key. Others that do the same at this moment wait for the end of the transaction.
pub(crate) async fn close_in(executor: impl PgExecutor<'_>) -> Result<()> {
    let closed = sqlx::query!("UPDATE access SET closed_at = coalesce(closed_at, clock_timestamp())");
    closed.execute(executor).await?;
    Ok(())
}
