//! Projects: owners of everything that users make. The rows of one project do not exist for another, except models that
//! it shares. Every installation has the project `default`. Here: the rows, and the quotas and retention that they
//! state. Not here: what a quota means (`quota`).

mod deletion;
mod retention;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::deletion::{Deletion, delete, purge, purge_deleted};
pub(crate) use self::retention::enforce as enforce_retention;
pub use self::retention::{Amount, Expired, Retention, RetentionChanges};
use crate::faults::Faults;
use crate::{
    Caller, Database, Error, Page, PageRequest, ProjectId, QuotaChanges, Quotas, Result, audit, begin, bounded, object,
};

/// Most characters of a name.
pub const MAX_NAME_CHARS: usize = 63;

/// Parameters to create a project.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "shop"}))]
pub struct ProjectRequest {
    /// Unique name.
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9][a-z0-9_-]*$", example = "shop")]
    pub name: String,
    /// By default everything is kept for ever.
    #[serde(default, deserialize_with = "object::optional")]
    pub retention: Option<RetentionChanges>,
    /// Whether its pictures are archived, where the server has an archive; true by default.
    #[serde(default)]
    pub archive: Option<bool>,
}

/// Changes of a project. Fields that are left out stay.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"quotas": {"queued_jobs": 100}, "retention": {"outputs_days": 30}}))]
pub struct ProjectChanges {
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub quotas: Option<QuotaChanges>,
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionChanges>,
    /// Whether the pictures of later requests are archived, where the server has an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<bool>,
}

/// A project that is not deleted.
#[derive(Clone, Debug)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
    pub quotas: Quotas,
    pub retention: Retention,
    /// Whether its pictures are archived, where the server has an archive.
    pub archive: bool,
    pub created_at: DateTime<Utc>,
}

/// A row of `projects`.
struct Row {
    id: ProjectId,
    name: String,
    max_queued_jobs: Option<i32>,
    max_running_jobs: Option<i32>,
    max_jobs_per_day: Option<i32>,
    max_gpu_seconds_per_day: Option<i64>,
    max_stored_bytes: Option<i64>,
    keep_outputs_days: Option<i32>,
    keep_inputs_days: Option<i32>,
    keep_events_days: Option<i32>,
    keep_failed_jobs_days: Option<i32>,
    archived: bool,
    created_at: DateTime<Utc>,
}

impl From<Row> for Project {
    fn from(row: Row) -> Self {
        let quotas = Quotas {
            queued_jobs: row.max_queued_jobs,
            running_jobs: row.max_running_jobs,
            jobs_per_day: row.max_jobs_per_day,
            gpu_seconds_per_day: row.max_gpu_seconds_per_day,
            stored_bytes: row.max_stored_bytes,
        };
        let retention = Retention {
            outputs_days: row.keep_outputs_days,
            inputs_days: row.keep_inputs_days,
            events_days: row.keep_events_days,
            failed_jobs_days: row.keep_failed_jobs_days,
        };
        let Row { id, name, archived: archive, created_at, .. } = row;
        Self { id, name, quotas, retention, archive, created_at }
    }
}

macro_rules! select_projects {
    ($rest:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT id AS "id: ProjectId", name, max_queued_jobs, max_running_jobs, max_jobs_per_day,
                      max_gpu_seconds_per_day, max_stored_bytes, keep_outputs_days, keep_inputs_days,
                      keep_events_days, keep_failed_jobs_days, archived, created_at
               FROM projects WHERE deleted_at IS NULL "# + $rest
            $(, $argument)*
        )
    };
}

/// Creates a project. Errors: `Invalid`; `Conflict` for a name that is taken.
pub async fn create(caller: &Caller, database: &Database, request: ProjectRequest) -> Result<Project> {
    let mut faults = Faults::default();
    faults.take(check_name(&request.name));
    let changes = request.retention.unwrap_or_default();
    changes.check(&mut faults);
    faults.check()?;
    let (retention, archive) = (changes.apply(Retention::default()), request.archive.unwrap_or(true));
    let id = ProjectId::new();
    let mut tx = begin(database.pool(caller)).await?;
    let created_at = sqlx::query_scalar!(
        "INSERT INTO projects (id, name, keep_outputs_days, keep_inputs_days, keep_events_days, keep_failed_jobs_days,
                               archived)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING
         RETURNING created_at",
        id as ProjectId,
        request.name,
        retention.outputs_days,
        retention.inputs_days,
        retention.events_days,
        retention.failed_jobs_days,
        archive,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::conflict_in("name", format!("There is a project named `{}` already.", request.name)))?;
    let mut details = json!({ "name": request.name });
    if let Some(stated) = request.retention {
        details["retention"] = json!(stated);
    }
    if let Some(stated) = request.archive {
        details["archive"] = json!(stated);
    }
    audit::record(&mut tx, caller, "project.create", id, details).await?;
    tx.commit().await?;
    Ok(Project { id, name: request.name, quotas: Quotas::default(), retention, archive, created_at })
}

/// Lists the projects, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Project>> {
    let rows = select_projects!(
        "AND ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2",
        page.before(),
        page.fetch_limit(),
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(rows.into_iter().map(Project::from).collect(), |project| project.id.into()))
}

