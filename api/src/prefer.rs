//! `Prefer: wait=N` (RFC 7240 §4.3): how long a client would like to wait for the end of what it creates.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Longest wait that is granted, in seconds.
pub(crate) const MAX_WAIT: u64 = 60;
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The wait that is granted. Preferences that are not understood are ignored, as the RFC requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait(u64);

impl Wait {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(PREFER)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split([',', ';']))
            .filter_map(|preference| preference.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
            .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
            .map(|seconds: u64| Self(seconds.min(MAX_WAIT)))
    }

    pub(crate) fn limit(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// Value of `Preference-Applied`.
    pub(crate) fn applied(self) -> HeaderValue {
        HeaderValue::from_maybe_shared(format!("wait={}", self.0)).unwrap_or(HeaderValue::from_static("wait"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_understands() {
        for (value, wait) in [
            ("wait=10", Some(10)),
            ("respond-async, wait=5", Some(5)),
            ("Wait = \"7\"", Some(7)),
            ("wait=3600", Some(MAX_WAIT)),
            ("wait=-1", None),
            ("wait", None),
            ("handling=strict", None),
        ] {
            let headers = HeaderMap::from_iter([(PREFER, HeaderValue::from_static(value))]);
            assert_eq!(Wait::from_headers(&headers), wait.map(Wait), "{value}");
        }
    }
}
