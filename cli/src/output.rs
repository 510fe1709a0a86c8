//! Results on stdout. Progress and warnings go to stderr, and are lost if nobody can read them. Text for people is
//! escaped here: names, prompts and paths come from others, and a terminal executes the control characters in them.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;

use crate::failure::Failure;

/// `println!` for results, [escaped]; returns an error if stdout cannot be written.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// `eprintln!` for people, [escaped]; a line that cannot be written is lost, where `eprintln!` would end the process.
macro_rules! tell {
    ($($text:tt)*) => { $crate::output::notice(&format!($($text)*)) };
}
pub(crate) use tell;

/// Writes a line for people to stdout. A closed pipe (`pyrograph models list | head -1`) is not an error.
pub(crate) fn line(text: Arguments) -> Result<(), Failure> {
    unescaped(&escaped(&text.to_string()))
}

/// Writes a document for programs to stdout, as it is.
pub(crate) fn unescaped(text: &str) -> Result<(), Failure> {
    unless_closed(writeln!(io::stdout().lock(), "{text}"))
}

/// Writes a line for people to stderr.
pub(crate) fn notice(text: &str) {
    let _ = writeln!(io::stderr(), "{}", escaped(text));
}

/// One line of text in which control characters, and those that reverse the direction of text, are written as in Rust:
/// `\n`, `\u{1b}`.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(hidden) {
        return text.into();
    }
    text.chars().map(|c| if hidden(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A path in a message that has other lines, [escaped].
pub(crate) fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy()).into_owned()
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

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(escaped("\u{1b}]0;x\u{7}brûlé\u{9b}2J\n\u{202e}"), r"\u{1b}]0;x\u{7}brûlé\u{9b}2J\n\u{202e}");
        assert!(matches!(escaped("brûlé, 鳥 and 🦉"), Cow::Borrowed(_)));
    }
}
