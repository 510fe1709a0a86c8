//! `/v1/uploads`: files of models on their way to the bucket, in parts, past this service.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{StatusCode, header};
use chrono::{DateTime, Utc};
use domain::model::upload::{self, ModelUploadRequest};
use domain::{Caller, UploadId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::extract::{self, Path};
use crate::problem::Result;

/// A file that is being uploaded.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelUpload {
    pub id: UploadId,
    /// Size of the whole file.
    #[schema(minimum = 1)]
    pub bytes: i64,
    pub parts: Vec<UploadPart>,
    /// Until then an import must have made a model of it.
    pub expires_at: DateTime<Utc>,
}

/// One part of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct UploadPart {
    #[schema(minimum = 1)]
    pub number: i32,
    /// How many of the file's bytes belong to it, after those of the parts before.
    #[schema(minimum = 1)]
    pub bytes: i64,
    /// Presigned: takes these bytes by PUT for one hour; null once they are there.
    #[schema(format = "uri")]
    pub url: Option<String>,
    /// Headers that the PUT must carry.
    pub headers: BTreeMap<&'static str, String>,
}

impl From<upload::ModelUpload> for ModelUpload {
    fn from(upload: upload::ModelUpload) -> Self {
        let part = |part: upload::Part| {
            let headers = part.put.iter().map(|put| ("content-type", put.content_type.clone())).collect();
            UploadPart { number: part.number, bytes: part.bytes, url: part.put.map(|put| put.url.into()), headers }
        };
        Self {
            id: upload.id,
            bytes: upload.bytes,
            parts: upload.parts.into_iter().map(part).collect(),
            expires_at: upload.expires_at,
        }
    }
}

/// Begin to upload a file of a model
///
/// PUT each part's bytes to its `url` with its `headers`, in any order. When a URL has ended, or the connection, look at the upload
/// again: it names the parts that are missing, with fresh URLs. Then `POST /v1/models` with a source of the kind `upload`.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "models", operation_id = "create_model_upload",
    request_body = ModelUploadRequest,
    responses((status = 201, description = "The parts to send", body = ModelUpload,
               headers(("Location" = String, description = "Path of the upload")))),
)]
pub(crate) async fn create(
    caller: Caller,
    state: State,
    extract::Json(request): extract::Json<ModelUploadRequest>,
) -> Result<(StatusCode, [(header::HeaderName, String); 1], Json<ModelUpload>)> {
    let upload = upload::create(&caller, &state.database, &state.storage, request).await?;
    let location = format!("/v1/uploads/{}", upload.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(upload.into())))
}

/// See which parts of an upload are missing
#[utoipa::path(
    get, path = "/v1/uploads/{id}", tag = "models", operation_id = "get_model_upload",
    params(("id" = UploadId, Path, description = "Id of the upload")),
    responses((status = 200, description = "The upload as it is now", body = ModelUpload)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<UploadId>) -> Result<Json<ModelUpload>> {
    Ok(Json(upload::get(&caller, &state.database, &state.storage, id).await?.into()))
}
