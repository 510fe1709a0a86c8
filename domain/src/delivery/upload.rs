//! Pictures that are uploaded to URLs of the caller.

use std::collections::BTreeMap;
use std::time::Duration;

use outgoing::Guard;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use tokio::time::{Instant, timeout_at};

use super::request::{Stated, Uploads};
use super::{Claimed, Delivery, DeliveryStatus, SecretUrl};
use crate::database::bounded;
use crate::event::{self, Feed};
use crate::faults::Faults;
use crate::{ArtifactId, Caller, Database, DeliveryId, Error, JobId, ProjectId, Result, begin};

/// How often a client that waits looks at the rows, even if nothing is announced.
const POLL: Duration = Duration::from_secs(5);

/// What a try needs.
#[derive(Debug, Clone)]
pub struct Upload {
    pub url: SecretUrl,
    pub headers: BTreeMap<String, String>,
    pub storage_key: String,
    pub media_type: String,
    /// SHA-256 of the committed bytes, lower-case hex.
    pub sha256: String,
}

/// Errors: `LeaseLost` if the row was changed or deleted meanwhile.
pub async fn load(pool: &PgPool, claimed: &Claimed) -> Result<Upload> {
    let row = bounded(
        sqlx::query!(
            r#"SELECT d.url AS "url!", s.query, s.headers AS "headers: Json<BTreeMap<String, String>>",
                      a.storage_key, a.media_type, a.sha256
               FROM deliveries d JOIN artifacts a ON a.job_id = d.job_id AND a.position = d.position
               JOIN delivery_secrets s ON s.delivery_id = d.id
               WHERE d.id = $1 AND d.epoch = $2 AND d.sender = $3"#,
            claimed.id as DeliveryId,
            claimed.epoch,
            claimed.sender,
        )
        .fetch_optional(pool),
    )
    .await?
    .ok_or(Error::LeaseLost)?;
    Ok(Upload {
        url: SecretUrl::join(&row.url, row.query.as_deref())?,
        headers: row.headers.0,
        storage_key: row.storage_key,
        media_type: row.media_type,
        sha256: row.sha256,
    })
}

