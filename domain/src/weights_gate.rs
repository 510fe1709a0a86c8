//! The headers of files of weights in the bucket, and the errors for refused files. `formats` reads the formats.

use formats::{Header, Refusal, Sniffer};

use crate::{Error, Result, Storage};

const FIELD: &str = "file";

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let message = format!("The file is refused: {refusal}.");
        match refusal {
            Refusal::Unsupported(_) => Self::unsupported(FIELD, message),
            Refusal::Invalid(_) => Self::invalid(FIELD, message),
        }
    }
}

/// The error for a file that its sender calls `called`.
pub fn refused(refusal: Refusal, called: &str) -> Error {
    Error::from(refusal).about(called)
}

/// `Invalid` for a file whose tensors are not what they should be.
pub(crate) fn invalid(reason: impl std::fmt::Display) -> Error {
    Error::invalid(FIELD, format!("The file is refused: {reason}."))
}

/// The header of a file of `file_bytes` bytes in the bucket. Errors: `Invalid`, `Unsupported`, those of storage.
pub async fn stored(storage: &Storage, key: &str, file_bytes: u64) -> Result<Header> {
    let (mut sniffer, mut at) = (Sniffer::default(), 0);
    while sniffer.wants() > 0 && at < file_bytes {
        let bytes = storage.get_range(key, at..file_bytes.min(at + sniffer.wants() as u64)).await?;
        sniffer.push(&bytes)?;
        at += bytes.len() as u64;
    }
    Ok(sniffer.finish(file_bytes)?)
}
