//! Errors by meaning. How they look over HTTP is decided in `api`, not here.

use std::fmt::Display;
use std::time::Duration;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `field` names a field of the request as the client wrote it. Messages are sentences for people and contain no
/// secrets, except those of `Unavailable` and `Internal`, which are for the log only.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no {noun} {id}")]
    NotFound { noun: &'static str, id: String },
    /// A field names something that does not exist.
    #[error("{field}: {message}")]
    Unknown { field: String, message: String },
    /// The value can never be right.
    #[error("{field}: {message}")]
    Invalid { field: String, message: String },
    /// The caller may not do this.
    #[error("{message}")]
    Forbidden { message: String },
    /// The value may be valid at another time: something else conflicts with it now.
    #[error("{message}")]
    Conflict { field: Option<String>, message: String },
    /// A quota of the project is used up; `quota` is its name.
    #[error("{message}")]
    OverQuota { quota: &'static str, message: String, retry_after: Duration },
    #[error("{field}: {message}")]
    TooLarge { field: String, message: String },
    /// A media type or file format that is not supported.
    #[error("{field}: {message}")]
    Unsupported { field: String, message: String },
    /// All that is wrong with a request, if that is more than one thing.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))]
    Several(Vec<Error>),
    /// The attempt no longer holds its job; another attempt may. Nothing was changed; all effects must stop.
    #[error("the lease is lost")]
    LeaseLost,
    /// Database or storage cannot be reached; try again later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A bug in Pyrograph.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<requests::OutOfRange> for Error {
    fn from(error: requests::OutOfRange) -> Self {
        Self::Invalid { field: error.field, message: error.message }
    }
}

impl Error {
    pub fn not_found(noun: &'static str, id: impl Display) -> Error {
        Error::NotFound { noun, id: id.to_string() }
    }

    pub fn unknown(field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Unknown { field: field.into(), message: message.into() }
    }

    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Invalid { field: field.into(), message: message.into() }
    }

    pub fn conflict(message: impl Into<String>) -> Error {
        Error::Conflict { field: None, message: message.into() }
    }

    /// A conflict about one field of the request.
    pub fn conflict_in(field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Conflict { field: Some(field.into()), message: message.into() }
    }

    pub(crate) fn over_quota(quota: &'static str, message: impl Into<String>, retry_after: Duration) -> Error {
        Error::OverQuota { quota, message: message.into(), retry_after }
    }

    pub fn too_large(field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::TooLarge { field: field.into(), message: message.into() }
    }

    pub fn unsupported(field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Unsupported { field: field.into(), message: message.into() }
    }

    pub fn unavailable(cause: impl Display) -> Error {
        Error::Unavailable(cause.to_string())
    }

    pub fn internal(cause: impl Display) -> Error {
        Error::Internal(cause.to_string())
    }

    /// The same error about something that a field of the request names.
    pub fn in_field(self, field: impl Into<String>) -> Error {
        match self {
            Error::NotFound { noun, id } => Error::unknown(field, format!("There is no {noun} `{id}`.")),
            Error::Conflict { field: None, message } => Error::conflict_in(field, message),
            other => other,
        }
    }

    /// The same refusal of one file among several.
    pub(crate) fn about(mut self, path: &str) -> Error {
        if let Error::Invalid { message, .. } | Error::Unsupported { message, .. } | Error::TooLarge { message, .. } =
            &mut self
        {
            *message = format!("`{path}`: {message}");
        }
        self
    }

    /// Whether the same call may succeed later without any change by the user.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unavailable(_))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        let unreachable = match &error {
            sqlx::Error::Database(database) => {
                database.code().is_some_and(|code| is_transient_state(&code)) || ends_the_session(&**database)
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            _ => false,
        };
        if unreachable { Error::unavailable(error) } else { Error::internal(error) }
    }
}

/// Whether Postgres has closed the connection with this error, which says nothing about the statement.
fn ends_the_session(error: &(dyn sqlx::error::DatabaseError + 'static)) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// SQLSTATE of transient failures: connection (08), rollback (40), resources (53), operator (57), a lock not available
/// (55P03) and a server that became read-only during a failover (25006).
fn is_transient_state(code: &str) -> bool {
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03" || code == "25006"
}
