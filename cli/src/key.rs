//! A key of the API as client commands hold it.

use std::fmt;
use std::str::FromStr;

/// A key. It is neither printed nor logged by accident.
#[derive(Clone)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        header_text(text).map(Self).map_err(|_| "it is not a key".to_owned())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Text that a header can carry.
pub(crate) fn header_text(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("it is not a name of letters, digits, `_` and `-`".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_printed() {
        let key: Key = "pyro_1_2".parse().unwrap();
        assert_eq!((format!("{key:?}"), key.reveal()), ("…".to_owned(), "pyro_1_2"));
        assert!("".parse::<Key>().is_err() && "a\nb".parse::<Key>().is_err());
    }
}
