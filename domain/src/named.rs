//! Which objects rows name. A new column or document with storage keys must be added here, or the sweeper takes its
//! objects for strays; `every_storage_key_is_known_to_the_sweeper` (domain/tests/results/sweep.rs) checks the columns.

use std::collections::HashSet;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::storage::layout::{self, Place};
use crate::{Result, bounded};

/// The place of a key that an older version made in another way: only its row can name it.
const NOWHERE: Place = Place { folder: "", owner: Uuid::nil(), epoch: 0 };

/// Those of `keys` that a row names, in any project.
pub(crate) async fn named(connection: &mut PgConnection, keys: &[String]) -> Result<Vec<String>> {
    let places: Vec<Place> = keys.iter().map(|key| layout::place(key).unwrap_or(NOWHERE)).collect();
    let folders: Vec<String> = places.iter().map(|place| place.folder.to_owned()).collect();
    let owners: Vec<Uuid> = places.iter().map(|place| place.owner).collect();
    let mut named = sqlx::query_scalar!(
        r#"SELECT k.key AS "key!" FROM unnest($1::text[], $2::text[], $3::uuid[]) AS k(key, folder, owner)
           WHERE EXISTS (SELECT FROM examples WHERE storage_key = k.key)
              OR EXISTS (SELECT FROM inputs WHERE storage_key = k.key)
              OR EXISTS (SELECT FROM uploads WHERE storage_key = k.key AND completed_at IS NULL)
              OR EXISTS (SELECT FROM artifacts WHERE storage_key = k.key)
              OR EXISTS (SELECT FROM training_checkpoints WHERE storage_key = k.key)
              OR (k.folder = 'uploads' AND EXISTS (SELECT FROM model_uploads WHERE id = k.owner))
              OR (k.folder = 'sources'
                  AND EXISTS (SELECT FROM generations WHERE id = k.owner AND deleted_at IS NULL))"#,
        keys,
        &folders,
        &owners,
    )
    .fetch_all(&mut *connection)
    .await?;
    let known: HashSet<&String> = named.iter().collect();
    let rest: Vec<String> = keys.iter().filter(|key| !known.contains(key)).cloned().collect();
    if rest.is_empty() {
        return Ok(named);
    }
    // Any model may share any file. Files of a deleted model, one that a newer built-in one replaced, stay as long as
    // a job needs them.
    let in_documents = sqlx::query_scalar!(
        r#"WITH named AS MATERIALIZED (
             SELECT jsonb_path_query(files, '$[*].storage_key') #>> '{}' AS key FROM models m
             WHERE deleted_at IS NULL OR EXISTS (
               SELECT FROM job_needs n JOIN jobs j ON j.id = n.job_id
               WHERE n.model_id = m.id AND j.status IN ('queued', 'running'))
             UNION ALL
             SELECT jsonb_path_query(files, '$[*].storage_key') #>> '{}' FROM imports WHERE files <> '[]'
             UNION ALL
             SELECT jsonb_path_query(t.examples, '$[*].storage_key') #>> '{}' FROM trainings t
             JOIN jobs j ON j.id = t.job_id WHERE j.status IN ('queued', 'running'))
           SELECT key AS "key!" FROM unnest($1::text[]) key WHERE key IN (SELECT key FROM named)"#,
        &rest,
    );
    named.extend(in_documents.fetch_all(connection).await?);
    Ok(named)
}

/// Those of `keys` that no row names, and that no running attempt has just stored.
pub(crate) async fn strays(pool: &PgPool, mut keys: Vec<String>) -> Result<Vec<String>> {
    if keys.is_empty() {
        return Ok(keys);
    }
    let named = bounded(async { named(&mut *pool.acquire().await?, &keys).await }).await?;
    let named: HashSet<String> = named.into_iter().collect();
    keys.retain(|key| !named.contains(key));
    let places: Vec<Place> = keys.iter().map(|key| layout::place(key).unwrap_or(NOWHERE)).collect();
    let epochs: Vec<i64> = places.iter().map(|place| place.epoch).collect();
    let owners: Vec<Uuid> = places.iter().map(|place| place.owner).collect();
    let running = sqlx::query_scalar!(
        r#"SELECT k.key AS "key!" FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS k(key, owner, epoch)
           WHERE k.epoch > 0 AND EXISTS (
             SELECT FROM jobs j WHERE j.status = 'running' AND j.epoch = k.epoch
               AND (j.id = k.owner OR j.id = (SELECT job_id FROM trainings WHERE id = k.owner)))"#,
        &keys,
        &owners,
        &epochs,
    );
    let running: HashSet<String> = bounded(running.fetch_all(pool)).await?.into_iter().collect();
    keys.retain(|key| !running.contains(key));
    Ok(keys)
}
