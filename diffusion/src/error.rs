//! What can go wrong with tensors and files on the local disk, said so that the owner of the file can act on it.
//! No HTTP status, no job state: those belong to the crates above.

use std::path::PathBuf;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of loading, running or training a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file was read, and is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in a sentence.
        reason: String,
    },
    /// The weights do not belong to this network.
    #[error("{path}: weights do not fit the network: {reason}", path = path.display())]
    Weights {
        /// The checkpoint file or folder.
        path: PathBuf,
        /// The first missing, unused and wrongly shaped keys.
        reason: String,
    },
    /// A value asked for is outside what the model can do.
    #[error("{0}")]
    Invalid(String),
    /// An adapter that does not fit the model it should be attached to.
    #[error("adapter does not fit: {0}")]
    Adapter(String),
    /// What was asked for takes more memory than may be used.
    #[error("{reason}")]
    Memory {
        /// Bytes that it takes at the least, on any device, by the estimate.
        needed: u64,
        /// A sentence.
        reason: String,
    },
    /// The wished device cannot be used.
    #[error("device: {0}")]
    Device(String),
    /// The caller asked to stop.
    #[error("canceled")]
    Canceled,
}

impl Error {
    /// A [`Error::Malformed`] for `path`.
    pub fn malformed(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), reason: reason.into() }
    }

    /// Turns an I/O error at `path` into an [`Error::File`]; made for `map_err`.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
