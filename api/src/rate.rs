//! How many requests a key may send per second, or an account of the Hugging Face Hub with all its tokens. Each server
//! counts for itself; the quotas of projects (`domain`) hold for all of them together. Requests without either, and
//! those with the key that `up` made for its user's commands, are not counted.
//!
//! Answers state the rest, as in draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy: "key";q=100;w=2`
//! (100 requests in 2 seconds) and `RateLimit: "key";r=99;t=1` (99 left, in a second there are more); `"account"` for
//! an account.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use domain::Principal;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use crate::problem::{Problem, Result};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// How many requests a key or an account may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// On average.
    pub per_second: NonZeroU32,
    /// At once, after a pause.
    pub burst: NonZeroU32,
}

/// Counts the requests of each key and account. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Rates {
    rate: Rate,
    senders: Arc<RateLimiter<Principal, DefaultKeyedStateStore<Principal>, DefaultClock, StateInformationMiddleware>>,
}

/// What its sender has left after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    sender: &'static str,
    rate: Rate,
    requests: u32,
}

/// Where the extractor of the caller leaves what the caller has left, for the headers of the response.
#[derive(Clone, Default)]
struct Slot(Arc<OnceLock<Left>>);

impl Rates {
    pub(crate) fn new(rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let senders = RateLimiter::keyed(quota).with_middleware::<StateInformationMiddleware>();
        Self { rate, senders: Arc::new(senders) }
    }

    /// Counts a request. Errors: 429 if there were too many.
    pub(crate) fn count(&self, principal: &Principal, parts: &Parts) -> Result<()> {
        let sender = if matches!(principal, Principal::Hub(_)) { "account" } else { "key" };
        let counted = self.senders.check_key(principal);
        let requests = counted.as_ref().map_or(0, governor::middleware::StateSnapshot::remaining_burst_capacity);
        if let Some(Slot(slot)) = parts.extensions.get() {
            let _ = slot.set(Left { sender, rate: self.rate, requests });
        }
        counted.map(drop).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            let Rate { per_second, burst } = self.rate;
            let message = format!("The {sender} may send {per_second} requests per second, and {burst} at once.");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(wait.as_secs() + 1)
        })
    }
}

/// Adds to a response what the sender of its request has left.
pub(crate) async fn report(mut request: Request, next: Next) -> Response {
    let slot = Slot::default();
    request.extensions_mut().insert(slot.clone());
    let mut response = next.run(request).await;
    if let Some(left) = slot.0.get() {
        for (name, value) in left.headers() {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
    }
    response
}

impl Left {
    fn headers(self) -> [(HeaderName, String); 2] {
        let Self { sender, rate: Rate { per_second, burst }, requests } = self;
        let window = burst.get().div_ceil(per_second.get());
        [(POLICY, format!(r#""{sender}";q={burst};w={window}"#)), (LIMIT, format!(r#""{sender}";r={requests};t=1"#))]
    }
}

#[cfg(test)]
mod tests {
    use domain::KeyId;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second: NonZeroU32::new(per_second).unwrap(), burst: NonZeroU32::new(burst).unwrap() }
    }

    #[test]
    fn a_burst_is_served_and_each_sender_counts_for_itself() {
        let rates = Rates::new(rate(1, 3));
        let (mut parts, ()) = Request::new(()).into_parts();
        let slot = Slot::default();
        parts.extensions.insert(slot.clone());
        let (one, other) = (Principal::Key(KeyId::new()), Principal::Hub("jane".into()));
        for _ in 0..3 {
            rates.count(&one, &parts).unwrap();
        }
        assert_eq!(rates.count(&one, &parts).unwrap_err().status, 429);
        rates.count(&other, &parts).unwrap();
        assert_eq!(slot.0.get().unwrap().requests, 2, "after the first request");
    }

    #[test]
    fn headers_have_the_form_of_the_draft() {
        let [(_, policy), (_, limit)] = Left { sender: "key", rate: rate(40, 100), requests: 7 }.headers();
        assert_eq!((policy.as_str(), limit.as_str()), (r#""key";q=100;w=3"#, r#""key";r=7;t=1"#));
    }
}
