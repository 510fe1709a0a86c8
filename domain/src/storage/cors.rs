//! The bucket's CORS rules: which pages may read and write objects at presigned URLs. `object_store` does not know
//! them, so this sends the two requests itself, by presigned URLs.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{Method, StatusCode};
use md5::{Digest as _, Md5};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer as _};
use serde::{Deserialize, Serialize};

use super::{Storage, from_object_store};
use crate::{Error, Result};

const LIMIT: Duration = Duration::from_secs(30);
/// How long a browser may remember the rule, in seconds.
const MAX_AGE: u32 = 600;
/// What pages do at presigned URLs.
const METHODS: [&str; 2] = ["GET", "PUT"];

/// Which pages may send which requests to the bucket. Its names in JSON are those of Amazon's command line and of R2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(serialize = "PascalCase"))]
pub struct CorsRule {
    #[serde(alias = "AllowedOrigin")]
    pub allowed_origins: Vec<String>,
    #[serde(alias = "AllowedMethod")]
    pub allowed_methods: Vec<String>,
    #[serde(alias = "AllowedHeader", default)]
    pub allowed_headers: Vec<String>,
    #[serde(alias = "ExposeHeader", default)]
    pub expose_headers: Vec<String>,
    #[serde(alias = "MaxAgeSeconds", default)]
    pub max_age_seconds: u32,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(rename = "CORSRule", default)]
    rules: Vec<CorsRule>,
}

/// What the bucket says about its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// There are none, so no page of another origin may read or write.
    Missing,
    Rules(Vec<CorsRule>),
    /// The service does not say, or these keys may not ask.
    Unknown,
}

impl CorsRule {
    /// The rule with which pages of these origins read and write objects.
    pub fn of(origins: Vec<String>) -> Self {
        Self {
            allowed_origins: origins,
            allowed_methods: ["GET", "HEAD", "PUT"].map(str::to_owned).into(),
            allowed_headers: vec!["*".to_owned()],
            expose_headers: vec!["ETag".to_owned()],
            max_age_seconds: MAX_AGE,
        }
    }

    /// Whether pages of `origin` may read and write objects.
    pub fn allows(&self, origin: &str) -> bool {
        let fits = |pattern: &String| match pattern.split_once('*') {
            Some((start, end)) => {
                origin.len() >= start.len() + end.len() && origin.starts_with(start) && origin.ends_with(end)
            }
            None => pattern == origin,
        };
        let sends = |header: &String| header == "*" || header.eq_ignore_ascii_case("content-type");
        self.allowed_origins.iter().any(fits)
            && METHODS.iter().all(|method| self.allowed_methods.iter().any(|allowed| allowed == method))
            && self.allowed_headers.iter().any(sends)
    }

    fn xml(&self) -> String {
        let list = |name: &str, values: &[String]| -> String {
            values.iter().map(|value| format!("<{name}>{}</{name}>", quick_xml::escape::escape(value))).collect()
        };
        format!(
            "<CORSConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><CORSRule>{}{}{}{}<MaxAgeSeconds>{}\
             </MaxAgeSeconds></CORSRule></CORSConfiguration>",
            list("AllowedOrigin", &self.allowed_origins),
            list("AllowedMethod", &self.allowed_methods),
            list("AllowedHeader", &self.allowed_headers),
            list("ExposeHeader", &self.expose_headers),
            self.max_age_seconds
        )
    }
}

impl Storage {
    /// The bucket's rules. Errors: `Unavailable`.
    pub async fn cors(&self) -> Result<Cors> {
        let (status, text) = self.send_cors(Method::GET, String::new()).await?;
        match status {
            StatusCode::OK => match quick_xml::de::from_reader::<_, Configuration>(text.as_bytes()) {
                Ok(configuration) if configuration.rules.is_empty() => Ok(Cors::Missing),
                Ok(configuration) => Ok(Cors::Rules(configuration.rules)),
                Err(_) => Ok(Cors::Unknown),
            },
            StatusCode::NOT_FOUND if text.contains("NoSuchCORSConfiguration") => Ok(Cors::Missing),
            _ => Ok(Cors::Unknown),
        }
    }

