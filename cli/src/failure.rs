//! Failures of a command: a message for the user and an exit code for scripts. `pyrograph --help` prints the table of
//! codes.

use std::process::ExitCode;

/// Printed below the help of the whole program.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: the job failed, a file could not be read or written, or something unexpected happened
  2  the command line or the environment is wrong
  3  the server cannot be reached; for a server or `sweep`: the database or the bucket; for a worker: the database
  4  the server refused the request; the message names the field
  5  canceled";

/// Exit code for a wrong command line or environment: a retry would fail in the same way.
pub(crate) const EXIT_USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Any failure without a more specific exit code.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
    /// The command line or the environment is wrong.
    #[error("{0}")]
    Usage(String),
    /// No answer from the server, the database or the bucket.
    #[error("{0}")]
    Unreachable(String),
    /// The server answered with a problem (4xx).
    #[error("{0}")]
    Refused(String),
    /// The job was canceled, by us or by someone else.
    #[error("{0}")]
    Canceled(String),
}

impl Failure {
    /// The process's exit code; see [`EXIT_CODES`].
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => EXIT_USAGE,
            Self::Unreachable(_) => 3,
            Self::Refused(_) => 4,
            Self::Canceled(_) => 5,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_own_code_and_the_help_names_it() {
        let all = [
            Failure::Failed(anyhow::anyhow!("x")),
            Failure::Usage(String::new()),
            Failure::Unreachable(String::new()),
            Failure::Refused(String::new()),
            Failure::Canceled(String::new()),
        ];
        for (index, failure) in all.iter().enumerate() {
            assert_eq!(format!("{:?}", failure.exit_code()), format!("{:?}", ExitCode::from(index as u8 + 1)));
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", index + 1)));
        }
    }
}
