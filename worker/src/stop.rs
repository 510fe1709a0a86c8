//! Why an attempt ends without success. No database, no engine: only the reasons, and how errors become one.

use std::path::Path;

use domain::job::ErrorClass;

use crate::cache::{CacheError, is_disk_full};

/// Why an attempt ends without success.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// Another worker has the job; nothing may be written.
    LeaseLost,
    /// A user canceled the job.
    Canceled,
    /// Released without counting as a failure: the worker stops, its disk is full, or it has no engine.
    Released(String),
    /// The engine crashed during the job.
    Crashed(String),
    /// It does not fit into the memory that this engine may use; it takes at least this many bytes on another.
    DoesNotFit(u64, String),
    /// It failed; the class decides whether it is retried.
    Failed(ErrorClass, String),
}

impl From<domain::Error> for Stop {
    fn from(error: domain::Error) -> Self {
        use domain::Error;
        match error {
            Error::LeaseLost => Self::LeaseLost,
            Error::Unavailable(_) => Self::Failed(ErrorClass::Upstream, error.to_string()),
            Error::Internal(_) => Self::Failed(ErrorClass::Internal, error.to_string()),
            _ => Self::Failed(ErrorClass::InvalidInput, error.to_string()),
        }
    }
}

impl From<CacheError> for Stop {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Full(_) => Self::Released(error.to_string()),
            // The row exists but its object is missing or different: worth a retry, but not many.
            CacheError::Storage(_) | CacheError::Corrupt { .. } => {
                Self::Failed(ErrorClass::Upstream, error.to_string())
            }
            CacheError::Disk { .. } => Self::Failed(ErrorClass::Resource, error.to_string()),
        }
    }
}

/// A failure of the local disk.
pub(crate) fn disk(path: &Path, error: std::io::Error) -> Stop {
    if is_disk_full(&error) {
        Stop::Released(format!("the disk under {} is full", path.display()))
    } else {
        Stop::Failed(ErrorClass::Resource, format!("{}: {error}", path.display()))
    }
}
