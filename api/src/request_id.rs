//! The ids by which a client finds its request in our log: `X-Request-Id`, and the `traceparent` of W3C Trace Context.
//! Both are taken from the client if they are valid, since they are written to the log.

use std::fmt;

use axum::http::HeaderValue;
use uuid::Uuid;

/// Longest id that is taken.
const MAX_CHARS: usize = 128;

/// The id of a request: the client's, or a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// The client's id, if it has only characters that ids have.
    pub(crate) fn read(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=~@".contains(&byte);
        ((1..=MAX_CHARS).contains(&text.len()) && text.bytes().all(fits)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A valid `traceparent`: `00-<trace>-<parent>-<flags>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    trace: String,
    flags: String,
}

impl TraceParent {
    pub(crate) fn read(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let mut fields = text.split('-');
        let mut field = |length: usize| {
            fields.next().filter(|field| {
                field.len() == length
                    && field.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            })
        };
        let (version, trace, parent, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let is_zero = |field: &str| field.bytes().all(|byte| byte == b'0');
        // A later version may have more fields.
        let ended = fields.next().is_none() || version != "00";
        (version != "ff" && !is_zero(trace) && !is_zero(parent) && ended)
            .then(|| Self { trace: trace.to_owned(), flags: flags.to_owned() })
    }

    pub(crate) fn trace(&self) -> &str {
        &self.trace
    }

    /// The same trace with a new id for our part of it.
    pub(crate) fn answer(&self) -> String {
        // The second half of an id of version 7 is random and never zero.
        let part = Uuid::now_v7().as_u64_pair().1;
        format!("00-{}-{part:016x}-{}", self.trace, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_bytes(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_id_of_the_client_is_taken_if_a_log_can_hold_it() {
        for text in ["a", "0190b7a2-7c5e", "Root=1-67891233-abcdef012345678912345678", "req_123:4/5", &"x".repeat(128)]
        {
            assert_eq!(RequestId::read(&header(text)).unwrap().as_str(), text);
        }
        for text in ["", "a b", "a\"b", "ä", "a;b", "\u{1b}[31m", &"x".repeat(129)] {
            assert_eq!(
                RequestId::read(&HeaderValue::from_bytes(text.as_bytes()).unwrap_or(header("a b"))),
                None,
                "{text}"
            );
        }
    }

    #[test]
    fn a_trace_goes_on_under_a_new_part() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceParent::read(&header(given)).unwrap();
        assert_eq!(trace.trace(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let answer = trace.answer();
        assert_eq!(TraceParent::read(&header(&answer)), Some(trace));
        assert_ne!(answer, given);
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::read(&header(text)), None, "{text}");
        }
    }
}
