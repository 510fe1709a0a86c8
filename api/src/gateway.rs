//! `/s3`: the bucket of `pyrograph up` below the API's own address, so that one address is all that clients and proxies
//! need to know. Presigned URLs are made for the bucket's own address and moved here (`Storage::through`). This module
//! passes a request on to that address as it was signed, even if a proxy has changed host and path.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::Scheme;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use url::Url;

use crate::names::Names;
use crate::problem::{Problem, Result};

const PATH: &str = "/s3";
const SIGNATURE: &str = "X-Amz-Signature=";
/// Longest silence of the bucket.
const SILENCE: Duration = Duration::from_mins(1);

/// Headers of a request that reach the bucket. `Authorization` does not: it is for the proxy before the API.
const PASSED_ON: &[&str] = &[
    "accept",
    "content-length",
    "content-md5",
    "content-type",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "range",
];
/// Headers of a response that are about the connection to the bucket.
const KEPT_BACK: &[&str] = &["connection", "transfer-encoding", "date"];

/// The way to the bucket. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Gateway {
    http: reqwest::Client,
    endpoint: String,
}

/// Whether the address belongs to the bucket.
pub(crate) fn is_below(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.starts_with('/'))
}

impl Gateway {
    /// # Errors
    /// The HTTP client cannot be built.
    pub(crate) fn new(endpoint: &str) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(SILENCE)
            .build()?;
        Ok(Self { http, endpoint: endpoint.trim_end_matches('/').to_owned() })
    }

    /// Where a client that sent this request reaches the bucket: at the public address, else where it sent the request.
    pub(crate) fn address(names: &Names, uri: &axum::http::Uri, headers: &HeaderMap) -> Option<Url> {
        let root = match &names.public_url {
            Some(public) => public.as_str().to_owned(),
            None => {
                let host = match uri.authority() {
                    Some(authority) => authority.as_str(),
                    None => headers.get(header::HOST)?.to_str().ok()?,
                };
                format!("{}://{host}", uri.scheme().unwrap_or(&Scheme::HTTP))
            }
        };
        Url::parse(&format!("{root}{PATH}")).ok()
    }

    /// Sends the request to the bucket as it was signed, and returns the answer as it arrives.
    pub(crate) async fn pass_on(&self, request: Request) -> Result<Response> {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let target = target.strip_prefix(PATH).unwrap_or_default();
        if !request.uri().query().is_some_and(|query| query.contains(SIGNATURE)) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "Files are read at their signed URLs, as the API returns them.",
            ));
        }
        let headers: HeaderMap = request
            .headers()
            .iter()
            .filter(|(name, _)| PASSED_ON.contains(&name.as_str()) || name.as_str().starts_with("x-amz-"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let writes = request.method() == Method::PUT;
        let address = format!("{}{target}", self.endpoint);
        let mut sent = self.http.request(request.method().clone(), address).headers(headers);
        if writes {
            sent = sent.body(reqwest::Body::wrap_stream(request.into_body().into_data_stream()));
        }
        let answer = sent.send().await.map_err(|error| domain::Error::unavailable(error.without_url()))?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        for (name, value) in answer.headers() {
            if !KEPT_BACK.contains(&name.as_str()) {
                response.headers_mut().append(name.clone(), value.clone());
            }
        }
        // What users stored is shown at the API's own address, and must not act in its name.
        let policy = HeaderValue::from_static("sandbox; default-src 'none'");
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        *response.body_mut() = Body::from_stream(answer.bytes_stream());
        Ok(response)
    }
}
