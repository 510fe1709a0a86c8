//! Jobs of every kind as clients see them: list, get, cancel, retry and delete, by the public id. Not here: the queue
//! (`job`), or what only one kind has (`generation`, `training`, `import`, `export`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use outgoing::Guard;
use serde::Deserialize;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::delivery::request::Stated;
use crate::delivery::webhook::{self, Endpoint, JobWebhookRequest};
use crate::faults::Faults;
use crate::job::{self, JobKind, JobStatus};
use crate::model::{self, ModelRef};
use crate::report::{JobRow, Report};
use crate::{
    Caller, Database, Error, JobId, Page, PageRequest, ProjectId, Result, Storage, begin, bounded, export, generation,
    import, object, quota, training,
};

/// A job whose subject is not deleted.
#[derive(Clone, Debug)]
pub struct Job {
    /// The id of its generation, training, import or export.
    pub id: Uuid,
    pub kind: JobKind,
    /// Models that the job runs with.
    pub models: Vec<ModelRef>,
    /// Name of the checkpoint among them, or of the LoRA that is exported.
    pub model: Option<String>,
    /// Name of the model to be made, if it makes one.
    pub makes: Option<String>,
    /// The failed job that this one repeats.
    pub retry_of: Option<Uuid>,
    /// The latest job that repeats this one.
    pub retried_as: Option<Uuid>,
    pub report: Report,
    pub created_at: DateTime<Utc>,
}

/// Filters of a list; `None` does not filter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub kind: Option<JobKind>,
    pub status: Option<JobStatus>,
    /// Name or id of a model that the job needs.
    pub model: Option<String>,
    /// At this time or later.
    pub created_after: Option<DateTime<Utc>>,
    /// Before this time.
    pub created_before: Option<DateTime<Utc>>,
}

/// A row as the queries below return it.
struct Row {
    id: Uuid,
    kind: JobKind,
    models: Json<Vec<ModelRef>>,
    model: Option<String>,
    makes: Option<String>,
    retry_of: Option<Uuid>,
    retried_as: Option<Uuid>,
    job: Json<JobRow>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Job {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            kind: row.kind,
            models: row.models.0,
            model: row.model,
            makes: row.makes,
            retry_of: row.retry_of,
            retried_as: row.retried_as,
            report: row.job.0.report(Vec::new()),
            created_at: row.created_at,
        }
    }
}

macro_rules! select_jobs {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT j.subject AS id, j.kind AS "kind: JobKind", j.makes,
                      coalesce((SELECT jsonb_agg(jsonb_build_object('id', m.id, 'name', m.name) ORDER BY m.name)
                                FROM job_needs n JOIN models m ON m.id = n.model_id WHERE n.job_id = j.id), '[]')
                        AS "models!: Json<Vec<ModelRef>>",
                      (SELECT name FROM models WHERE id = model_of_job(j.id)) AS model,
                      (SELECT o.subject FROM jobs o WHERE o.id = j.retry_of AND o.deleted_at IS NULL) AS retry_of,
                      (SELECT t.subject FROM jobs t WHERE t.retry_of = j.id AND t.deleted_at IS NULL
                       ORDER BY t.subject DESC LIMIT 1) AS retried_as,
                      r.report AS "job!: Json<JobRow>", j.created_at
               FROM jobs j JOIN job_reports r ON r.job_id = j.id
               WHERE j.deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

/// Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, id: Uuid) -> Result<Job> {
    let row = select_jobs!("AND j.subject = $1 AND j.project_id = $2", id, caller.project() as ProjectId);
    let row = bounded(row.fetch_optional(database.pool(caller))).await?;
    row.map(Job::from).ok_or_else(|| Error::not_found("job", id))
}

/// Lists jobs, newest first. Errors: those of `page`, with `Invalid` for a text that cannot name a model.
pub async fn list(
    caller: &Caller,
    database: &Database,
    filter: &Filter,
    page: Result<PageRequest>,
) -> Result<Page<Job>> {
    let mut faults = Faults::default();
    let page = faults.take(page);
    if filter.model.as_deref().is_some_and(|model| !may_name_a_model(model)) {
        let message = "A model is named by its name or id, such as `ember`.";
        faults.take(Err::<(), _>(Error::invalid("model", message)));
    }
    faults.check()?;
    let models = match &filter.model {
        Some(model) => Some(bounded(model::ids(database.pool(caller), caller.project(), model)).await?),
        None => None,
    };
    let rows = select_jobs!(
        "AND j.project_id = $8 AND ($1::uuid IS NULL OR j.subject < $1) AND ($3::text IS NULL OR j.kind = $3) AND ($4::text IS NULL OR j.status = $4)
         AND ($5::uuid[] IS NULL OR j.id = ANY (ARRAY(SELECT n.job_id FROM job_needs n WHERE n.model_id = ANY ($5))))
         AND ($6::timestamptz IS NULL OR j.created_at >= $6) AND ($7::timestamptz IS NULL OR j.created_at < $7)
         ORDER BY j.subject DESC LIMIT $2",
        page.before(),
        page.fetch_limit(),
        filter.kind.map(JobKind::as_str),
        filter.status.map(JobStatus::as_str),
        models.as_deref(),
        filter.created_after,
        filter.created_before,
        caller.project() as ProjectId,
    );
    let rows = bounded(rows.fetch_all(database.pool(caller))).await?;
    Ok(page.cut(rows.into_iter().map(Job::from).collect(), |job| job.id))
}

