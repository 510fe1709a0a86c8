//! Projects: owners of everything that users make. The rows of one project do not exist for another, except models that
//! it shares. Every installation has the project `default`.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Caller, Database, Error, Page, PageRequest, ProjectId, Result, audit, begin, bounded};

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
}

/// A project.
#[derive(Clone, Debug)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
    pub created_at: DateTime<Utc>,
}

/// Creates a project. Errors: `Invalid`; `Conflict` for a name that is taken.
pub async fn create(caller: &Caller, database: &Database, request: ProjectRequest) -> Result<Project> {
    check_name(&request.name)?;
    let id = ProjectId::new();
    let mut tx = begin(database.pool(caller)).await?;
    let created_at = sqlx::query_scalar!(
        "INSERT INTO projects (id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING created_at",
        id as ProjectId,
        request.name,
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Error::conflict_in("name", format!("There is a project named `{}` already.", request.name)))?;
    audit::record(&mut tx, caller, "project.create", id, json!({ "name": request.name })).await?;
    tx.commit().await?;
    Ok(Project { id, name: request.name, created_at })
}

/// Lists the projects, newest first.
pub async fn list(caller: &Caller, database: &Database, page: &PageRequest) -> Result<Page<Project>> {
    let rows = sqlx::query_as!(
        Project,
        r#"SELECT id AS "id: ProjectId", name, created_at FROM projects
           WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"#,
        page.before(),
        page.fetch_limit(),
    )
    .fetch_all(database.pool(caller))
    .await?;
    Ok(page.cut(rows, |project| project.id.into()))
}

/// Finds a project by id or by name. Errors: `NotFound`.
pub async fn get(caller: &Caller, database: &Database, name_or_id: &str) -> Result<Project> {
    sqlx::query_as!(
        Project,
        r#"SELECT id AS "id: ProjectId", name, created_at FROM projects WHERE id = $1 OR name = $2"#,
        name_or_id.parse::<Uuid>().ok(),
        name_or_id,
    )
    .fetch_optional(database.pool(caller))
    .await?
    .ok_or_else(|| Error::not_found("project", name_or_id))
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
    match create(caller, database, ProjectRequest { name: name.to_owned() }).await {
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
