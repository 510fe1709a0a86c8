//! Results on stdout. Progress and warnings go to stderr, and are lost if nobody can read them.

use std::fmt::Arguments;
use std::io::{self, Write as _};

use anyhow::Context as _;

use crate::failure::Failure;

/// `println!` for results; returns an error if stdout cannot be written.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// `eprintln!` for people; a line that cannot be written is lost, where `eprintln!` would end the process.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use tell;

/// Writes a line. A closed pipe (`pyrograph models list | head -1`) is not an error.
pub(crate) fn line(text: Arguments) -> Result<(), Failure> {
    unless_closed(writeln!(io::stdout().lock(), "{text}"))
}

fn unless_closed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Ok(Err(error).context("could not write to stdout")?),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_a_failure_and_a_reader_that_left_is_none() {
        assert!(unless_closed(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(matches!(unless_closed(Err(io::ErrorKind::StorageFull.into())), Err(Failure::Failed(_))));
    }
}
