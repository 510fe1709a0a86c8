//! Whether the bucket belongs to this database. Both hold the id of the installation and a counter that rises every
//! five minutes, in the database first: if the bucket has the larger counter, the database was restored from a backup,
//! and rows of objects that are in the bucket are missing.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use super::PAGE;
use crate::named::named;
use crate::storage::layout;
use crate::{Error, Result, Storage, begin, bounded};

/// The object with the id and the counter of the installation that the bucket belongs to.
const SIGN: &str = "pyrograph.json";
/// The folder in which other installations say that they use the bucket, too.
const OTHERS: &str = "pyrograph";
const JSON: &str = "application/json";
/// Most objects of rows that are looked for in a bucket without a sign.
const TRIED: i64 = 100;
const AT_ONCE: usize = 8;
/// Largest part of the objects in a bucket without a sign that may have no row.
const LARGEST_UNKNOWN_PART: f64 = 0.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sign {
    installation: Uuid,
    #[serde(default)]
    counter: i64,
}

/// What may be changed while looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    Look,
    Act,
    /// As `Act`, and an operator accepts the state of the database.
    Accept,
}

/// Whether objects without rows may be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    Ours,
    /// The bucket belongs to another installation.
    Foreign(Uuid),
    /// Other installations use the bucket, too.
    Shared(Vec<String>),
    /// Not before an operator accepts it.
    HeldBack(String),
}

impl Standing {
    /// Why not, in a sentence for the operator.
    pub(super) fn reason(&self) -> Option<String> {
        match self {
            Self::Ours => None,
            Self::Foreign(id) => Some(format!(
                "the bucket belongs to the installation {id}, as its object {SIGN} says; use a bucket that no other \
                 installation uses, or delete that object if this installation no longer exists"
            )),
            Self::Shared(others) => Some(format!(
                "other installations have used the bucket ({}); delete these objects if they no longer do",
                others.join(", ")
            )),
            Self::HeldBack(why) => {
                Some(format!("{why}; look at `pyrograph sweep --dry-run` and then run `pyrograph sweep --accept`"))
            }
        }
    }
}

/// The row of this installation.
struct Row {
    id: Uuid,
    counter: i64,
    held_back: Option<String>,
}

/// Compares the bucket with the database, and signs the bucket if it certainly belongs to this database and is not
/// signed.
pub(super) async fn standing(pool: &PgPool, storage: &Storage, intent: Intent) -> Result<Standing> {
    // The bucket before the row: the counter rises in the database first, so the row read later is never behind.
    let sign = read(storage).await?;
    let row = row(pool).await?;
    if let Some(sign) = sign
        && sign.installation != row.id
    {
        if intent != Intent::Look {
            let here = Sign { installation: row.id, counter: row.counter };
            storage.replace(&own_notice(row.id), json(&here)?, JSON).await?;
        }
        return Ok(Standing::Foreign(sign.installation));
    }
    let others = others(storage, row.id).await?;
    if !others.is_empty() {
        return Ok(Standing::Shared(others));
    }
    let accepts = intent == Intent::Accept;
    let why = match (sign, row.held_back) {
        (Some(sign), _) if sign.counter > row.counter => {
            let restored = "the database was restored from a backup: the bucket is ahead of it";
            (!accepts).then(|| restored.to_owned())
        }
        (Some(_), held_back) => held_back.filter(|_| !accepts),
        (None, Some(held_back)) if !accepts => Some(held_back),
        (None, _) => doubt(pool, storage, accepts).await?,
    };
    if let Some(why) = why {
        if intent != Intent::Look {
            hold_back(pool, &why).await?;
        }
        return Ok(Standing::HeldBack(why));
    }
    match (intent, sign) {
        (Intent::Accept, _) => accept(pool, storage, sign.map_or(0, |sign| sign.counter)).await?,
        (Intent::Act, None) => {
            let sign = Sign { installation: row.id, counter: row.counter };
            if !storage.create(SIGN, json(&sign)?, JSON).await? {
                // Another process was faster, perhaps of another installation.
                return Box::pin(standing(pool, storage, intent)).await;
            }
            storage.delete(&own_notice(row.id)).await?;
        }
        _ => {}
    }
    Ok(Standing::Ours)
}

