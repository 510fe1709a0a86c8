//! `/v1/artifacts`: results of jobs, by their own ids. Jobs show them with their URLs.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::delivery::request::Stated;
use domain::delivery::{self, DeliveryStatus, upload};
use domain::{ArtifactId, Caller};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::State;
use crate::extract::{OptionalJson, Path};
use crate::problem::Result;

/// The upload of a picture to a URL of the caller.
#[derive(Serialize, ToSchema)]
pub(crate) struct Delivery {
    pub status: DeliveryStatus,
    /// HTTP status of the last answer. Null if there was none.
    #[schema(minimum = 100, maximum = 599)]
    pub status_code: Option<i32>,
    /// Number of tries since the URL was stated.
    #[schema(minimum = 0)]
    pub attempts: i32,
    /// When the picture was uploaded.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Why the last try failed.
    pub error: Option<String>,
}

impl From<delivery::Delivery> for Delivery {
    fn from(delivery: delivery::Delivery) -> Self {
        let is_delivered = delivery.status == DeliveryStatus::Succeeded;
        Self {
            status: delivery.status,
            status_code: delivery.status_code,
            attempts: delivery.attempts,
            delivered_at: delivery.ended_at.filter(|_| is_delivered),
            error: delivery.error.filter(|_| !is_delivered),
        }
    }
}

/// Where to upload a picture to. Without a body, to the URL that its request stated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"upload_url": "https://example.com/fox.jpg"}))]
pub(crate) struct DeliverRequest {
    /// URL, such as a presigned one, to which the picture is sent with `PUT`.
    #[schema(min_length = 1, max_length = 8192)]
    #[serde(default)]
    pub upload_url: Option<String>,
    /// Headers to be sent with it.
    #[schema(example = json!({"x-amz-acl": "private"}))]
    #[serde(default)]
    pub upload_headers: Option<BTreeMap<String, String>>,
}

/// Upload an artifact to a URL again
///
/// Uploads it once more, also to another URL. A URL is forgotten once the artifact is there, and a day after it could
/// not be delivered; after that, state a new one.
#[utoipa::path(
    post, path = "/v1/artifacts/{id}/deliver", tag = "generations", operation_id = "deliver_artifact",
    security(("key" = ["generate"])),
    params(("id" = ArtifactId, Path, description = "Id of the artifact")),
    request_body = Option<DeliverRequest>,
    responses(
        (status = 202, description = "To be uploaded", body = Delivery),
        (status = 409, description = "There is no URL, or the artifact is about to be uploaded"),
    ),
)]
pub(crate) async fn deliver(
    caller: Caller,
    state: State,
    Path(id): Path<ArtifactId>,
    OptionalJson(request): OptionalJson<DeliverRequest>,
) -> Result<(StatusCode, Json<Delivery>)> {
    let stated = Stated { urls: None, url: request.upload_url.as_deref(), headers: request.upload_headers.as_ref() };
    let delivery = upload::deliver(&caller, &state.database, &state.outbound, id, stated).await?;
    Ok((StatusCode::ACCEPTED, Json(delivery.into())))
}
