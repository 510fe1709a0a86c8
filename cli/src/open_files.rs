//! How many files this process may open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Some systems allow a billion, for which programs below us would make room.
const ENOUGH: u64 = 65_536;

/// Raises the limit of this process to what the system allows it. Login shells often allow 1024 only.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => tracing::debug!(from = current, to = wanted, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays at {}", current.unwrap_or_default()),
    }
}
