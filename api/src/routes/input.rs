//! `/v1/inputs`: pictures that generations start from.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::storage::READ_TTL;
use domain::{Caller, InputId, Page, Storage, image_gate, input};
use serde::Serialize;
use utoipa::ToSchema;

use crate::State;
use crate::extract::{Multipart, PageQuery, Path, Query};
use crate::problem::{Problem, Result};

/// A picture that generations can start from: an image to change, or a mask.
#[derive(Serialize, ToSchema)]
pub(crate) struct Input {
    /// Identifier of the input. Pass it as `image` or `mask` of a generation.
    pub id: InputId,
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
    pub created_at: DateTime<Utc>,
}

type InputPage = Page<Input>;

/// The form: one picture.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the form, whose part is read by hand")]
pub(crate) struct InputForm {
    /// PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF; at most 25 MiB, 8192 pixels a side and 40 megapixels.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
}

impl Input {
    async fn of(input: input::Input, storage: &Storage) -> Result<Self> {
        Ok(Self {
            url: storage.presign_get(&input.storage_key, READ_TTL).await?.into(),
            id: input.id,
            media_type: input.media_type,
            width: input.width,
            height: input.height,
            bytes: input.bytes,
            sha256: input.sha256,
            created_at: input.created_at,
        })
    }
}

/// Upload a picture for generations to start from
///
/// The picture is turned upright if its EXIF data says so.
#[utoipa::path(
    post, path = "/v1/inputs", tag = "generations", operation_id = "create_input",
    security(("key" = ["generate"])),
    request_body(content = InputForm, content_type = "multipart/form-data"),
    responses((status = 201, description = "The new input", body = Input,
               headers(("Location" = String, description = "Path of the input")))),
)]
pub(crate) async fn create(caller: Caller, state: State, mut form: Multipart) -> Result<Response> {
    match take_picture(&mut form).await {
        Ok(bytes) => {
            let input = input::create(&caller, &state.database, &state.storage, "image", bytes).await?;
            let location = format!("/v1/inputs/{}", input.id);
            let body = Json(Input::of(input, &state.storage).await?);
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], body).into_response())
        }
        Err(problem) => {
            form.drain().await;
            Err(problem)
        }
    }
}

async fn take_picture(form: &mut Multipart) -> Result<axum::body::Bytes> {
    let unprocessable = |field: &str, message: &str| Problem::field(StatusCode::UNPROCESSABLE_ENTITY, field, message);
    let mut picture = None;
    while let Some(part) = form.next().await? {
        match part.name() {
            "image" if picture.is_none() => picture = Some(part.bytes(image_gate::MAX_BYTES).await?),
            "image" => return Err(unprocessable("image", "Send one picture.")),
            other => return Err(unprocessable(other, "There is no such part; send one `image`.")),
        }
    }
    picture.ok_or_else(|| unprocessable("image", "There is no picture."))
}

/// List inputs, newest first
#[utoipa::path(
    get, path = "/v1/inputs", tag = "generations", operation_id = "list_inputs",
    security(("key" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "One page of inputs", body = InputPage)),
)]
pub(crate) async fn list(caller: Caller, state: State, Query(query): Query<PageQuery>) -> Result<Json<InputPage>> {
    let page = input::list(&caller, &state.database, &query.page()?).await?;
    Ok(Json(page.try_map(|input| Input::of(input, &state.storage)).await?))
}

/// Get an input
#[utoipa::path(
    get, path = "/v1/inputs/{id}", tag = "generations", operation_id = "get_input",
    security(("key" = ["read"])),
    params(("id" = InputId, Path, description = "Id of the input")),
    responses((status = 200, description = "The input", body = Input)),
)]
pub(crate) async fn get(caller: Caller, state: State, Path(id): Path<InputId>) -> Result<Json<Input>> {
    let input = input::get(&caller, &state.database, id).await?;
    Ok(Json(Input::of(input, &state.storage).await?))
}

/// Delete an input
#[utoipa::path(
    delete, path = "/v1/inputs/{id}", tag = "generations", operation_id = "delete_input",
    security(("key" = ["generate"])),
    params(("id" = InputId, Path, description = "Id of the input")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "A queued or running generation needs it"),
    ),
)]
pub(crate) async fn delete(caller: Caller, state: State, Path(id): Path<InputId>) -> Result<StatusCode> {
    input::delete(&caller, &state.database, &state.storage, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
