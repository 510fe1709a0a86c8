//! Which paths the programs of Postgres can have. They write paths into commands of the shell and into files of lines.

use std::path::Path;

use crate::Error;

/// Refuses a path that no file of lines can hold.
///
/// # Errors
/// [`Error::Path`] for a control character, such as the end of a line.
pub fn check_path(path: &Path) -> Result<(), Error> {
    if path.to_string_lossy().contains(char::is_control) {
        return Err(Error::Path { path: path.to_owned() });
    }
    Ok(())
}

/// Whether the shell reads `path` literally between double quotes.
pub(crate) fn is_literal(path: &Path) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "/._-+@,:=~% ".contains(c);
    path.to_str().is_some_and(|path| path.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_shell_executes_is_not_literal() {
        for path in ["/srv/pyrograph", "/home/é 1/.pyrograph", "/a-b_c+d@e,f:g=h~i%20"] {
            assert!(is_literal(Path::new(path)), "{path}");
        }
        for path in ["/a$(id)", "/a`id`", "/a\"b", "/a\\b", "/a!b", "/a'b", "/a\nb"] {
            assert!(!is_literal(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_path_is_one_line() {
        assert!(check_path(Path::new("/a $`\"'\\b/ü")).is_ok());
        for path in ["/a\nb", "/a\rb", "/a\u{1b}b"] {
            let why = check_path(Path::new(path)).unwrap_err().to_string();
            assert!(!why.contains(char::is_control), "{why}");
        }
    }
}
