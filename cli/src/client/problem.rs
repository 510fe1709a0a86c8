//! RFC 9457 problems as the server sends them, and how they read on a terminal.

use std::fmt;

use reqwest::StatusCode;
use serde::Deserialize;

/// A refusal, with the fields that are wrong.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Problem {
    /// What kind of problem, in a few words.
    #[serde(default)]
    title: String,
    /// The sentence that helps.
    #[serde(default)]
    detail: Option<String>,
    /// Field by field, where the body was wrong.
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    #[serde(default)]
    field: String,
    #[serde(default)]
    message: String,
}

impl Problem {
    /// Reads the body of a failed answer. If it is not a problem (a proxy's HTML page), only the status is used.
    pub(super) fn read(status: StatusCode, body: &[u8]) -> Self {
        let mut problem: Self = serde_json::from_slice(body).unwrap_or_default();
        if problem.title.is_empty() {
            problem.title = status.to_string();
        }
        problem
    }

    /// The message of the first field, without its name.
    pub(super) fn reason(&self) -> String {
        self.errors.first().map_or_else(|| self.to_string(), |error| error.message.clone())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = self.detail.as_deref().filter(|detail| !detail.is_empty());
        f.write_str(detail.unwrap_or(&self.title))?;
        for FieldError { field, message } in &self.errors {
            if detail.is_some_and(|detail| detail.contains(message.as_str()))
                && (field.is_empty() || detail.is_some_and(|detail| detail.contains(field.as_str())))
            {
                continue;
            }
            write!(f, "\n  {field}: {message}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_fields_that_are_wrong() {
        let body = br#"{"type":"about:blank","title":"Invalid","status":422,"detail":"The request is not valid.",
            "errors":[{"field":"width","message":"must be a multiple of 16"},
                      {"field":"seed","message":"is negative"}]}"#;
        let problem = Problem::read(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(
            problem.to_string(),
            "The request is not valid.\n  width: must be a multiple of 16\n  seed: is negative"
        );
    }

    #[test]
    fn does_not_say_the_same_thing_twice() {
        let body = br#"{"title":"Invalid","detail":"width: must be a multiple of 16",
            "errors":[{"field":"width","message":"must be a multiple of 16"}]}"#;
        assert_eq!(
            Problem::read(StatusCode::UNPROCESSABLE_ENTITY, body).to_string(),
            "width: must be a multiple of 16"
        );
    }

    #[test]
    fn a_page_that_is_no_problem_leaves_the_status() {
        assert_eq!(Problem::read(StatusCode::NOT_FOUND, b"<html>").to_string(), "404 Not Found");
        assert_eq!(Problem::read(StatusCode::NOT_FOUND, br#"{"title":"Not found"}"#).to_string(), "Not found");
    }
}