fn may_name_a_model(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Cancels it: at once while it is queued, soon while it runs. One that has ended is left unchanged. Errors:
/// `NotFound`; `Forbidden` without the scope of its kind.
pub async fn cancel(caller: &Caller, database: &Database, id: Uuid) -> Result<Job> {
    caller.require(get(caller, database, id).await?.kind.spec().scope)?;
    job::cancel(caller, database, job::find(caller, database, id, None).await?).await?;
    get(caller, database, id).await
}

/// Deletes an ended job with its generation, training, import or export, and the files that only it has. A model that
/// it made is kept. Errors: `NotFound`; `Forbidden` without the scope of its kind; `Conflict` while it is queued or
/// running.
pub async fn delete(caller: &Caller, database: &Database, storage: &Storage, id: Uuid) -> Result<()> {
    let kind = get(caller, database, id).await?.kind;
    caller.require(kind.spec().scope)?;
    match kind {
        JobKind::Generation => generation::delete(caller, database, storage, id.into()).await,
        JobKind::Training => training::delete(caller, database, storage, id.into()).await,
        JobKind::Import => import::delete(caller, database, storage, id.into()).await,
        JobKind::Export => export::delete(caller, database, storage, id.into()).await,
    }
}

/// What a repeated job does differently: where the pictures of a generation are uploaded to, and who is notified of it.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({}))]
pub struct RetryRequest {
    /// A URL for each picture.
    #[schema(min_items = 1, max_items = 4)]
    #[serde(default)]
    pub upload_urls: Option<Vec<String>>,
    /// The same for one picture.
    #[schema(min_length = 1, max_length = 8192)]
    #[serde(default)]
    pub upload_url: Option<String>,
    /// Headers to be sent with the uploads.
    #[serde(default)]
    pub upload_headers: Option<BTreeMap<String, String>>,
    /// An endpoint that is notified of the new job, in place of that of the failed one.
    #[serde(default, deserialize_with = "object::optional")]
    pub webhook: Option<JobWebhookRequest>,
}

/// Makes the request of a failed job again, as a new job that names the failed one; returns the new one. Errors:
/// `NotFound`; `Forbidden` without the scope of its kind; `Conflict` for a job that did not fail, for one whose last
/// retry is unfinished or succeeded, and for a request that cannot be repeated.
pub async fn retry(
    caller: &Caller,
    database: &Database,
    storage: &Storage,
    id: Uuid,
    request: &RetryRequest,
    outbound: &Guard,
) -> Result<Job> {
    let pool = database.pool(caller);
    let uploads = Stated {
        urls: request.upload_urls.as_deref(),
        url: request.upload_url.as_deref(),
        headers: request.upload_headers.as_ref(),
    };
    let stated = Endpoint::of(request.webhook.as_ref(), outbound)?;
    // It asks the bucket, so it comes before the transaction.
    import::check_sources(caller, database, storage, id).await?;
    let mut tx = begin(pool).await?;
    quota::left(&mut tx, caller.project()).await?;
    // Before the job, as when the model is deleted.
    export::lock_model(caller, &mut tx, id).await?;
    // Two retries of one job wait for each other here, and the second then finds what the first has written.
    let failed = sqlx::query!(
        r#"SELECT id AS "id: JobId", kind AS "kind: JobKind", status AS "status: JobStatus" FROM jobs
           WHERE subject = $1 AND project_id = $2 AND deleted_at IS NULL FOR NO KEY UPDATE"#,
        id,
        caller.project() as ProjectId,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::not_found("job", id))?;
    caller.require(failed.kind.spec().scope)?;
    if failed.status != JobStatus::Failed {
        return Err(Error::conflict(format!(
            "The {} is {}; only a failed one can be retried.",
            failed.kind.as_str(),
            failed.status.as_str()
        )));
    }
    let retried = sqlx::query_scalar!(
        "SELECT subject FROM jobs WHERE retry_of = $1 AND status NOT IN ('failed', 'canceled') AND deleted_at IS NULL LIMIT 1",
        failed.id as JobId,
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(retried) = retried {
        return Err(Error::conflict(format!("The {} has been retried already, as {retried}.", failed.kind.as_str())));
    }
    if failed.kind != JobKind::Generation
        && let Some(field) = uploads.first()
    {
        return Err(Error::invalid(field, format!("The {} uploads nothing.", failed.kind.as_str())));
    }
    let endpoint = match stated {
        Some(endpoint) => Some(endpoint),
        None => webhook::of_failed(&mut tx, failed.id).await?,
    };
    let new: Uuid = match failed.kind {
        JobKind::Generation => generation::retry(caller, &mut tx, storage, failed.id, uploads, outbound).await?.into(),
        JobKind::Training => training::retry(caller, &mut tx, failed.id).await?.into(),
        JobKind::Import => import::retry(caller, &mut tx, failed.id).await?.into(),
        JobKind::Export => export::retry(caller, &mut tx, failed.id).await?.into(),
    };
    if let Some(endpoint) = &endpoint {
        webhook::attach(&mut tx, JobId(new), endpoint).await?;
    }
    tx.commit().await?;
    job::ring(pool);
    get(caller, database, new).await
}
