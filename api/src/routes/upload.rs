//! `/v1/uploads`: model files, uploaded in parts directly to the bucket.

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
    /// Size of the whole file, in bytes.
    #[schema(minimum = 1)]
    pub bytes: i64,
    pub parts: Vec<UploadPart>,
    /// Time at which the upload is discarded unless an import has made a model of it.
    pub expires_at: DateTime<Utc>,
}

/// One part of an upload.
#[derive(Serialize, ToSchema)]
pub(crate) struct UploadPart {
    #[schema(minimum = 1)]
    pub number: i32,
    /// Size of the part, in bytes. The parts follow each other in the file.
    #[schema(minimum = 1)]
    pub bytes: i64,
    /// Presigned URL for a PUT of these bytes, valid for one hour. Null once the part is uploaded.
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

/// Start the upload of a model file
///
/// PUT each part's bytes to its `url` with its `headers`, in any order. If a URL has expired or the connection breaks,
/// get the upload again: it lists the missing parts with fresh URLs. Then `POST /v1/models` with a source of kind
/// `upload`.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "models", operation_id = "create_model_upload",
    security(("key" = ["models"])),
    request_body = ModelUploadRequest,
    responses((status = 201, description = "The upload with the parts to send", body = ModelUpload,
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

/// Get an upload and its missing parts
#[utoipa::path(
    get, path = "/v1/uploads/{id}", tag = "models", operation_id = "get_model_upload",
    security(("key" = ["read"])),
    params(("id" = UploadId, Path, description = "Id of the upload")),
    responses((status = 200, description = "The current state of the upload", body = ModelUpload)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<UploadId>) -> Result<Json<ModelUpload>> {
    Ok(Json(upload::get(&caller, &state.database, &state.storage, id).await?.into()))
}