/// Raises the counter if `interval` has passed since the last time, in the database and then in the bucket.
pub(super) async fn count(pool: &PgPool, storage: &Storage, interval: Duration) -> Result<()> {
    if standing(pool, storage, Intent::Act).await? != Standing::Ours {
        return Ok(());
    }
    let raised = bounded(
        sqlx::query_as!(
            Row,
            "UPDATE installation SET counter = counter + 1, counted_at = clock_timestamp()
             WHERE held_back IS NULL AND counted_at <= clock_timestamp() - make_interval(secs => $1)
             RETURNING id, counter, held_back",
            interval.as_secs_f64(),
        )
        .fetch_optional(pool),
    )
    .await?;
    match raised {
        Some(row) => storage.replace(SIGN, json(&Sign { installation: row.id, counter: row.counter })?, JSON).await,
        None => Ok(()),
    }
}

/// Whether the next sweep is due, and for this process to make.
pub(super) async fn takes_turn(pool: &PgPool, interval: Duration) -> Result<bool> {
    let turn = sqlx::query!(
        "UPDATE installation SET swept_at = clock_timestamp()
         WHERE swept_at IS NULL OR swept_at <= clock_timestamp() - make_interval(secs => $1)",
        interval.as_secs_f64(),
    );
    Ok(bounded(turn.execute(pool)).await?.rows_affected() > 0)
}

/// The row, made at the first call.
async fn row(pool: &PgPool) -> Result<Row> {
    bounded(async {
        sqlx::query!("INSERT INTO installation (id) VALUES ($1) ON CONFLICT DO NOTHING", Uuid::now_v7())
            .execute(pool)
            .await?;
        sqlx::query_as!(Row, "SELECT id, counter, held_back FROM installation").fetch_one(pool).await
    })
    .await
}

async fn hold_back(pool: &PgPool, why: &str) -> Result<()> {
    let held = sqlx::query!("UPDATE installation SET held_back = $1 WHERE held_back IS DISTINCT FROM $1", why);
    bounded(held.execute(pool)).await?;
    Ok(())
}

