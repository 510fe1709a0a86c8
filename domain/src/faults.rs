//! All that is wrong with a request: every check is made, so that the client learns of each field at once.

use crate::{Error, Result};

#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Error>);

impl Faults {
    /// The checked value, or any in its place: nothing is made of a request with faults.
    pub(crate) fn take<T: Default, E: Into<Error>>(&mut self, checked: Result<T, E>) -> T {
        checked.unwrap_or_else(|error| {
            match error.into() {
                Error::Several(errors) => self.0.extend(errors),
                error => self.0.push(error),
            }
            T::default()
        })
    }

    /// Of a request that cannot be checked completely because of `error`. Errors: always, with `error` first.
    pub(crate) fn fail<T>(mut self, error: Error) -> Result<T> {
        self.0.insert(0, error.clone());
        self.check().and(Err(error))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Errors: the fault, `Several`, or the trouble that kept a check from being made.
    pub(crate) fn check(mut self) -> Result<()> {
        let trouble = |error: &Error| matches!(error, Error::Unavailable(_) | Error::Internal(_));
        if let Some(at) = self.0.iter().position(trouble) {
            return Err(self.0.swap_remove(at));
        }
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.swap_remove(0)),
            _ => Err(Error::Several(self.0)),
        }
    }
}
