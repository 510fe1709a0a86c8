//! `/v1/projects`: owners of everything that users make.

use axum::Json as Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::project::{self, Deletion, Expired, ProjectChanges, ProjectRequest, Retention};
use domain::{Caller, Page, ProjectId, Quotas};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::State;
use crate::extract::{Json, PageQuery, Path, Query};
use crate::problem::Result;

/// An owner of datasets, models and jobs. What one project has does not exist for another, except shared models.
#[derive(Serialize, ToSchema)]
pub(crate) struct Project {
    pub id: ProjectId,
    /// Unique name.
    pub name: String,
    pub quotas: Quotas,
    pub retention: Retention,
    /// Whether its pictures are archived, where the server has an archive.
    pub archive: bool,
    pub created_at: DateTime<Utc>,
}

type ProjectPage = Page<Project>;

/// How a project is changed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChangeQuery {
    /// Changes nothing, and answers what the retention would delete now.
    #[serde(default)]
    #[param(default = false)]
    pub dry_run: bool,
}

/// What a request to change a project has done.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Changed {
    Project(Box<Project>),
    WouldDelete(Box<Expired>),
}

/// How a project is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeletionQuery {
    /// The name of the project, as confirmation.
    #[param(min_length = 1, max_length = 63, example = "shop")]
    pub confirm: String,
    /// Name or id of the project that gets the models that it shares.
    #[serde(default)]
    #[param(min_length = 1, max_length = 63)]
    pub move_shared_to: Option<String>,
}

impl From<project::Project> for Project {
    fn from(project: project::Project) -> Self {
        let project::Project { id, name, quotas, retention, archive, created_at } = project;
        Self { id, name, quotas, retention, archive, created_at }
    }
}

/// Create a project
#[utoipa::path(
    post, path = "/v1/projects", tag = "projects", operation_id = "create_project",
    security(("key" = ["admin"])),
    request_body = ProjectRequest,
    responses(
        (status = 201, description = "The new project", body = Project,
         headers(("Location" = String, description = "Path of the project"))),
        (status = 409, description = "The name is taken"),
    ),
)]
pub(crate) async fn create(caller: Caller, state: State, Json(request): Json<ProjectRequest>) -> Result<Response> {
    let project = project::create(&caller, &state.database, request).await?;
    let location = [(header::LOCATION, format!("/v1/projects/{}", project.name))];
    Ok((StatusCode::CREATED, location, Body(Project::from(project))).into_response())
}

/// List projects, newest first
#[utoipa::path(
    get, path = "/v1/projects", tag = "projects", operation_id = "list_projects",
    security(("key" = ["admin"])),
    params(PageQuery),
    responses((status = 200, description = "One page of projects", body = ProjectPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Body<ProjectPage>> {
    Ok(Body(project::list(&caller, &state.database, &query.page()?).await?.map(Project::from)))
}

/// Get a project
#[utoipa::path(
    get, path = "/v1/projects/{project}", tag = "projects", operation_id = "get_project",
    security(("key" = ["admin"])),
    params(("project" = String, Path, example = "default", description = "Name or id of the project")),
    responses((status = 200, description = "The project", body = Project)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(name_or_id): Path<String>) -> Result<Body<Project>> {
    Ok(Body(project::get(&caller, &state.database, &name_or_id).await?.into()))
}

/// Change a project
///
/// Fields that are left out stay. Requests beyond a quota get 429, which names it; jobs beyond `running_jobs` stay
/// queued. Jobs that exceed a lower quota stay. Everything older than the retention allows is deleted within
/// minutes, for good: `dry_run=true` shows it first.
#[utoipa::path(
    patch, path = "/v1/projects/{project}", tag = "projects", operation_id = "change_project",
    security(("key" = ["admin"])),
    params(("project" = String, Path, example = "shop", description = "Name or id of the project"), ChangeQuery),
    request_body = ProjectChanges,
    responses((
        status = 200, body = Changed,
        description = "The changed project; with `dry_run=true`, what the retention would delete now",
    )),
)]
pub(crate) async fn change(
    caller: Caller,
    state: State,
    Path(name_or_id): Path<String>,
    Query(ChangeQuery { dry_run }): Query<ChangeQuery>,
    Json(changes): Json<ProjectChanges>,
) -> Result<Body<Changed>> {
    let database = &state.database;
    Ok(Body(if dry_run {
        Changed::WouldDelete(project::would_delete(&caller, database, &name_or_id, &changes).await?.into())
    } else {
        let project = project::change(&caller, database, &name_or_id, changes).await?;
        Changed::Project(Box::new(project.into()))
    }))
}

/// Delete a project
///
/// Nobody sees it from now on, its keys are revoked, and its jobs are canceled. What it has is deleted, too, which may
/// take a while.
#[utoipa::path(
    delete, path = "/v1/projects/{project}", tag = "projects", operation_id = "delete_project",
    security(("key" = ["admin"])),
    params(("project" = String, Path, example = "shop", description = "Name or id of the project"), DeletionQuery),
    responses(
        (status = 204, description = "The project is deleted"),
        (status = 404, description = "There is no such project, or none that could get the shared models"),
        (status = 409, description = "It is `default`, or shares models and no other project gets them"),
    ),
)]
pub(crate) async fn delete(
    caller: Caller,
    state: State,
    Path(name_or_id): Path<String>,
    Query(query): Query<DeletionQuery>,
) -> Result<StatusCode> {
    let DeletionQuery { confirm, move_shared_to } = query;
    let request = Deletion { confirm, move_shared_to };
    let deleted = project::delete(&caller, &state.database, &name_or_id, &request).await?;
    state.access.forget();
    state.catalog.forget();
    project::purge(&caller, &state.database, &state.storage, deleted.id).await;
    Ok(StatusCode::NO_CONTENT)
}
