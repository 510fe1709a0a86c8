//! `/v1/picture-info`: how a picture was made, read from its file.

use axum::Json;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::StatusCode;
use domain::generation::{GenerationRequest, MAX_PICTURE_CHARS};
use domain::{Caller, image_gate, input, picture_info};
use requests::recipe::{Program, Unmapped};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::State;
use crate::extract::{self, Multipart, is_json, or_json};
use crate::limits::GENERATION_LIMIT;
use crate::problem::{Problem, Result};

/// Longest text part of the form, in bytes.
const TEXT_BYTES: u64 = 1024;

/// A picture of one pixel with a record, for the documentation.
const EXAMPLE: &str = concat!(
    "data:image/png;base64,",
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAAMXRFWHRwYXJhbWV0ZXJzAGFuIG93bApTdGVwczogMTIsIFNlZWQ6",
    "IDcsIFNpemU6IDY0eDY0OsCwKQAAAApJREFUeJxjaAAAAIIAgXfNcrYAAAAASUVORK5CYII="
);

/// How a picture was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct PictureInfo {
    /// The program that recorded it; null if the picture has no record that is understood.
    pub program: Option<Program>,
    /// A body for `POST /v1/generations` that makes the picture; null without a record. Fields that the record does not
    /// state are left out, and take the model's defaults.
    #[serde(serialize_with = "without_nulls")]
    pub request: Option<GenerationRequest>,
    /// Values that could not be translated into the request.
    pub unmapped: Vec<Unmapped>,
}

/// A picture to read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"image": EXAMPLE}))]
pub(crate) struct PictureInfoRequest {
    /// The identifier of an input or of an artifact, or a `data:` URI with the picture itself.
    #[schema(min_length = 1, max_length = 12000000, pattern = r"^[A-Za-z0-9:/;,+=._%\s-]+$")]
    image: String,
    /// Name or identifier of a checkpoint to translate for, instead of the one that the picture records.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    #[serde(default)]
    model: Option<String>,
}

/// The form: one picture.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the form, whose parts are read by hand")]
pub(crate) struct PictureInfoForm {
    /// PNG, JPEG or WebP; at most 25 MiB.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
    /// Name or identifier of a checkpoint to translate for, instead of the one that the picture records.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    model: Option<String>,
}

/// Absent fields are left out, so that the request can be sent as it is.
#[expect(clippy::ref_option, reason = "serde passes the field itself")]
fn without_nulls<S: Serializer>(request: &Option<GenerationRequest>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(request).map_err(serde::ser::Error::custom)?;
    let mut fields = value.as_object_mut();
    if let Some(fields) = &mut fields {
        fields.retain(|_, value| !value.is_null());
    }
    value.serialize(serializer)
}

/// Read how a picture was made
///
/// Translates what a picture's file records (PNG text, EXIF, XMP) into a request for a generation. Reads the records of
/// Pyrograph, AUTOMATIC1111, ComfyUI and InvokeAI. The request of a picture of Pyrograph makes the same picture again.
/// The picture is not stored, and its pixels are not decoded.
#[utoipa::path(
    post, path = "/v1/picture-info", tag = "generations", operation_id = "read_picture_info",
    security(("key" = ["generate"])),
    request_body(content((PictureInfoForm = "multipart/form-data"), (PictureInfoRequest = "application/json"))),
    responses(
        (status = 200, description = "The request, and what could not be translated", body = PictureInfo),
        (status = 404, description = "The picture or the model that the body names does not exist"),
    ),
)]
pub(crate) async fn read(caller: Caller, state: State, mut request: Request) -> Result<Json<PictureInfo>> {
    let (file, model) = if is_json(request.headers()) {
        DefaultBodyLimit::max(GENERATION_LIMIT).apply(&mut request);
        let extract::Json(PictureInfoRequest { image, model }) = extract::Json::from_request(request, &state).await?;
        if image.len() > MAX_PICTURE_CHARS {
            let message = format!("At most {MAX_PICTURE_CHARS} characters of a picture are taken; send it as a form.");
            return Err(Problem::field(StatusCode::PAYLOAD_TOO_LARGE, "image", message));
        }
        let file = input::bytes(&caller, &state.database, &state.storage, "image", &image).await?;
        (file, model)
    } else {
        let mut form = Multipart::from_request(request, &state).await.map_err(or_json)?;
        match take(&mut form).await {
            Ok(taken) => taken,
            Err(problem) => {
                form.drain().await;
                return Err(problem);
            }
        }
    };
    let info = picture_info::read(&caller, &state.database, &state.catalog, file, model.as_deref()).await?;
    Ok(Json(PictureInfo { program: info.program, request: info.request, unmapped: info.unmapped }))
}

async fn take(form: &mut Multipart) -> Result<(axum::body::Bytes, Option<String>)> {
    let unprocessable = |field: &str, message: &str| Problem::field(StatusCode::UNPROCESSABLE_ENTITY, field, message);
    let (mut picture, mut model) = (None, None);
    while let Some(part) = form.next().await? {
        match part.name() {
            "image" if picture.is_none() => picture = Some(part.bytes(image_gate::MAX_BYTES).await?),
            "model" if model.is_none() => model = Some(part.text(TEXT_BYTES).await?),
            twice @ ("image" | "model") => return Err(unprocessable(twice, "It is there twice.")),
            other => return Err(unprocessable(other, "There is no such part; send one `image`, perhaps `model`.")),
        }
    }
    Ok((picture.ok_or_else(|| unprocessable("image", "There is no picture."))?, model))
}
