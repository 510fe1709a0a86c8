//! `/s3`: the bucket of `pyrograph up` below the API's own address, so that one address is all that clients and proxies
//! need to know. Presigned URLs are made for the bucket's own address and moved here (`Storage::through`). This module
//! passes a request on to that address as it was signed, even if a proxy has changed host and path.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::uri::Scheme;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use url::Url;

use crate::names::Names;
use crate::problem::{Problem, Result};
use crate::proxies::Client;

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
/// Headers of a response that are about the connection to the bucket, or would act in the API's name.
const KEPT_BACK: &[&str] = &["connection", "transfer-encoding", "date", "set-cookie"];

/// Headers that an answer without a body does not have.
const OF_THE_BODY: [header::HeaderName; 4] =
    [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_RANGE, header::CONTENT_DISPOSITION];

/// Types that a browser may show at the API's own address. Any other file is one to save.
const SHOWN: [&str; 3] = ["image/jpeg", "image/png", "image/webp"];
const OTHER: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// The type of what the bucket says about a request that it refuses.
const REFUSAL: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

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
    pub(crate) fn address(names: &Names, request: &Parts) -> Option<Url> {
        let root = match &names.public_url {
            Some(public) => public.as_str().to_owned(),
            None => {
                let host = match request.uri.authority() {
                    Some(authority) => authority.as_str(),
                    None => request.headers.get(header::HOST)?.to_str().ok()?,
                };
                let forwarded = Client::of(&request.extensions).and_then(|client| client.scheme.as_ref());
                format!("{}://{host}", forwarded.or(request.uri.scheme()).unwrap_or(&Scheme::HTTP))
            }
        };
        Url::parse(&format!("{root}{PATH}")).ok()
    }

    /// Sends the request to the bucket as it was signed, and returns the answer as it arrives. A cookie has no effect.
    pub(crate) async fn pass_on(&self, request: Request) -> Result<Response> {
        let mut response = self.answer(request).await?;
        disarm(&mut response);
        Ok(response)
    }

    async fn answer(&self, request: Request) -> Result<Response> {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let target = target.strip_prefix(PATH).unwrap_or_default();
        if !request.uri().query().is_some_and(|query| query.contains(SIGNATURE)) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "Files are read at their signed URLs, as the API returns them.",
            ));
        }
        let mut headers: HeaderMap = request
            .headers()
            .iter()
            .filter(|(name, _)| PASSED_ON.contains(&name.as_str()) || name.as_str().starts_with("x-amz-"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let method = request.method().clone();
        let (reads, writes) = (method == Method::GET || method == Method::HEAD, method == Method::PUT);
        // Anything but one range of bytes is ignored (RFC 9110, section 14.2); the bucket would refuse it.
        if let Some(range) = one_range(&headers) {
            headers.insert(header::RANGE, range);
        } else {
            headers.remove(header::RANGE);
        }
        // The answer is compared here, where its ETag is known.
        let known: Vec<HeaderValue> = headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect();
        if reads {
            headers.remove(header::IF_NONE_MATCH);
        }
        let address = format!("{}{target}", self.endpoint);
        let mut sent = self.http.request(method.clone(), &address).headers(headers.clone());
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
        if reads && answer.status().is_success() && is_one_of(answer.headers().get(header::ETAG), &known) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            for name in OF_THE_BODY {
                response.headers_mut().remove(name);
            }
            return Ok(response);
        }
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE
            && let Some(size) = self.size(method, &address, headers).await
        {
            response.headers_mut().insert(header::CONTENT_RANGE, size);
        }
        *response.body_mut() = Body::from_stream(answer.bytes_stream());
        Ok(response)
    }

    /// The size of a file, as a range that it does not have is answered. The URL is signed for `method`, so the file is
    /// asked for as a whole, and its bytes are not read.
    async fn size(&self, method: Method, address: &str, mut headers: HeaderMap) -> Option<HeaderValue> {
        headers.remove(header::RANGE);
        let answer = self.http.request(method, address).headers(headers).send().await.ok()?;
        let size = answer.headers().get(header::CONTENT_LENGTH).filter(|_| answer.status().is_success())?;
        HeaderValue::from_str(&format!("bytes */{}", size.to_str().ok()?)).ok()
    }
}

