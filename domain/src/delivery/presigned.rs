//! URLs that give everyone who has them access to something. The query is the secret, and is stored separately.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use outgoing::{Guard, GuardError};
use url::Url;

use crate::{Error, Result};

/// Longest URL, in bytes.
const MOST_BYTES: usize = 8192;
/// How long a URL must be valid when it is sent to us: a job may be done that soon.
const LEAST_VALIDITY: TimeDelta = TimeDelta::minutes(1);

/// A URL whose query is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl {
    stated: String,
    url: Url,
}

impl SecretUrl {
    /// Reads what a client has sent in `field`. Errors: `Invalid` for a text that is no URL, a scheme other than
    /// `https` or `http`, a user name or password, a fragment, a host that `guard` refuses, and a presigned URL that
    /// has expired or expires soon.
    pub fn parse(field: &str, text: &str, guard: &Guard) -> Result<Self> {
        let invalid = |message: &str| Error::invalid(field, message);
        if text.len() > MOST_BYTES {
            return Err(invalid("It is longer than 8192 bytes."));
        }
        let url =
            Url::parse(text).map_err(|_| invalid("It is not a URL such as `https://example.com/picture.jpg`."))?;
        if !["https", "http"].contains(&url.scheme()) {
            return Err(invalid("Its scheme is neither `https` nor `http`."));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("It carries a user name or a password."));
        }
        if url.fragment().is_some() {
            return Err(invalid("It has a fragment (`#…`), which is not sent."));
        }
        if let Err(GuardError::Forbidden(why)) = guard.vet(&url) {
            return Err(invalid(why));
        }
        if let Some(expiry) = expiry(&url) {
            let left = expiry - Utc::now();
            if left <= TimeDelta::zero() {
                return Err(invalid(&format!("It expired at {}.", expiry.format("%FT%TZ"))));
            }
            if left < LEAST_VALIDITY {
                let message = format!(
                    "It expires at {}, in less than a minute; the picture may take longer.",
                    expiry.format("%FT%TZ")
                );
                return Err(invalid(&message));
            }
        }
        Ok(Self { stated: text.to_owned(), url })
    }

    /// From the two parts that are stored.
    pub(crate) fn join(address: &str, query: Option<&str>) -> Result<Self> {
        let mut url = Url::parse(address).map_err(Error::internal)?;
        url.set_query(query);
        Ok(Self { stated: url.to_string(), url })
    }

    /// The URL without its query.
    pub fn address(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.into()
    }

    /// The query.
    pub(crate) fn query(&self) -> Option<&str> {
        self.url.query()
    }

    /// The whole URL, to send to.
    pub fn reveal(&self) -> &Url {
        &self.url
    }

    /// The whole URL as it was written, for the answer to the request that stated it.
    pub fn as_stated(&self) -> &str {
        &self.stated
    }
}

/// Without the query.
impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretUrl").field(&self.address()).finish()
    }
}

/// When a presigned URL expires: signatures of Amazon (version 4 and, as a number of seconds, 2) and of Google.
/// `None` for any other URL.
fn expiry(url: &Url) -> Option<DateTime<Utc>> {
    let parameter = |name: &str| {
        let mut pairs = url.query_pairs();
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.into_owned())
    };
    for vendor in ["X-Amz", "X-Goog"] {
        if let (Some(date), Some(seconds)) =
            (parameter(&format!("{vendor}-Date")), parameter(&format!("{vendor}-Expires")))
        {
            let signed_at = NaiveDateTime::parse_from_str(&date, "%Y%m%dT%H%M%SZ").ok()?.and_utc();
            return signed_at.checked_add_signed(TimeDelta::try_seconds(seconds.parse().ok()?)?);
        }
    }
    parameter("Signature")?;
    DateTime::from_timestamp(parameter("Expires")?.parse().ok()?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        match SecretUrl::parse("upload_url", url, &Guard::default()) {
            Err(Error::Invalid { field, message }) if field == "upload_url" => message,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn what_is_no_url_to_send_to_is_refused() {
        for (url, because) in [
            ("", "not a URL"),
            ("picture.jpg", "not a URL"),
            ("ftp://example.com/a", "scheme"),
            ("file:///etc/passwd", "scheme"),
            ("data:,x", "scheme"),
            ("https://me:secret@example.com/a", "user name"),
            ("https://me@example.com/a", "user name"),
            ("https://example.com/a#b", "fragment"),
            ("http://example.com/a", "https"),
            ("https://10.0.0.1/a", "public internet"),
            ("https://box.local/a", "public internet"),
            (&format!("https://example.com/{}", "a".repeat(8192)), "8192"),
        ] {
            let message = refusal(url);
            assert!(message.contains(because), "{url}: {message}");
            assert!(!message.contains("secret"));
        }
    }

    #[test]
    fn a_presigned_url_must_live_for_a_minute() {
        let at = |offset: i64| (Utc::now() + TimeDelta::seconds(offset)).format("%Y%m%dT%H%M%SZ").to_string();
        let amazon = |date: &str, seconds: &str| {
            format!("https://b.example.com/k?X-Amz-Date={date}&X-Amz-Expires={seconds}&X-Amz-Signature=ab")
        };
        let google = |date: &str| format!("https://g.example.com/k?x-goog-date={date}&x-goog-expires=600");
        assert!(refusal(&amazon(&at(-7200), "3600")).contains("expired at"));
        assert!(refusal(&amazon(&at(-3570), "3600")).contains("less than a minute"));
        assert!(refusal(&google(&at(-601))).contains("expired at"));
        assert!(refusal("https://b.example.com/k?Expires=1700000000&Signature=x").contains("expired at"));
        let local = Guard::new(vec!["127.0.0.1".parse().unwrap()]);
        for url in [
            &amazon(&at(0), "3600"),
            // Not a date: the endpoint will say what it thinks of it.
            &amazon("yesterday", "3600"),
            &amazon(&at(0), "99999999999999999999"),
            &google(&at(0)),
            // An `Expires` without a signature.
            "https://b.example.com/k?Expires=1700000000",
            "http://127.0.0.1:9000/b/k",
        ] {
            SecretUrl::parse("upload_url", url, &local).unwrap();
        }
    }

    #[test]
    fn the_query_is_kept_apart_and_not_shown() {
        let url =
            SecretUrl::parse("upload_url", "https://example.com/a%20b?sig=s3cret&x=%2F", &Guard::default()).unwrap();
        assert_eq!(url.address(), "https://example.com/a%20b");
        assert!(!format!("{url:?}").contains("s3cret"));
        let again = SecretUrl::join(&url.address(), url.query()).unwrap();
        assert_eq!(again.reveal().as_str(), "https://example.com/a%20b?sig=s3cret&x=%2F");
    }
}
