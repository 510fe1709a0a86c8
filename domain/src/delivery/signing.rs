//! Secrets with which the webhooks of a project are signed. After a rotation, the older ones sign beside the new one
//! for a while, so that receivers can change over.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use requests::in_range;
use serde::Deserialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::database::bounded;
use crate::{Caller, Database, Error, ProjectId, Result, audit, begin, integer};

/// Bytes of a secret.
const BYTES: usize = 32;
/// Most secrets that sign at the same time.
const MOST: i64 = 8;
/// Seconds for which an older secret signs beside the new one, if the request does not say.
const OVERLAP: i64 = 24 * 60 * 60;
/// Most of these seconds.
const MOST_OVERLAP: i64 = 7 * OVERLAP;

/// A secret. It prints without its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

impl SigningSecret {
    /// Errors: the system has no random numbers.
    fn new() -> Result<Self> {
        let mut bytes = vec![0; BYTES];
        getrandom::fill(&mut bytes).map_err(Error::internal)?;
        Ok(Self(bytes))
    }

    /// The key of the HMAC.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text after Standard Webhooks: `whsec_` and Base64.
    pub fn reveal(&self) -> String {
        format!("whsec_{}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret")
    }
}

/// How a secret is replaced.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RotateSecretRequest, example = json!({"overlap_seconds": 3600}))]
pub struct RotateRequest {
    /// Seconds for which older secrets sign beside the new one; a day by default.
    #[schema(minimum = 0, maximum = 604800)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 0, 604_800>")]
    pub overlap_seconds: Option<i64>,
}

/// The secret of a project.
#[derive(Debug, Clone)]
pub struct CurrentSecret {
    pub secret: SigningSecret,
    pub created_at: DateTime<Utc>,
    /// Until then an older secret signs, too.
    pub previous_until: Option<DateTime<Utc>>,
}

/// The secret of the caller's project. The first call creates it.
pub async fn current(caller: &Caller, database: &Database) -> Result<CurrentSecret> {
    bounded(async {
        let mut tx = begin(database.pool(caller)).await?;
        create_first(&mut tx, caller.project()).await?;
        let current = read(&mut tx, caller.project()).await?;
        tx.commit().await?;
        Ok::<_, Error>(current)
    })
    .await
}

/// Makes a new secret. Older ones sign until the overlap ends, unless they end before.
///
/// # Errors
/// `Invalid` for an overlap beyond the limit; `Conflict` if too many older ones would still sign.
pub async fn rotate(caller: &Caller, database: &Database, request: &RotateRequest) -> Result<CurrentSecret> {
    let project = caller.project();
    let overlap = in_range("overlap_seconds", request.overlap_seconds.unwrap_or(OVERLAP), 0..=MOST_OVERLAP)?;
    let secret = SigningSecret::new()?;
    bounded(async {
        let mut tx = begin(database.pool(caller)).await?;
        // Of two rotations at once, the second one sees what the first has done.
        sqlx::query!("SELECT id FROM projects WHERE id = $1 FOR NO KEY UPDATE", project as ProjectId)
            .fetch_one(&mut *tx)
            .await?;
        sqlx::query!(
            "UPDATE webhook_secrets SET expires_at = least(expires_at, clock_timestamp() + make_interval(secs => $2))
             WHERE project_id = $1",
            project as ProjectId,
            overlap as f64,
        )
        .execute(&mut *tx)
        .await?;
        insert(&mut tx, project, &secret).await?;
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM webhook_secrets
               WHERE project_id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())"#,
            project as ProjectId,
        );
        if count.fetch_one(&mut *tx).await? > MOST {
            let message = format!("{MOST} secrets sign already; state a shorter overlap to end the older ones.");
            return Err(Error::conflict_in("overlap_seconds", message));
        }
        audit::record(&mut tx, caller, "webhook.rotate_secret", project, json!({ "overlap_seconds": overlap })).await?;
        let current = read(&mut tx, project).await?;
        tx.commit().await?;
        Ok::<_, Error>(current)
    })
    .await
}

/// The secrets that sign now, the newest first. Creates the first one.
pub(super) async fn of_project(pool: &PgPool, project: ProjectId) -> Result<Vec<SigningSecret>> {
    bounded(async {
        let mut connection = pool.acquire().await?;
        let mut secrets = signing(&mut connection, project).await?;
        if secrets.is_empty() {
            create_first(&mut connection, project).await?;
            secrets = signing(&mut connection, project).await?;
        }
        Ok::<_, Error>(secrets)
    })
    .await
}

async fn signing(connection: &mut PgConnection, project: ProjectId) -> Result<Vec<SigningSecret>> {
    let secrets = sqlx::query_scalar!(
        "SELECT secret FROM webhook_secrets
         WHERE project_id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp()) ORDER BY id DESC",
        project as ProjectId,
    )
    .fetch_all(connection)
    .await?;
    Ok(secrets.into_iter().map(SigningSecret).collect())
}

async fn create_first(connection: &mut PgConnection, project: ProjectId) -> Result<()> {
    insert(connection, project, &SigningSecret::new()?).await
}

/// Writes the current secret of a project, unless it has one.
async fn insert(connection: &mut PgConnection, project: ProjectId, secret: &SigningSecret) -> Result<()> {
    sqlx::query!(
        "INSERT INTO webhook_secrets (id, project_id, secret) VALUES ($1, $2, $3)
         ON CONFLICT (project_id) WHERE expires_at IS NULL DO NOTHING",
        Uuid::now_v7(),
        project as ProjectId,
        secret.bytes(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn read(connection: &mut PgConnection, project: ProjectId) -> Result<CurrentSecret> {
    let row = sqlx::query!(
        "SELECT secret, created_at,
                (SELECT max(expires_at) FROM webhook_secrets WHERE project_id = $1 AND expires_at > clock_timestamp())
                  AS previous_until
         FROM webhook_secrets WHERE project_id = $1 AND expires_at IS NULL",
        project as ProjectId,
    )
    .fetch_one(connection)
    .await?;
    Ok(CurrentSecret {
        secret: SigningSecret(row.secret),
        created_at: row.created_at,
        previous_until: row.previous_until,
    })
}
