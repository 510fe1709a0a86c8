//! Why an attempt ends without success. No database, no engine: only the reasons, and how errors become one.

use std::io;
use std::path::Path;

use domain::job::ErrorClass;

use crate::cache::CacheError;
use crate::protocol::FailureClass;

const UNUSABLE: &str = "The disk of the worker is full or cannot be used.";
const MISSING: &str = "Files of the worker were removed while a job needed them.";

/// Why an attempt ends without success.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Stop {
    /// Another worker has the job; nothing may be written.
    #[error("the lease is lost")]
    LeaseLost,
    /// A user canceled the job.
    #[error("canceled")]
    Canceled,
    /// Released without counting as a failure: the worker stops.
    #[error("released: {0}")]
    Released(String),
    /// The worker's machine is in trouble: the job is returned at no cost, and the worker pauses.
    #[error("the machine is in trouble: {1}")]
    Trouble(Trouble, String),
    /// The engine crashed during the job.
    #[error("the engine crashed: {0}")]
    Crashed(String),
    /// It does not fit into the memory that this engine may use; it takes at least this many bytes on another.
    #[error("it takes {0} bytes: {1}")]
    DoesNotFit(u64, String),
    /// Its files are larger than this worker's whole disk.
    #[error("the disk is too small: {0}")]
    NoRoom(String),
    /// It failed; the class decides whether it is retried.
    #[error("failed ({}): {}", .0.as_str(), .1)]
    Failed(ErrorClass, String),
}

/// Trouble with a worker or with a service that it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Storage cannot be reached, or refuses this worker: wrong keys, a wrong clock.
    Storage,
    /// The local disk is full or broken.
    Disk,
    /// The engine does not start.
    Engine,
    /// Jobs that fail on this worker succeed on others.
    Jobs,
}

impl Stop {
    /// The same with another message.
    pub(crate) fn map_message(self, map: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::LeaseLost => Self::LeaseLost,
            Self::Canceled => Self::Canceled,
            Self::Released(message) => Self::Released(map(&message)),
            Self::Trouble(trouble, message) => Self::Trouble(trouble, map(&message)),
            Self::Crashed(message) => Self::Crashed(map(&message)),
            Self::DoesNotFit(memory, message) => Self::DoesNotFit(memory, map(&message)),
            Self::NoRoom(message) => Self::NoRoom(map(&message)),
            Self::Failed(class, message) => Self::Failed(class, map(&message)),
        }
    }

    /// A failure that the engine reports.
    pub(crate) fn of_engine(class: FailureClass, message: String) -> Self {
        match class {
            FailureClass::Disk => Self::disk_trouble(&message, UNUSABLE),
            FailureClass::InvalidInput | FailureClass::Resource | FailureClass::Internal => {
                Self::Failed(class.into(), message)
            }
        }
    }

    fn disk_trouble(details: &str, reason: &str) -> Self {
        tracing::warn!(details, "the local disk failed");
        Self::Trouble(Trouble::Disk, reason.into())
    }
}

impl From<domain::Error> for Stop {
    fn from(error: domain::Error) -> Self {
        use domain::Error;
        match error {
            Error::LeaseLost => Self::LeaseLost,
            // The details are addresses of the installation, which are for the log only.
            Error::Unavailable(details) => {
                tracing::warn!(details, "storage or the database cannot be used");
                Self::Trouble(Trouble::Storage, "The worker cannot reach storage.".into())
            }
            Error::Internal(_) => Self::Failed(ErrorClass::Internal, error.to_string()),
            _ => Self::Failed(ErrorClass::InvalidInput, error.to_string()),
        }
    }
}

impl From<CacheError> for Stop {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Full(_) => Self::disk_trouble(&error.to_string(), UNUSABLE),
            CacheError::Disk { path, source } => disk(&path, source),
            CacheError::Storage(error @ (domain::Error::Unavailable(_) | domain::Error::LeaseLost)) => error.into(),
            // The row exists but its object is missing or different: worth a retry, but not many.
            CacheError::Storage(_) | CacheError::Corrupt { .. } => {
                Self::Failed(ErrorClass::Upstream, error.to_string())
            }
        }
    }
}

/// A failure of the local disk.
pub(crate) fn disk(path: &Path, error: io::Error) -> Stop {
    let reason = if error.kind() == io::ErrorKind::NotFound { MISSING } else { UNUSABLE };
    Stop::disk_trouble(&format!("{}: {error}", path.display()), reason)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn files_that_are_missing_are_not_a_full_disk() {
        for (kind, reason) in [
            (ErrorKind::NotFound, MISSING),
            (ErrorKind::StorageFull, UNUSABLE),
            (ErrorKind::PermissionDenied, UNUSABLE),
        ] {
            let stop = Stop::Trouble(Trouble::Disk, reason.to_owned());
            let path = Path::new("/work");
            assert_eq!(disk(path, kind.into()), stop);
            assert_eq!(Stop::from(CacheError::Disk { path: path.to_owned(), source: kind.into() }), stop);
        }
    }
}
