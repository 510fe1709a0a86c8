//! Files of deleted models, which workers may still have in their caches.

use sqlx::PgPool;

use crate::Result;
use crate::database::bounded;

/// Those of `digests` that are files of deleted models, and of no others. No job can need them: a model that a job
/// needs cannot be deleted.
pub async fn abandoned(pool: &PgPool, digests: &[String]) -> Result<Vec<String>> {
    let found = sqlx::query_scalar!(
        r#"WITH named AS (
               SELECT DISTINCT file->>'sha256' AS sha256, m.deleted_at IS NULL AS alive
               FROM models m, jsonb_array_elements(m.files) AS file)
           SELECT sha256 AS "sha256!" FROM unnest($1::text[]) AS cached(sha256)
           WHERE EXISTS (SELECT FROM named WHERE named.sha256 = cached.sha256)
             AND NOT EXISTS (SELECT FROM named WHERE named.sha256 = cached.sha256 AND alive)"#,
        digests,
    );
    bounded(found.fetch_all(pool)).await
}