    /// Replaces the bucket's rules by one. Returns whether the service took it.
    pub async fn set_cors(&self, rule: &CorsRule) -> Result<bool> {
        let (status, _) = self.send_cors(Method::PUT, rule.xml()).await?;
        Ok(status.is_success())
    }

    async fn send_cors(&self, method: Method, body: String) -> Result<(StatusCode, String)> {
        let options = SignedUrlOptions::default().with_query([("cors", String::new())]);
        let signed = self.bucket.signed_url_opts(method.clone(), &Path::default(), LIMIT, &options).await;
        let url = signed.map_err(|error| from_object_store("?cors", error))?;
        let http = outgoing::client().timeout(LIMIT).build().map_err(Error::internal)?;
        let mut request = http.request(method.clone(), url);
        if method == Method::PUT {
            // Amazon requires the digest.
            request = request.header("content-md5", BASE64_STANDARD.encode(Md5::digest(&body))).body(body);
        }
        // Without the URL, whose query is a signature.
        let answer = request.send().await.map_err(|error| Error::unavailable(error.without_url()))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| Error::unavailable(error.without_url()))?;
        Ok((status, text))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::StorageConfig;
    use super::super::tests::config;
    use super::*;

    #[test]
    fn a_rule_allows_the_origins_that_it_names() {
        let rule = CorsRule::of(vec!["https://*.example.com".to_owned(), "http://localhost:8080".to_owned()]);
        for origin in ["https://app.example.com", "http://localhost:8080"] {
            assert!(rule.allows(origin), "{origin}");
        }
        for origin in ["https://example.com", "http://app.example.com", "http://localhost:80", "https://evil.example"] {
            assert!(!rule.allows(origin), "{origin}");
        }
        let reading = CorsRule { allowed_methods: vec!["GET".to_owned()], ..rule.clone() };
        assert!(!reading.allows("http://localhost:8080"));
        let json = serde_json::to_value(&rule).unwrap();
        assert_eq!((&json["AllowedMethods"][2], &json["MaxAgeSeconds"]), (&"PUT".into(), &600.into()));
    }

    /// A bucket without rules that takes one; it notes the heads and bodies of requests.
    async fn bucket() -> (Storage, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        tokio::spawn(async move {
            let mut stored = None;
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let is_whole = |bytes: &[u8]| {
                    let text = String::from_utf8_lossy(bytes);
                    text.contains("\r\n\r\n") && (!text.starts_with("PUT") || text.ends_with("</CORSConfiguration>"))
                };
                while !is_whole(&request) {
                    socket.read_buf(&mut request).await.unwrap();
                }
                let request = String::from_utf8(request).unwrap();
                let (head, body) = request.split_once("\r\n\r\n").unwrap();
                if head.starts_with("PUT") {
                    stored = Some(body.to_owned());
                }
                let (status, answer) = match (&stored, head.starts_with("PUT")) {
                    (_, true) => ("200 OK", ""),
                    (Some(rules), false) => ("200 OK", rules.as_str()),
                    (None, false) => ("404 Not Found", "<Error><Code>NoSuchCORSConfiguration</Code></Error>"),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}",
                    answer.len()
                );
                notes.lock().unwrap().push(request);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (Storage::new(&StorageConfig { endpoint, public_endpoint: None, ..config() }).unwrap(), seen)
    }

    #[tokio::test]
    async fn rules_are_read_and_set() {
        let (storage, seen) = bucket().await;
        assert_eq!(storage.cors().await.unwrap(), Cors::Missing);
        let rule = CorsRule::of(vec!["https://a.example".to_owned(), "https://b.example".to_owned()]);
        assert!(storage.set_cors(&rule).await.unwrap());
        assert_eq!(storage.cors().await.unwrap(), Cors::Rules(vec![rule]));
        let seen = seen.lock().unwrap();
        assert!(seen[0].starts_with("GET /pyrograph/?cors") && seen[0].contains("X-Amz-Signature="), "{}", seen[0]);
        assert!(seen[1].to_lowercase().contains("content-md5: "), "{}", seen[1]);
    }
}
