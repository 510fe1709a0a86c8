//! The text of a key, `pyro_<id>_<secret>`, and those of sessions and login links, which have the same form with another
//! first word. The id finds the row, and only the hash of the secret is stored.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Error, KeyId, Result};

/// Bytes of a secret: too many to guess, so that a fast hash protects it as well as a slow one.
const SECRET_BYTES: usize = 32;

/// An id and a secret, as a client sends them. It has no `Serialize` and prints without its secret, so that it reaches
/// neither log nor answer by accident.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Credential {
    id: Uuid,
    secret: [u8; SECRET_BYTES],
}

/// The text is no credential of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a key of the form pyro_<id>_<secret>")]
pub struct NotAToken;

impl Credential {
    /// A new one with a random secret. Errors: the system has no random numbers.
    pub(crate) fn new() -> Result<Self> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(Error::internal)?;
        Ok(Self { id: Uuid::now_v7(), secret })
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// The hash of the secret, which is stored in its place.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }

    /// Its text after the first `word`.
    pub(crate) fn reveal(&self, word: &str) -> String {
        format!("{word}_{}_{}", self.id.simple(), hex::encode(self.secret))
    }

    pub(crate) fn read(word: &str, text: &str) -> Result<Self, NotAToken> {
        let rest = text.strip_prefix(word).and_then(|rest| rest.strip_prefix('_'));
        let (id, secret) = rest.and_then(|rest| rest.split_once('_')).ok_or(NotAToken)?;
        let id = Uuid::try_parse(id).ok().filter(|parsed| parsed.simple().to_string() == id).ok_or(NotAToken)?;
        let mut bytes = [0; SECRET_BYTES];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| NotAToken)?;
        Ok(Self { id, secret: bytes })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_…", self.id.simple())
    }
}

const WORD: &str = "pyro";

/// A key as a client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(Credential);

impl Token {
    /// A new one with a random secret. Errors: the system has no random numbers.
    pub(super) fn new() -> Result<Self> {
        Credential::new().map(Self)
    }

    pub fn id(&self) -> KeyId {
        self.0.id().into()
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        self.0.sha256()
    }

    /// The key's text, which is shown once.
    pub fn reveal(&self) -> String {
        self.0.reveal(WORD)
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        Credential::read(WORD, text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_shown() {
        let token = Token::new().unwrap();
        let text = token.reveal();
        assert_eq!(text.len(), 102, "{text}");
        assert_eq!(text.parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&text[40..]), "the secret is not printed");
        assert_ne!(Token::new().unwrap().sha256(), token.sha256());
    }

    #[test]
    fn another_text_is_refused() {
        let text = Token::new().unwrap().reveal();
        let cut = &text[..text.len() - 2];
        let hyphenated = text.replacen(&text[5..37], &Uuid::now_v7().to_string(), 1);
        let session = text.replacen(WORD, "session", 1);
        for wrong in ["", "pyro_", "pyro_1_2", "hf_abc", cut, &format!("{text}0"), &text[1..], &hyphenated, &session] {
            assert_eq!(wrong.parse::<Token>(), Err(NotAToken), "{wrong}");
        }
    }
}
