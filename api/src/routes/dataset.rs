//! `/v1/datasets`: pictures with captions, added by form, by archive, or by presigned PUT directly to the bucket.

mod form;

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::dataset::folder::LeftOut;
use domain::dataset::intake::Intake;
use domain::dataset::{self, DatasetRequest};
use domain::storage::READ_TTL;
use domain::upload::{self, UploadRequest};
use domain::{Caller, DatasetId, ExampleId, Page, Storage, UploadId};
use serde::Serialize;
use utoipa::ToSchema;

use self::form::{ImagesForm, take_images};
use crate::State;
use crate::extract::{self, Multipart, PageQuery, Path, Query};
use crate::problem::Result;

/// A named set of pictures with captions.
#[derive(Serialize, ToSchema)]
pub(crate) struct Dataset {
    pub id: DatasetId,
    pub name: String,
    #[schema(minimum = 0)]
    pub example_count: i64,
    pub created_at: DateTime<Utc>,
    /// Time at which an example was last added or removed.
    pub updated_at: DateTime<Utc>,
}

/// A dataset with its examples.
#[derive(Serialize, ToSchema)]
pub(crate) struct DatasetDetail {
    pub id: DatasetId,
    pub name: String,
    #[schema(minimum = 0)]
    pub example_count: i64,
    pub created_at: DateTime<Utc>,
    /// Time at which an example was last added or removed.
    pub updated_at: DateTime<Utc>,
    /// The examples, by position.
    pub examples: Vec<Example>,
}

type DatasetPage = Page<Dataset>;

/// A picture with its caption.
#[derive(Serialize, ToSchema)]
pub(crate) struct Example {
    pub id: ExampleId,
    /// Position within the dataset. Deleting an example leaves a gap.
    #[schema(minimum = 0)]
    pub position: i32,
    /// Presigned URL to download the bytes. Valid for one hour; needs no other credentials.
    #[schema(format = "uri")]
    pub url: String,
    #[schema(example = "image/png")]
    pub media_type: String,
    /// Width in pixels.
    #[schema(minimum = 1)]
    pub width: i32,
    /// Height in pixels.
    #[schema(minimum = 1)]
    pub height: i32,
    #[schema(minimum = 1)]
    pub bytes: i64,
    /// SHA-256 of the bytes, lower-case hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    /// What the picture shows. May be empty.
    pub caption: String,
    pub created_at: DateTime<Utc>,
}

/// The examples that were added.
#[derive(Serialize, ToSchema)]
pub(crate) struct AddedExamples {
    pub items: Vec<Example>,
    /// Number of the added examples whose caption is empty.
    #[schema(minimum = 0)]
    pub without_caption: usize,
    /// Files of a folder or archive that became no part of an example, and what else is to be known about them.
    pub left_out: Vec<LeftOutFile>,
}

/// A file that became no part of an example.
#[derive(Serialize, ToSchema)]
pub(crate) struct LeftOutFile {
    /// Path within the folder or archive.
    #[schema(example = "photo.heic")]
    pub file: String,
    #[schema(example = "HEIC pictures are not read; convert it to JPEG or PNG.")]
    pub reason: String,
}

impl From<&LeftOut> for LeftOutFile {
    fn from(left: &LeftOut) -> Self {
        Self { file: left.file.clone(), reason: left.reason.clone() }
    }
}

/// A presigned PUT.
#[derive(Serialize, ToSchema)]
pub(crate) struct Upload {
    pub id: UploadId,
    /// URL to send the bytes to.
    #[schema(format = "uri")]
    pub url: String,
    #[schema(example = "PUT")]
    pub method: &'static str,
    /// Headers that the PUT must carry, exactly as given.
    pub headers: BTreeMap<&'static str, String>,
    pub expires_at: DateTime<Utc>,
}

impl From<dataset::Dataset> for Dataset {
    fn from(dataset: dataset::Dataset) -> Self {
        Self {
            id: dataset.id,
            name: dataset.name,
            example_count: dataset.example_count,
            created_at: dataset.created_at,
            updated_at: dataset.updated_at,
        }
    }
}

impl Example {
    async fn of(example: dataset::Example, storage: &Storage) -> Result<Self> {
        Ok(Self {
            url: storage.presign_get(&example.storage_key, READ_TTL).await?.into(),
            id: example.id,
            position: example.position,
            media_type: example.media_type,
            width: example.width,
            height: example.height,
            bytes: example.bytes,
            sha256: example.sha256,
            caption: example.caption,
            created_at: example.created_at,
        })
    }

    async fn all(examples: Vec<dataset::Example>, storage: &Storage) -> Result<Vec<Self>> {
        let mut signed = Vec::with_capacity(examples.len());
        for example in examples {
            signed.push(Self::of(example, storage).await?);
        }
        Ok(signed)
    }
}

/// Create a dataset
#[utoipa::path(
    post, path = "/v1/datasets", tag = "datasets", operation_id = "create_dataset",
    security(("key" = ["train"])),
    request_body = DatasetRequest,
    responses((status = 201, description = "The new, empty dataset", body = Dataset,
               headers(("Location" = String, description = "Path of the dataset")))),
)]
pub(crate) async fn create(
    caller: Caller,
    state: State,
    extract::Json(request): extract::Json<DatasetRequest>,
) -> Result<Response> {
    let dataset = Dataset::from(dataset::create(&caller, &state.database, request).await?);
    Ok((StatusCode::CREATED, [(header::LOCATION, format!("/v1/datasets/{}", dataset.id))], Json(dataset))
        .into_response())
}