/// Makes the database the one that counts: its counter is ahead of the bucket's, and earlier marks do not matter.
async fn accept(pool: &PgPool, storage: &Storage, counter: i64) -> Result<()> {
    let mut tx = begin(pool).await?;
    sqlx::query!(
        "DELETE FROM sweep_marks WHERE (SELECT held_back IS NOT NULL OR counter < $1 FROM installation)",
        counter
    )
    .execute(&mut *tx)
    .await?;
    let row = sqlx::query_as!(
        Row,
        "UPDATE installation SET held_back = NULL, counter = greatest(counter, $1) + 1, counted_at = clock_timestamp()
         RETURNING id, counter, held_back",
        counter,
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    storage.replace(SIGN, json(&Sign { installation: row.id, counter: row.counter })?, JSON).await
}

async fn read(storage: &Storage) -> Result<Option<Sign>> {
    let text = match storage.get(SIGN).await {
        Ok(text) => text,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let sign = serde_json::from_slice(&text);
    sign.map(Some).map_err(|error| Error::internal(format!("the bucket's object {SIGN} cannot be read: {error}")))
}

fn json(sign: &Sign) -> Result<bytes::Bytes> {
    Ok(serde_json::to_vec(sign).map_err(Error::internal)?.into())
}

fn own_notice(id: Uuid) -> String {
    format!("{OTHERS}/{id}.json")
}

/// Keys by which other installations say that they use the bucket.
async fn others(storage: &Storage, own: Uuid) -> Result<Vec<String>> {
    let mut others: Vec<String> = storage.listing(OTHERS).map_ok(|object| object.key).try_collect().await?;
    others.retain(|key| *key != own_notice(own));
    Ok(others)
}

/// Why a bucket without a sign may not be this database's, if there is a reason. It is certain for a bucket without
/// objects, and for one where the objects of rows are and where almost all objects have rows. An operator may accept
/// that objects are missing or have no rows, but not a bucket that lacks most of the objects.
async fn doubt(pool: &PgPool, storage: &Storage, accepts: bool) -> Result<Option<String>> {
    let (objects, unknown) = unknown(pool, storage).await?;
    if objects == 0 {
        return Ok(None);
    }
    let tried = some_named(pool).await?;
    let missing = missing(storage, &tried).await?;
    if tried.is_empty() {
        return Ok(Some(format!("the bucket has {objects} objects, and the database names none of them")));
    }
    let found = tried.len() - missing.len();
    if 2 * found < tried.len() {
        return Ok(Some(format!("{} of {} objects of rows are not in the bucket", missing.len(), tried.len())));
    }
    if accepts {
        return Ok(None);
    }
    if let Some(key) = missing.first() {
        return Ok(Some(format!(
            "{} of {} objects of rows are not in the bucket, {key} for one",
            missing.len(),
            tried.len()
        )));
    }
    if unknown as f64 > objects as f64 * LARGEST_UNKNOWN_PART {
        return Ok(Some(format!("{unknown} of the {objects} objects in the bucket have no row in the database")));
    }
    Ok(None)
}

/// The number of objects with our layout, and of those that no row names.
async fn unknown(pool: &PgPool, storage: &Storage) -> Result<(usize, usize)> {
    let (mut objects, mut unknown) = (0, 0);
    for folder in layout::FOLDERS {
        let keys = storage.listing(folder).map_ok(|object| object.key);
        let ours = keys.try_filter(|key| std::future::ready(layout::place(key).is_some()));
        let mut pages = ours.try_chunks(PAGE);
        while let Some(page) = pages.try_next().await.map_err(|error| error.1)? {
            objects += page.len();
            let named = bounded(async { named(&mut *pool.acquire().await?, &page).await }).await?;
            unknown += page.len().saturating_sub(named.len());
        }
    }
    Ok((objects, unknown))
}

/// Keys that rows name, from all over the database.
async fn some_named(pool: &PgPool) -> Result<Vec<String>> {
    let keys = sqlx::query_scalar!(
        r#"SELECT key AS "key!" FROM (
             (SELECT storage_key AS key FROM examples ORDER BY random() LIMIT $1)
             UNION ALL (SELECT storage_key FROM inputs ORDER BY random() LIMIT $1)
             UNION ALL (SELECT storage_key FROM artifacts ORDER BY random() LIMIT $1)
             UNION ALL (SELECT storage_key FROM training_checkpoints ORDER BY random() LIMIT $1)
             UNION ALL (SELECT jsonb_path_query(files, '$[*].storage_key') #>> '{}' FROM models
                        WHERE deleted_at IS NULL ORDER BY random() LIMIT $1)) AS sample
           ORDER BY random() LIMIT $1"#,
        TRIED,
    );
    bounded(keys.fetch_all(pool)).await
}

/// Those of `keys` that are not in the bucket.
async fn missing(storage: &Storage, keys: &[String]) -> Result<Vec<String>> {
    let looks = stream::iter(keys.to_vec()).map(|key| look(storage.clone(), key)).buffer_unordered(AT_ONCE);
    Ok(looks.try_collect::<Vec<_>>().await?.into_iter().flatten().collect())
}

/// Returns the key if there is no such object.
async fn look(storage: Storage, key: String) -> Result<Option<String>> {
    match storage.head(&key).await {
        Ok(_) => Ok(None),
        Err(Error::NotFound { .. }) => Ok(Some(key)),
        Err(error) => Err(error),
    }
}
