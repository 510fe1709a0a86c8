//! Secrets: from a variable, or from the file that the same variable with `_FILE` names, as containers are given them.

use crate::configuration::variable;
use crate::failure::Failure;

/// The secrets that may be in files.
pub(crate) const SECRETS: [&str; 10] = [
    "DATABASE_URL",
    "PYROGRAPH_DATABASE_DIRECT_URL",
    "PYROGRAPH_S3_ACCESS_KEY_ID",
    "PYROGRAPH_S3_SECRET_ACCESS_KEY",
    "PYROGRAPH_ARCHIVE_S3_ACCESS_KEY_ID",
    "PYROGRAPH_ARCHIVE_S3_SECRET_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "PYROGRAPH_KEY",
];

/// The secret `name`, one of [`SECRETS`], without the line break at the end of its file.
///
/// # Errors
/// Both are set, or the file is unreadable or empty.
pub(crate) fn secret(name: &'static str) -> Result<Option<String>, Failure> {
    debug_assert!(SECRETS.contains(&name), "{name} is not documented");
    let file_variable = format!("{name}_FILE");
    let Some(path) = variable(&file_variable) else { return Ok(variable(name)) };
    if variable(name).is_some() {
        return Err(Failure::Usage(format!("{name} and {file_variable} are both set; remove one of them")));
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Failure::Usage(format!("{file_variable}: cannot read {path}: {error}")))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Failure::Usage(format!("{file_variable}: {path} is empty")));
    }
    Ok(Some(text.to_owned()))
}
