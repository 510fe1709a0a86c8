//! The client of the bucket: its time limits, the certificates and proxies of [`outgoing`], and when temporary keys
//! expire.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};
use object_store::{ClientConfigKey, ClientOptions, RetryConfig};

use super::StorageConfig;
use crate::{Error, Result};

/// Longest wait for a connection. Where there is no metadata service, nothing answers.
const CONNECT: Duration = Duration::from_secs(5);

/// When the current keys expire, as seconds since 1970; `i64::MAX` for keys that do not, as far as we know.
#[derive(Clone, Debug)]
pub(super) struct Expiry(Arc<AtomicI64>);

impl Default for Expiry {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }
}

impl Expiry {
    /// The time until then.
    pub(super) fn left(&self) -> Duration {
        let seconds = self.0.load(Ordering::Relaxed).saturating_sub(Utc::now().timestamp());
        Duration::from_secs(seconds.max(0).unsigned_abs())
    }
}

/// Makes a client of the bucket at `endpoint`. Clients that share `credentials` renew temporary keys once for all.
pub(super) fn connect(
    config: &StorageConfig,
    endpoint: &str,
    silence: Duration,
    expiry: &Expiry,
    credentials: Option<AwsCredentialProvider>,
) -> Result<AmazonS3> {
    let bucket = AmazonS3Builder::new()
        .with_http_connector(Connector {
            silence,
            bucket: endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.authority().cloned()),
            expiry: expiry.clone(),
        })
        .with_endpoint(endpoint)
        .with_allow_http(endpoint.starts_with("http://"))
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_retry(RetryConfig { max_retries: 5, retry_timeout: Duration::from_secs(20), ..RetryConfig::default() });
    let bucket = match credentials {
        Some(credentials) => bucket.with_credentials(credentials),
        None => config.keys.apply(bucket),
    };
    bucket.build().map_err(Error::internal)
}

#[derive(Debug)]
struct Connector {
    silence: Duration,
    /// Host and port of the bucket. Other servers are asked for keys only.
    bucket: Option<http::uri::Authority>,
    expiry: Expiry,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let http = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|allowed| allowed == "true");
        let client = outgoing::client()
            .connect_timeout(CONNECT)
            .read_timeout(self.silence)
            .https_only(!http)
            .build()
            .map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
        let client = HttpClient::new(client);
        Ok(HttpClient::new(Client { client, bucket: self.bucket.clone(), expiry: self.expiry.clone() }))
    }
}

#[derive(Debug)]
struct Client {
    client: HttpClient,
    bucket: Option<http::uri::Authority>,
    expiry: Expiry,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let asks_for_keys = request.uri().authority() != self.bucket.as_ref();
        let response = self.client.execute(request).await?;
        if !asks_for_keys {
            return Ok(response);
        }
        // object_store renews the keys in time, but does not show when they expire.
        let (parts, body) = response.into_parts();
        let body = body.bytes().await?;
        if let Some(expires) = expiration(&body) {
            self.expiry.0.store(expires.timestamp(), Ordering::Relaxed);
        }
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// The time in `"Expiration": "…"` or `<Expiration>…</Expiration>`.
fn expiration(body: &[u8]) -> Option<DateTime<Utc>> {
    let (_, rest) = std::str::from_utf8(body).ok()?.split_once("Expiration")?;
    let rest = rest.trim_start_matches(|character: char| !character.is_ascii_digit());
    let time = rest.split(['"', '<']).next()?;
    DateTime::parse_from_rfc3339(time).ok().map(|time| time.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiration_is_found_in_json_and_xml() {
        let time = Some("2026-11-29T12:00:00Z".parse().unwrap());
        assert_eq!(expiration(br#"{"Token" : "t", "Expiration" : "2026-11-29T12:00:00Z"}"#), time);
        assert_eq!(expiration(b"<c><Expiration>2026-11-29T12:00:00.000Z</Expiration></c>"), time);
        for none in [&b"a-token"[..], b"{\"Expiration\": null}", b"\xff"] {
            assert_eq!(expiration(none), None);
        }
    }
}
