//! `/v1/projects`: owners of everything that users make.

use axum::Json as Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::project::{self, ProjectRequest};
use domain::{Caller, Page, ProjectId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::extract::{Json, PageQuery, Path, Query};
use crate::problem::Result;

/// An owner of datasets, models and jobs. What one project has does not exist for another, except shared models.
#[derive(Serialize, ToSchema)]
pub(crate) struct Project {
    pub id: ProjectId,
    /// Unique name.
    pub name: String,
    pub created_at: DateTime<Utc>,
}

type ProjectPage = Page<Project>;

impl From<project::Project> for Project {
    fn from(project: project::Project) -> Self {
        Self { id: project.id, name: project.name, created_at: project.created_at }
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