/// What users stored is shown at the API's own address, and must not act in its name.
fn disarm(response: &mut Response) {
    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    if status == StatusCode::NOT_MODIFIED {
        return;
    }
    if !status.is_success() {
        headers.insert(header::CONTENT_TYPE, REFUSAL);
        return;
    }
    let given = headers.get(header::CONTENT_TYPE).map(|given| given.as_bytes().to_ascii_lowercase());
    let is_shown = given.is_some_and(|given| SHOWN.iter().any(|shown| shown.as_bytes() == given));
    let file_name = headers.get(header::CONTENT_DISPOSITION).and_then(|given| given.to_str().ok()?.split_once(';'));
    let kind = if is_shown { "inline" } else { "attachment" };
    let disposition = file_name.map_or(kind.to_owned(), |(_, file_name)| format!("{kind};{file_name}"));
    let disposition = HeaderValue::try_from(disposition).unwrap_or(HeaderValue::from_static("attachment"));
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    if !is_shown {
        headers.insert(header::CONTENT_TYPE, OTHER);
    }
}

/// The range that is asked for, if it is one of bytes (RFC 9110, section 14.1.2).
fn one_range(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut ranges = headers.get_all(header::RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return None };
    let (unit, range) = range.to_str().ok()?.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let position = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let is_valid = match (first, last) {
        ("", last) => position(last).is_some(),
        (first, "") => position(first).is_some(),
        (first, last) => position(first)? <= position(last)?,
    };
    let is_valid = is_valid && unit.trim().eq_ignore_ascii_case("bytes");
    is_valid.then(|| HeaderValue::from_str(&format!("bytes={first}-{last}")).ok())?
}

/// Whether the client has the file with this ETag already: `If-None-Match` of RFC 9110, section 13.1.2.
fn is_one_of(etag: Option<&HeaderValue>, known: &[HeaderValue]) -> bool {
    let weak = |etag: &str| etag.trim().trim_start_matches("W/").to_owned();
    let Some(etag) = etag.and_then(|etag| etag.to_str().ok()).map(weak) else { return false };
    // ETags of a bucket hold no comma.
    let mut known = known.iter().filter_map(|known| known.to_str().ok()).flat_map(|known| known.split(','));
    known.any(|known| known.trim() == "*" || weak(known) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_passed_on() {
        for (range, passed_on) in [
            ("bytes=0-9", Some("bytes=0-9")),
            ("Bytes = 5-", Some("bytes=5-")),
            ("bytes=-3", Some("bytes=-3")),
            ("bytes=9-9", Some("bytes=9-9")),
            ("bytes=9-8", None),
            ("bytes=0-1,4-5", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("bytes=a-b", None),
            ("bytes=0-99999999999999999999", None),
            ("items=0-9", None),
            ("bytes", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(range))]);
            let passed_on = passed_on.map(HeaderValue::from_static);
            assert_eq!(one_range(&headers), passed_on, "{range:?}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        twice.append(header::RANGE, HeaderValue::from_static("bytes=4-5"));
        assert_eq!(one_range(&twice), None);
    }

    #[test]
    fn an_etag_is_found_among_several() {
        let etag = HeaderValue::from_static("\"a1\"");
        for (known, is_known) in
            [("\"a1\"", true), ("W/\"a1\"", true), ("\"b\", \"a1\"", true), ("*", true), ("\"a\"", false), ("", false)]
        {
            assert_eq!(is_one_of(Some(&etag), &[HeaderValue::from_static(known)]), is_known, "{known}");
        }
        assert!(!is_one_of(Some(&etag), &[]) && !is_one_of(None, &[HeaderValue::from_static("*")]));
    }
}
