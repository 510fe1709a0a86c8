//! The only place where an error becomes HTTP: a problem document after RFC 9457, with the fields that are wrong.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::Error;
use serde::Serialize;
use utoipa::ToSchema;

/// Media type of a problem.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

/// A problem document (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[schema(example = "about:blank")]
    pub r#type: &'static str,
    /// Name of the HTTP status.
    #[schema(example = "Unprocessable Entity")]
    pub title: &'static str,
    /// HTTP status code.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    pub status: u16,
    /// A sentence that explains the problem.
    #[schema(example = "width: 65 is not a multiple of 16, as `ember` needs it; 64 and 80 are.")]
    pub detail: String,
    /// The fields that are wrong; empty when the problem is not about a field. Values outside of a range are named only
    /// if every value has the type of its field.
    pub errors: Vec<FieldError>,
    /// Seconds after which the client may try again.
    #[serde(skip)]
    retry_after: Option<u64>,
}

/// One field that is wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FieldError {
    /// Path of the field, such as `loras[0].scale`.
    #[schema(example = "width")]
    pub field: String,
    /// What is wrong with the field.
    pub message: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Unknown"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    /// The same with the time after which the client may try again.
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// A problem with one field.
    pub fn field(status: StatusCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        let detail = if field.is_empty() { message.clone() } else { format!("{field}: {message}") };
        Self { errors: vec![FieldError { field, message }], ..Self::new(status, detail) }
    }
}

impl Problem {
    /// One problem of all that is wrong with a request; the status is that of the first.
    pub fn of_all(problems: impl IntoIterator<Item = Problem>) -> Option<Self> {
        problems.into_iter().reduce(Self::and)
    }

    /// Both problems; the status is that of this one.
    #[must_use]
    pub(crate) fn and(mut self, other: Problem) -> Self {
        self.detail = format!("{} {}", self.detail, other.detail);
        self.errors.extend(other.errors);
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { noun, id } => Self::new(StatusCode::NOT_FOUND, format!("There is no {noun} `{id}`.")),
            Error::Unknown { field, message } => Self::field(StatusCode::NOT_FOUND, field, message),
            Error::Invalid { field, message } => Self::field(StatusCode::UNPROCESSABLE_ENTITY, field, message),
            Error::Forbidden { message } => Self::new(StatusCode::FORBIDDEN, message),
            Error::Conflict { field: None, message } => Self::new(StatusCode::CONFLICT, message),
            Error::Conflict { field: Some(field), message } => Self::field(StatusCode::CONFLICT, field, message),
            Error::OverQuota { quota, message, retry_after } => {
                let field = format!("quotas.{quota}");
                Self::field(StatusCode::TOO_MANY_REQUESTS, field, message).retry_after(retry_after.as_secs().max(1))
            }
            Error::TooLarge { field, message } => Self::field(StatusCode::PAYLOAD_TOO_LARGE, field, message),
            Error::Unsupported { field, message } => Self::field(StatusCode::UNSUPPORTED_MEDIA_TYPE, field, message),
            Error::Several(errors) => {
                Self::of_all(errors.into_iter().map(Self::from)).unwrap_or_else(|| internal("no error"))
            }
            Error::Unavailable(cause) => {
                tracing::warn!(%cause, "unavailable");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Database or storage cannot be reached at the moment; try again.",
                )
            }
            Error::LeaseLost => internal("a lease was asked for in a request"),
            Error::Internal(cause) => internal(&cause),
        }
    }
}

fn internal(cause: &str) -> Problem {
    tracing::error!(cause, "internal error");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong on the server; its log says what.")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response =
            (status, [(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stay_in_the_log() {
        for error in [Error::internal("postgres://user:secret@host"), Error::unavailable("secret")] {
            let problem = Problem::from(error);
            assert!(problem.status >= 500 && !serde_json::to_string(&problem).unwrap().contains("secret"));
        }
    }

    #[test]
    fn a_wrong_field_is_named_twice() {
        let problem = Problem::from(Error::invalid("loras[0].scale", "11 is outside the range -10 to 10."));
        assert_eq!((problem.status, problem.errors[0].field.as_str()), (422, "loras[0].scale"));
        assert!(problem.detail.starts_with("loras[0].scale: 11"));
    }
}
