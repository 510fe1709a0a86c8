//! Failures of the disk below the objects: said in the log with the operation and the key, and to the client.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};

/// Least time between two lines with one cause: clients try again.
const PAUSE: Duration = Duration::from_secs(10);

/// The disk with the objects.
pub(super) struct Disk {
    folder: PathBuf,
    /// The last cause, and when it was logged.
    reported: Mutex<Option<(String, Instant)>>,
}

impl Disk {
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder, reported: Mutex::default() }
    }

    /// The answer to an operation that failed with `error`, which has the cause if the client is not at fault.
    pub(super) fn explain(&self, operation: &str, key: impl Display, error: S3Error) -> S3Error {
        if *error.code() != S3ErrorCode::InternalError {
            return error;
        }
        let source = error.source().map(|source| source as &(dyn Error + 'static));
        let why = source.map_or_else(|| error.to_string(), ToString::to_string);
        let is_full = source.is_some_and(is_full);
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.as_ref().is_none_or(|(last, when)| *last != why || when.elapsed() > PAUSE) {
            tracing::error!(operation, %key, folder = %self.folder.display(), "S3: {why}");
            *reported = Some((why.clone(), Instant::now()));
        }
        let mut answer = S3Error::with_message(S3ErrorCode::InternalError, why);
        if is_full {
            answer.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
        }
        answer
    }
}

fn is_full(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<io::Error>() {
        Some(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => true,
        _ => error.source().is_some_and(is_full),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_SPACE: i32 = 28;

    #[test]
    fn a_full_disk_is_the_answer() {
        let disk = Disk::of("/data".into());
        let full = S3Error::internal_error(io::Error::from_raw_os_error(NO_SPACE));
        let answer = disk.explain("PutObject", "models/x", full);
        assert_eq!(answer.status_code(), Some(StatusCode::INSUFFICIENT_STORAGE));
        assert!(answer.message().is_some_and(|why| why.contains("No space left on device")), "{answer:?}");
        assert!(disk.reported.lock().unwrap().is_some());
    }

    #[test]
    fn an_error_of_the_client_stays() {
        let disk = Disk::of("/data".into());
        let missing = S3Error::with_source(S3ErrorCode::NoSuchKey, io::Error::from(ErrorKind::NotFound).into());
        let answer = disk.explain("GetObject", "models/x", missing);
        assert_eq!(*answer.code(), S3ErrorCode::NoSuchKey);
        assert!(disk.reported.lock().unwrap().is_none());
    }
}