/// Uploads a picture of the caller's project again, to another URL if one is stated. Errors: `NotFound`; those of the
/// stated fields; `Conflict` without a URL, if there is none or it is forgotten, and for a picture that is about to be
/// uploaded.
pub async fn deliver(
    caller: &Caller,
    database: &Database,
    guard: &Guard,
    id: ArtifactId,
    stated: Stated<'_>,
) -> Result<Delivery> {
    let pool = database.pool(caller);
    let mut faults = Faults::default();
    let uploads =
        if stated.url.is_some() { stated.check(1, guard, &mut faults) } else { stated.without_url(&mut faults) };
    faults.check()?;
    let mut tx = begin(pool).await?;
    let artifact = sqlx::query!(
        r#"SELECT a.job_id AS "job: JobId", a.position, j.last_sequence FROM artifacts a JOIN jobs j ON j.id = a.job_id
           WHERE a.id = $1 AND j.project_id = $2 AND j.deleted_at IS NULL FOR NO KEY UPDATE OF a"#,
        id as ArtifactId,
        caller.project() as ProjectId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("artifact", id))?;
    let before = sqlx::query!(
        r#"SELECT d.id AS "id: DeliveryId", d.status AS "status: DeliveryStatus", s.delivery_id IS NOT NULL AS "known!"
           FROM deliveries d LEFT JOIN delivery_secrets s ON s.delivery_id = d.id
           WHERE d.job_id = $1 AND d.target = 'upload' AND d.position = $2 FOR UPDATE OF d"#,
        artifact.job as JobId,
        artifact.position,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let url = uploads.urls.first();
    match (&before, url) {
        (None, None) => {
            return Err(Error::conflict("The picture has never been uploaded: state an `upload_url`."));
        }
        // An accepted upload is made before another one replaces it.
        (Some(before), _) if before.status == DeliveryStatus::Pending => {
            return Err(Error::conflict("The picture is about to be uploaded; ask again when that has ended."));
        }
        (Some(before), None) if !before.known => {
            return Err(Error::conflict("The URL of the picture is forgotten: state a new `upload_url`."));
        }
        _ => {}
    }
    let delivery = before.map_or_else(DeliveryId::new, |before| before.id);
    sqlx::query!(
        "INSERT INTO deliveries (id, project_id, job_id, target, position, url)
         VALUES ($1, $2, $3, 'upload', $4, $5)
         ON CONFLICT (id) DO UPDATE SET url = coalesce(nullif(EXCLUDED.url, ''), deliveries.url), status = 'pending',
             attempts = 0, status_code = NULL, error = NULL, epoch = deliveries.epoch + 1, sender = NULL,
             lease_until = NULL, due_at = clock_timestamp(), ended_at = NULL",
        delivery as DeliveryId,
        caller.project() as ProjectId,
        artifact.job as JobId,
        artifact.position,
        url.map_or_else(String::new, SecretUrl::address),
    )
    .execute(&mut *tx)
    .await?;
    if let Some(url) = url {
        keep_secret(&mut tx, delivery, url, &uploads.headers).await?;
    }
    tx.commit().await?;
    event::announce(pool, artifact.job, artifact.last_sequence).await;
    Ok(Delivery { status: DeliveryStatus::Pending, status_code: None, attempts: 0, error: None, ended_at: None })
}

async fn keep_secret(
    connection: &mut PgConnection,
    delivery: DeliveryId,
    url: &SecretUrl,
    headers: &BTreeMap<String, String>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO delivery_secrets (delivery_id, query, headers) VALUES ($1, $2, $3)
         ON CONFLICT (delivery_id) DO UPDATE SET query = EXCLUDED.query, headers = EXCLUDED.headers",
        delivery as DeliveryId,
        url.query(),
        Json(headers) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Waits until none of the job's pictures is to be uploaded any more, but no longer than `limit`. Returns whether that
/// is so.
pub async fn wait(caller: &Caller, database: &Database, feed: &Feed, job: JobId, limit: Duration) -> Result<bool> {
    let until = Instant::now() + limit;
    // Subscribed before the first look, so that an end between the two is not missed.
    let mut subscription = feed.subscribe();
    loop {
        let open = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM deliveries WHERE job_id = $1 AND project_id = $2 AND target = 'upload'
                              AND status IN ('waiting', 'pending')) AS "open!""#,
            job as JobId,
            caller.project() as ProjectId,
        );
        if !bounded(open.fetch_one(database.pool(caller))).await? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        let next_look = until.min(Instant::now() + POLL);
        let _ = timeout_at(next_look, subscription.news_of(job)).await;
    }
}

/// Where the pictures of a failed job were to be uploaded to, in their order. Errors: `Conflict` if that is forgotten.
pub(crate) async fn of_failed(connection: &mut PgConnection, failed: JobId) -> Result<Uploads> {
    let rows = sqlx::query!(
        r#"SELECT d.url AS "url!", s.query, s.headers AS "headers?: Json<BTreeMap<String, String>>"
           FROM deliveries d LEFT JOIN delivery_secrets s ON s.delivery_id = d.id
           WHERE d.job_id = $1 AND d.target = 'upload' ORDER BY d.position"#,
        failed as JobId,
    )
    .fetch_all(connection)
    .await?;
    let mut uploads = Uploads::default();
    for row in rows {
        let Some(headers) = row.headers else {
            let message = "The URLs to which its pictures were to be uploaded are forgotten: state new ones.";
            return Err(Error::conflict_in("upload_urls", message));
        };
        uploads.urls.push(SecretUrl::join(&row.url, row.query.as_deref())?);
        uploads.headers = headers.0;
    }
    Ok(uploads)
}