/// List datasets, newest first
#[utoipa::path(
    get, path = "/v1/datasets", tag = "datasets", operation_id = "list_datasets",
    security(("key" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "One page of datasets", body = DatasetPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<DatasetPage>> {
    Ok(Json(dataset::list(&caller, &state.database, &query.page()?).await?.map(Dataset::from)))
}

/// Get a dataset and its pictures
#[utoipa::path(
    get, path = "/v1/datasets/{id}", tag = "datasets", operation_id = "get_dataset",
    security(("key" = ["read"])),
    params(("id" = DatasetId, Path, description = "Id of the dataset")),
    responses((status = 200, description = "The dataset", body = DatasetDetail)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<DatasetId>) -> Result<Json<DatasetDetail>> {
    let (dataset, examples) = dataset::get(&caller, &state.database, id).await?;
    Ok(Json(DatasetDetail {
        id: dataset.id,
        name: dataset.name,
        example_count: dataset.example_count,
        created_at: dataset.created_at,
        updated_at: dataset.updated_at,
        examples: Example::all(examples, &state.storage).await?,
    }))
}

/// Delete a dataset and its pictures
#[utoipa::path(
    delete, path = "/v1/datasets/{id}", tag = "datasets", operation_id = "delete_dataset",
    security(("key" = ["train"])),
    params(("id" = DatasetId, Path, description = "Identifier of the dataset")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "A queued or running training uses it"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(id): Path<DatasetId>) -> Result<StatusCode> {
    dataset::delete(&caller, &state.database, &state.storage, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Add pictures, the files of a folder, or an archive
///
/// Pictures in `image` parts are added together: if one is refused, none is added, and the answer names all that are
/// wrong. Of the files of a folder (`file` parts) and of an archive, those that cannot be used are left out and listed
/// in `left_out` with the reason.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/images", tag = "datasets", operation_id = "add_images",
    security(("key" = ["train"])),
    params(("id" = DatasetId, Path, description = "Id of the dataset")),
    request_body(content = ImagesForm, content_type = "multipart/form-data"),
    responses((status = 201, description = "The examples that were added", body = AddedExamples)),
)]
pub(crate) async fn add_images(
    caller: Caller,
    state: State,
    Path(id): Path<DatasetId>,
    mut form: Multipart,
) -> Result<(StatusCode, Json<AddedExamples>)> {
    let mut intake = match Intake::begin(&caller, &state.database, &state.storage, id).await {
        Ok(intake) => intake,
        Err(error) => {
            form.drain().await;
            return Err(error.into());
        }
    };
    if let Err(problem) = take_images(&mut form, &mut intake).await {
        intake.abandon().await;
        form.drain().await;
        return Err(problem);
    }
    // The form was read to its end.
    let left_out = intake.left_out().iter().map(LeftOutFile::from).collect();
    let examples = intake.commit().await?;
    let without_caption = examples.iter().filter(|example| example.caption.is_empty()).count();
    let items = Example::all(examples, &state.storage).await?;
    Ok((StatusCode::CREATED, Json(AddedExamples { items, without_caption, left_out })))
}

/// Delete a picture
#[utoipa::path(
    delete, path = "/v1/datasets/{id}/images/{image_id}", tag = "datasets", operation_id = "delete_image",
    security(("key" = ["train"])),
    params(
        ("id" = DatasetId, Path, description = "Id of the dataset"),
        ("image_id" = ExampleId, Path, description = "Id of the picture"),
    ),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "A queued or running training uses it"),
    ),
)]
pub(crate) async fn delete_image(
    caller: Caller,
    state: State,
    Path((id, image)): Path<(DatasetId, ExampleId)>,
) -> Result<StatusCode> {
    dataset::delete_example(&caller, &state.database, &state.storage, id, image).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Get a URL to upload a picture to
///
/// PUT the bytes to `url` with exactly these `headers`, then POST to `…/complete`.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/uploads", tag = "datasets", operation_id = "create_upload",
    security(("key" = ["train"])),
    params(("id" = DatasetId, Path, description = "Id of the dataset")),
    request_body = UploadRequest,
    responses((status = 201, description = "The URL, valid for one hour", body = Upload)),
)]
pub(crate) async fn create_upload(
    caller: Caller,
    state: State,
    Path(id): Path<DatasetId>,
    extract::Json(request): extract::Json<UploadRequest>,
) -> Result<(StatusCode, Json<Upload>)> {
    let upload = upload::create(&caller, &state.database, &state.storage, id, request).await?;
    let headers = BTreeMap::from([("content-type", upload.put.content_type)]);
    let body =
        Upload { id: upload.id, url: upload.put.url.into(), method: "PUT", headers, expires_at: upload.expires_at };
    Ok((StatusCode::CREATED, Json(body)))
}

/// Add an uploaded picture
///
/// Checks the uploaded bytes and adds them as an example. Repeating the call has no further effect.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/uploads/{upload_id}/complete", tag = "datasets", operation_id = "complete_upload",
    security(("key" = ["train"])),
    params(
        ("id" = DatasetId, Path, description = "Id of the dataset"),
        ("upload_id" = UploadId, Path, description = "Id of the upload"),
    ),
    responses(
        (status = 201, description = "The example that was added", body = Example),
        (status = 409, description = "Nothing has been uploaded yet"),
        (status = 413, description = "The picture is too large"),
        (status = 415, description = "The file is not a picture of a format that is read"),
        (status = 422, description = "The picture cannot be decoded"),
    ),
)]
pub(crate) async fn complete_upload(
    caller: Caller,
    state: State,
    Path((id, upload)): Path<(DatasetId, UploadId)>,
) -> Result<(StatusCode, Json<Example>)> {
    let example = upload::complete(&caller, &state.database, &state.storage, id, upload).await?;
    Ok((StatusCode::CREATED, Json(Example::of(example, &state.storage).await?)))
}
