//! Errors of tensors and local files, worded so that the owner of the file can act on them. HTTP statuses and job
//! states belong to other crates.

use std::path::PathBuf;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to load, run or train a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The content of a file is invalid.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as a sentence.
        reason: String,
    },
    /// The weights do not fit this network.
    #[error("{path}: weights do not fit the network: {reason}", path = path.display())]
    Weights {
        /// The checkpoint file or folder.
        path: PathBuf,
        /// The first missing, unused and wrongly shaped keys.
        reason: String,
    },
    /// A requested value is out of range.
    #[error("{0}")]
    Invalid(String),
    /// An adapter does not fit the model.
    #[error("adapter does not fit: {0}")]
    Adapter(String),
    /// The request needs more memory than allowed.
    #[error("{reason}")]
    Memory {
        /// Estimated lower bound of the memory it needs on any device, in bytes.
        needed: u64,
        /// The explanation, as a sentence.
        reason: String,
    },
    /// The requested device is unavailable.
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

    /// The same error with paths within `folder`, the folder of a model that the user knows as `name`.
    #[must_use]
    pub fn within(self, folder: &std::path::Path, name: &str) -> Self {
        let shown = |path: PathBuf| match path.strip_prefix(folder) {
            Ok(inside) if inside.as_os_str().is_empty() => PathBuf::from(name),
            Ok(inside) => inside.to_owned(),
            Err(_) => path,
        };
        match self {
            Self::File { path, source } => Self::File { path: shown(path), source },
            Self::Malformed { path, reason } => Self::Malformed { path: shown(path), reason },
            Self::Weights { path, reason } => Self::Weights { path: shown(path), reason },
            other => other,
        }
    }

    /// Turns an I/O error at `path` into an [`Error::File`]; made for `map_err`.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

impl From<memory::TooLarge> for Error {
    fn from(memory::TooLarge { needed, reason }: memory::TooLarge) -> Self {
        Self::Memory { needed, reason }
    }
}