/// Finds a project by id or by name. Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, name_or_id: &str) -> Result<Project> {
    let id = name_or_id.parse::<Uuid>().ok();
    let row = select_projects!("AND (id = $1 OR name = $2)", id, name_or_id);
    let row = row.fetch_optional(database.pool(caller)).await?;
    row.map(Project::from).ok_or_else(|| Error::not_found("project", name_or_id))
}

/// Changes quotas, retention and archive. Jobs that exceed a lower quota stay. Errors: `NotFound`; `Invalid`.
pub async fn change(
    caller: &Caller,
    database: &Database,
    name_or_id: &str,
    changes: ProjectChanges,
) -> Result<Project> {
    changes.check()?;
    let mut tx = begin(database.pool(caller)).await?;
    let mut project = lock(&mut tx, name_or_id).await?;
    project.quotas = changes.quotas.unwrap_or_default().apply(project.quotas);
    project.retention = changes.retention.unwrap_or_default().apply(project.retention);
    project.archive = changes.archive.unwrap_or(project.archive);
    sqlx::query!(
        "UPDATE projects SET max_queued_jobs = $2, max_running_jobs = $3, max_jobs_per_day = $4,
                max_gpu_seconds_per_day = $5, max_stored_bytes = $6, keep_outputs_days = $7,
                keep_inputs_days = $8, keep_events_days = $9, keep_failed_jobs_days = $10, archived = $11
         WHERE id = $1",
        project.id as ProjectId,
        project.quotas.queued_jobs,
        project.quotas.running_jobs,
        project.quotas.jobs_per_day,
        project.quotas.gpu_seconds_per_day,
        project.quotas.stored_bytes,
        project.retention.outputs_days,
        project.retention.inputs_days,
        project.retention.events_days,
        project.retention.failed_jobs_days,
        project.archive,
    )
    .execute(&mut *tx)
    .await?;
    audit::record(&mut tx, caller, "project.change", project.id, json!(changes)).await?;
    tx.commit().await?;
    Ok(project)
}

/// What the project would have to delete at once after the changes, which are not made. Errors as [`change`].
pub async fn would_delete(
    caller: &Caller,
    database: &Database,
    name_or_id: &str,
    changes: &ProjectChanges,
) -> Result<Expired> {
    changes.check()?;
    let project = get(caller, database, name_or_id).await?;
    let retention = changes.retention.unwrap_or_default().apply(project.retention);
    let mut connection = database.pool(caller).acquire().await?;
    retention::expired(&mut connection, project.id, &retention).await
}

impl ProjectChanges {
    /// Errors: `Invalid` naming all fields outside their range.
    fn check(&self) -> Result<()> {
        let mut faults = Faults::default();
        if let Some(quotas) = &self.quotas {
            quotas.check(&mut faults);
        }
        if let Some(retention) = &self.retention {
            retention.check(&mut faults);
        }
        faults.check()
    }
}

/// Finds a project as [`get`], and locks it until the transaction ends: requests that write rows of it wait.
async fn lock(connection: &mut PgConnection, name_or_id: &str) -> Result<Project> {
    let id = name_or_id.parse::<Uuid>().ok();
    let row = select_projects!("AND (id = $1 OR name = $2) FOR UPDATE", id, name_or_id);
    let row = row.fetch_optional(connection).await?;
    row.map(Project::from).ok_or_else(|| Error::not_found("project", name_or_id))
}

/// The caller in the project `name`. Errors: `NotFound`; `Forbidden` for any project but its own, unless the caller
/// manages the installation.
pub async fn enter(caller: Caller, database: &Database, name: &str) -> Result<Caller> {
    match get(&caller, database, name).await {
        Ok(project) if project.id == caller.project() => Ok(caller),
        Ok(project) if caller.may_enter_projects() => Ok(caller.in_project(project.id)),
        Err(error @ Error::NotFound { .. }) if caller.may_enter_projects() => Err(error),
        Ok(_) | Err(Error::NotFound { .. }) => {
            let message = "The key belongs to another project; only one with the scope `admin` may name a project.";
            Err(Error::Forbidden { message: message.to_owned() })
        }
        Err(error) => Err(error),
    }
}

/// The id of the project of this name, if there is one: for callers that are admitted by a rule that names it.
pub async fn id(database: &Database, name: &str) -> Result<Option<ProjectId>> {
    let found = sqlx::query_scalar!(r#"SELECT id AS "id: ProjectId" FROM projects WHERE name = $1"#, name);
    bounded(found.fetch_optional(database.before_caller())).await
}

/// The project of this name, which is created if there is none.
pub async fn get_or_create(caller: &Caller, database: &Database, name: &str) -> Result<Project> {
    match create(caller, database, ProjectRequest { name: name.to_owned(), retention: None, archive: None }).await {
        Err(Error::Conflict { .. }) => get(caller, database, name).await,
        created => created,
    }
}

/// Errors: `Invalid` for a text that cannot be the name of a project.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let shaped = name.len() <= MAX_NAME_CHARS
        && name.bytes().next().is_some_and(allowed)
        && name.bytes().all(|byte| allowed(byte) || matches!(byte, b'_' | b'-'));
    if !shaped {
        let message = "A name has 1 to 63 characters of a-z, 0-9, `_` and `-`, and begins with a letter or digit.";
        return Err(Error::invalid("name", message));
    }
    if name.parse::<Uuid>().is_ok() {
        return Err(Error::invalid("name", "A name may not look like an id (a UUID)."));
    }
    Ok(())
}
