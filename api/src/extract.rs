//! How requests are read: JSON bodies, paths, queries and multipart forms, each refused with a problem that names the
//! field. A NUL character is refused here once for all, since Postgres cannot keep one.

use std::borrow::Cow;
use std::io::Read as _;
use std::num::{IntErrorKind, ParseIntError};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::multipart::{self, MultipartError, MultipartRejection};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use domain::{MAX_LIMIT, PageRequest};
use flate2::read::MultiGzDecoder;
use futures::{StreamExt, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_path_to_error::{Path as FieldPath, Segment};
use tokio::sync::Mutex;

use crate::arriving::TooSlow;
use crate::limits::GENERATION_LIMIT;
use crate::problem::{Problem, Result};
use crate::{project_choice, wording};

/// Time for a JSON body to arrive, or for the next piece of a form.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a refused body that are still read, so that the client receives the response.
const DRAINED: usize = 64 * 1024 * 1024;
/// Most problems that are reported of a body.
const MOST_PROBLEMS: usize = 16;

/// A JSON body.
pub(crate) struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        if !is_json(request.headers()) {
            return Err(not_json());
        }
        read_json(&whole_body(request, state).await?).map(Self)
    }
}

/// A JSON body that may be left out, or be `null`.
pub(crate) struct OptionalJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let json = is_json(request.headers());
        let body = whole_body(request, state).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        if !json {
            return Err(not_json());
        }
        match body.trim_ascii() {
            b"null" => Ok(Self(T::default())),
            body => read_json(body).map(Self),
        }
    }
}

/// How the bytes of a body are encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// Any other encoding is refused, instead of being read as JSON that it is not.
    fn of(headers: &HeaderMap) -> Result<Self> {
        let mut coding = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for name in value.to_str().unwrap_or("?").split(',').map(str::trim) {
                coding = match (coding, name.to_ascii_lowercase().as_str()) {
                    (coding, "" | "identity") => coding,
                    (Self::Identity, "gzip" | "x-gzip") => Self::Gzip,
                    _ => {
                        let message = format!("`{name}` is not read here; send JSON as it is or as `gzip`.");
                        return Err(Problem::field(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Encoding", message));
                    }
                };
            }
        }
        Ok(coding)
    }
}

async fn whole_body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes> {
    let coding = Coding::of(request.headers())?;
    let (head, body) = request.into_parts();
    let pieces = Arc::new(Mutex::new(body.into_data_stream()));
    let read = stream::unfold(Arc::clone(&pieces), |pieces| async move {
        let piece = pieces.lock().await.next().await?;
        Some((piece, pieces))
    });
    let request = Request::from_parts(head.clone(), Body::from_stream(read));
    let whole = tokio::time::timeout(PATIENCE, Bytes::from_request(request, state)).await.map_err(|_| too_slow())?;
    if whole.is_err() {
        drain(&mut *pieces.lock().await).await;
    }
    match coding {
        Coding::Identity => Ok(whole?),
        // Read once more, so that the limit of the route applies to the unpacked bytes too.
        Coding::Gzip => {
            let unpacked = Body::from(unpacked(&whole?)?);
            Ok(Bytes::from_request(Request::from_parts(head, unpacked), state).await?)
        }
    }
}

/// The bytes in a gzip stream, one more than any route takes at most.
fn unpacked(packed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let unpacked = MultiGzDecoder::new(packed).take(GENERATION_LIMIT as u64 + 1).read_to_end(&mut bytes);
    unpacked.map(|_| bytes).map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "The body is not a gzip stream."))
}

/// Reads on for a moment: a client that is still sending would otherwise see a broken connection instead of the
/// response.
pub(crate) async fn drain(rest: &mut BodyDataStream) {
    let drain = async {
        let mut left = DRAINED;
        while let Some(Ok(piece)) = rest.next().await
            && left > 0
        {
            left = left.saturating_sub(piece.len());
        }
    };
    let _ = tokio::time::timeout(PATIENCE, drain).await;
}

fn not_json() -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send the body as JSON, with `Content-Type: application/json`.")
}

/// Whether the Content-Type of the body is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let Some(media_type) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    // A byte order mark: RFC 8259, section 8.1 lets readers skip it.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if has_nul(body) {
        return Err(nul_problem(body));
    }
    // serde would also accept an array with the fields in order.
    if body.trim_ascii_start().first() != Some(&b'{') && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "The body has to be a JSON object, `{…}`."));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, error) = (error.path().clone(), error.into_inner());
        let whole = serde_json::from_slice(body).ok();
        if let Some(message) = whole.clone().and_then(|body| names::<T>(body, &path)) {
            let first = Problem::field(StatusCode::UNPROCESSABLE_ENTITY, path.to_string(), message);
            return with_others::<T>(first, whole, &path, "");
        }
        let first = match error.classify() {
            serde_json::error::Category::Data => {
                let message = error.to_string();
                // The position in the text is of no use to a client that knows the field.
                let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
                return with_others::<T>(wrong_field(&path, message), whole, &path, message);
            }
            // The codes are those of Unicode, so that the text is JSON (RFC 8259, section 8.2), but not a text.
            _ if wording::is_half_a_pair(&error.to_string()) => wrong_field(&path, wording::HALF_A_PAIR),
            // serde_json takes a number or a list for bad syntax where a name is expected.
            _ if whole.is_some() => wrong_field(&path, wording::NO_NAME),
            _ => Problem::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}.")),
        };
        with_others::<T>(first, whole, &path, "")
    })?;
    json.end().map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}.")))?;
    Ok(value)
}

/// What a field that takes one of a few names takes, if it is at `path` and its value is no text; serde does not say.
fn names<T: DeserializeOwned>(mut body: Value, path: &FieldPath) -> Option<String> {
    let value = at(&mut body, path.iter())?;
    if value.is_string() {
        return None;
    }
    // No name is empty, so that the message lists the names.
    *value = Value::String(String::new());
    let error = serde_path_to_error::deserialize::<_, T>(&body).err()?;
    let message = error.inner().to_string();
    let names = message.strip_prefix("unknown variant ``, expected ")?;
    (error.path().to_string() == path.to_string()).then(|| format!("It has to be {names}."))
}

/// The value at a path.
fn at<'a>(body: &'a mut Value, mut path: impl Iterator<Item = &'a Segment>) -> Option<&'a mut Value> {
    path.try_fold(body, |value, segment| match segment {
        Segment::Map { key } => value.get_mut(key),
        Segment::Seq { index } => value.get_mut(index),
        _ => None,
    })
}

/// Whether `field` is `whole` or a part of it, such as `source.files[0]` of `source`.
fn is_within(field: &str, whole: &str) -> bool {
    field.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The problem of a body with those of its other fields, of which serde reports only the `first`: each wrong field is
/// removed, and the rest is read again. Of fields that are missing side by side, only the first is named.
fn with_others<T: DeserializeOwned>(first: Problem, body: Option<Value>, path: &FieldPath, message: &str) -> Problem {
    let Some(mut body) = body else { return first };
    let mut all = first;
    let mut is_there = remove(&mut body, path, wording::field(message));
    while is_there && all.errors.len() < MOST_PROBLEMS {
        let Err(error) = serde_path_to_error::deserialize::<_, T>(&body) else { break };
        let (path, message) = (error.path().clone(), error.inner().to_string());
        let problem = match names::<T>(body.clone(), &path) {
            Some(message) => Problem::field(StatusCode::UNPROCESSABLE_ENTITY, path.to_string(), message),
            None => wrong_field(&path, &message),
        };
        is_there = remove(&mut body, &path, wording::field(&message));
        // One that was removed is missing afterwards, and so may be what it was a part of.
        if !all.errors.iter().any(|known| is_within(&known.field, &problem.errors[0].field)) {
            all = all.and(problem);
        }
    }
    all
}

/// Removes the field `name` of the object at `path`, or else the field in which `path` ends. Returns false if there is
/// none.
fn remove(body: &mut Value, path: &FieldPath, name: Option<&str>) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let mut field = |above: &[&Segment], name: &str| {
        let object = at(body, above.iter().copied()).and_then(Value::as_object_mut);
        object.is_some_and(|object| object.remove(name).is_some())
    };
    if name.is_some_and(|name| field(&segments, name)) {
        return true;
    }
    let last = segments.iter().enumerate().rev().find_map(|(depth, segment)| match segment {
        Segment::Map { key } => Some((depth, key)),
        _ => None,
    });
    last.is_some_and(|(depth, key)| field(&segments[..depth], key))
}

/// Makes a problem of serde's message about a value; for a missing or unknown field only the message names the field.
fn wrong_field(path: &FieldPath, message: &str) -> Problem {
    let path = path.to_string();
    let parent = if path == "." { String::new() } else { path };
    let field = match wording::field(message) {
        None => parent,
        // For an unknown field the path may already end in it.
        Some(name) if parent == name || parent.ends_with(&format!(".{name}")) => parent,
        Some(name) if parent.is_empty() => name.to_owned(),
        Some(name) => format!("{parent}.{name}"),
    };
    Problem::field(StatusCode::UNPROCESSABLE_ENTITY, field, wording::plain(message))
}

/// Whether a NUL character is there, as a byte or escaped. After an escaped backslash, `u0000` is text.
fn has_nul(body: &[u8]) -> bool {
    let mut rest = body;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, 0 | b'\\')) {
        if rest[at] == 0 || rest[at + 1..].starts_with(b"u0000") {
            return true;
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    false
}

/// Finds the field with the NUL character. There is none if the body is not JSON, or if the field is there twice.
fn nul_problem(body: &[u8]) -> Problem {
    fn find(value: &Value, path: &str) -> Option<String> {
        match value {
            Value::String(text) if text.contains('\0') => Some(path.to_owned()),
            Value::Array(items) => {
                items.iter().enumerate().find_map(|(index, item)| find(item, &format!("{path}[{index}]")))
            }
            Value::Object(fields) => fields.iter().find_map(|(name, field)| {
                let path = if path.is_empty() { name.replace('\0', "\u{fffd}") } else { format!("{path}.{name}") };
                if name.contains('\0') { Some(path) } else { find(field, &path) }
            }),
            _ => None,
        }
    }
    match serde_json::from_slice(body).ok().and_then(|value| find(&value, "")) {
        Some(field) => {
            Problem::field(StatusCode::UNPROCESSABLE_ENTITY, field, "It holds a NUL character, which cannot be kept.")
        }
        None => Problem::new(StatusCode::BAD_REQUEST, "The body holds a NUL character, which cannot be kept."),
    }
}

fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time.")
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if TooSlow::caused(&rejection) {
            return too_slow();
        }
        let response = rejection.into_response();
        match response.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is too large: JSON may have 1 MiB, and 24 MiB where it carries pictures.",
            ),
            _ => Problem::new(StatusCode::BAD_REQUEST, "The body could not be read to its end."),
        }
    }
}

/// Parts of the path. One that cannot be parsed names nothing, which is 404.
pub(crate) struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        if parts.uri.path().contains("%00") {
            return Err(Problem::new(StatusCode::NOT_FOUND, "The address names nothing: it holds a NUL character."));
        }
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(rejection)) => {
                let why = match rejection.kind() {
                    // The only parts of an address that are no texts.
                    ErrorKind::DeserializeError { value, .. } | ErrorKind::ParseErrorAtKey { value, .. } => {
                        format!("`{value}` is no id; take the `id` as the list there has it.")
                    }
                    _ => format!("{rejection}."),
                };
                Err(Problem::new(StatusCode::NOT_FOUND, format!("The address names nothing: {why}")))
            }
            Err(rejection) => Err(Problem::new(StatusCode::NOT_FOUND, rejection.body_text())),
        }
    }
}

/// The query string.
pub(crate) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let query = parts.uri.query().unwrap_or_default();
        let with_nul = |(name, value): &(Cow<str>, Cow<str>)| name.contains('\0') || value.contains('\0');
        if let Some((name, _)) = form_urlencoded::parse(query.as_bytes()).find(with_nul) {
            let message = "It holds a NUL character, which cannot be kept.";
            return Err(Problem::field(StatusCode::UNPROCESSABLE_ENTITY, name.replace('\0', "\u{fffd}"), message));
        }
        // The project is read with the caller.
        let others = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != project_choice::PARAMETER);
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(others).finish();
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(pairs)
            .map(Self)
            .map_err(|error| wrong_field(error.path(), &error.inner().to_string()))
    }
}

/// Which page of a list to return.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Maximum number of items on the page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    #[serde(default, deserialize_with = "limit")]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[A-Za-z0-9_-]{21}[AQgw]$")]
    pub cursor: Option<String>,
}

/// Reads `limit`. A number of any size is refused with the range.
pub(crate) fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let Some(text) = Option::<Cow<str>>::deserialize(deserializer)? else { return Ok(None) };
    text.parse().map(Some).map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => {
            serde::de::Error::custom(format!("{text} is outside the range 1 to {MAX_LIMIT}"))
        }
        _ => serde::de::Error::custom(error),
    })
}

impl PageQuery {
    pub(crate) fn page(&self) -> Result<PageRequest> {
        Ok(PageRequest::parse(self.limit, self.cursor.as_deref())?)
    }
}

/// A multipart form, read part by part.
pub(crate) struct Multipart(multipart::Multipart);

impl<S: Send + Sync> FromRequest<S> for Multipart {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        if Coding::of(request.headers())? != Coding::Identity {
            let message = "A form is not read as `gzip`; its files are packed already, or send the form as it is.";
            return Err(Problem::field(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Encoding", message));
        }
        match multipart::Multipart::from_request(request, state).await {
            Ok(form) => Ok(Self(form)),
            Err(MultipartRejection::InvalidBoundary(_)) => Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Send the body as `multipart/form-data`, with its boundary.",
            )),
            Err(rejection) => Err(Problem::new(StatusCode::BAD_REQUEST, rejection.body_text())),
        }
    }
}

/// The refusal of a body that is no form, where JSON is taken, too.
pub(crate) fn or_json(problem: Problem) -> Problem {
    if problem.status != StatusCode::UNSUPPORTED_MEDIA_TYPE.as_u16() || !problem.errors.is_empty() {
        return problem;
    }
    let message = "Send the body as `multipart/form-data`, with its boundary, or as `application/json`.";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}

impl Multipart {
    pub(crate) async fn next(&mut self) -> Result<Option<Part<'_>>> {
        let field = tokio::time::timeout(PATIENCE, self.0.next_field()).await.map_err(|_| too_slow())??;
        Ok(field.map(Part))
    }

    /// As for a body that is too large.
    pub(crate) async fn drain(mut self) {
        let drain = async {
            let mut left = DRAINED;
            while let Ok(Some(mut part)) = self.next().await {
                while let Ok(Some(bytes)) = part.chunk().await {
                    left = left.saturating_sub(bytes.len());
                    if left == 0 {
                        return;
                    }
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, drain).await;
    }
}

/// One part of a form.
pub(crate) struct Part<'a>(multipart::Field<'a>);

impl Part<'_> {
    pub(crate) fn name(&self) -> &str {
        self.0.name().unwrap_or_default()
    }

    /// The file name, also in the extended notation of RFC 5987 that some clients use for a `/`.
    pub(crate) fn file_name(&self) -> Option<String> {
        if let Some(name) = self.0.file_name() {
            return Some(name.to_owned());
        }
        let disposition = self.0.headers().get(header::CONTENT_DISPOSITION)?.to_str().ok()?;
        let (_, encoded) = disposition.split_once("filename*=")?;
        let encoded = encoded.split(';').next()?.trim();
        let (charset, rest) = encoded.split_once('\'')?;
        let (_, encoded) = rest.split_once('\'')?;
        if !charset.eq_ignore_ascii_case("utf-8") {
            return None;
        }
        // A `+` stands for itself here, unlike in a form's body.
        let decoded = form_urlencoded::parse(encoded.replace('+', "%2B").as_bytes()).next()?.0.into_owned();
        Some(decoded)
    }

    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(tokio::time::timeout(PATIENCE, self.0.chunk()).await.map_err(|_| too_slow())??)
    }

    /// The whole part, if it has at most `limit` bytes.
    pub(crate) async fn bytes(mut self, limit: u64) -> Result<Bytes> {
        let name = self.name().to_owned();
        let mut whole = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            whole.extend_from_slice(&bytes);
            if whole.len() as u64 > limit {
                return Err(too_long(name, limit));
            }
        }
        Ok(whole.into())
    }

    /// As [`Part::bytes`], but a larger part is read to its end and `None`: the rest of the form is still of interest.
    pub(crate) async fn bytes_if_small(mut self, limit: u64) -> Result<Option<Bytes>> {
        let mut whole = Vec::new();
        let mut fits = true;
        while let Some(bytes) = self.chunk().await? {
            fits = fits && (whole.len() + bytes.len()) as u64 <= limit;
            if fits {
                whole.extend_from_slice(&bytes);
            } else {
                whole = Vec::new();
            }
        }
        Ok(fits.then(|| whole.into()))
    }

    /// The whole part as text, if it has at most `limit` bytes.
    pub(crate) async fn text(self, limit: u64) -> Result<String> {
        let name = self.name().to_owned();
        let bytes = self.bytes(limit).await?;
        String::from_utf8(bytes.into())
            .map_err(|_| Problem::field(StatusCode::UNPROCESSABLE_ENTITY, name, "It is not UTF-8 text."))
    }
}

pub(crate) fn too_long(field: impl Into<String>, limit: u64) -> Problem {
    Problem::field(StatusCode::PAYLOAD_TOO_LARGE, field, format!("It has more than {limit} bytes."))
}

impl From<MultipartError> for Problem {
    fn from(error: MultipartError) -> Self {
        if TooSlow::caused(&error) {
            return too_slow();
        }
        match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "The form is too large."),
            _ => Problem::new(StatusCode::BAD_REQUEST, format!("The form could not be read: {}.", error.body_text())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Outer {
        width: u32,
        #[serde(default)]
        inner: Vec<Inner>,
        #[serde(default)]
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        A,
        B,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Inner {
        scale: f64,
        #[serde(default)]
        name: Option<String>,
    }

    #[test]
    fn a_refused_body_names_its_field() {
        for (body, status, field) in [
            (r#"{"width":"64"}"#, 422, "width"),
            (r#"{"width":-1}"#, 422, "width"),
            (r#"{"width":99999999999999999999}"#, 422, "width"),
            (r"{}", 422, "width"),
            (r#"{"width":1,"widht":2}"#, 422, "widht"),
            (r#"{"width":1,"inner":[{"scale":1},{"scale":"x"}]}"#, 422, "inner[1].scale"),
            (r#"{"width":1,"inner":[{}]}"#, 422, "inner[0].scale"),
            (r#"{"width":1,"inner":[{"scale":1,"sclae":1}]}"#, 422, "inner[0].sclae"),
            (r#"{"width":1,"inner":[{"scale":1,"name":"a\u0000b"}]}"#, 422, "inner[0].name"),
            (r#"{"width":1,"width":1}"#, 422, "width"),
            (r#"{"width":1,"inner":[{"scale":1,"name":"\ud800"}]}"#, 422, "inner[0].name"),
        ] {
            let problem = read_json::<Outer>(body.as_bytes()).unwrap_err();
            assert_eq!((problem.status, problem.errors[0].field.as_str()), (status, field), "{body}: {problem:?}");
        }
        for body in ["", "{", r#"{"width":1} x"#, "{\"width\":1}\0", r#"{"width":1,"inner":[{"name":"\ud8"#] {
            assert_eq!(read_json::<Outer>(body.as_bytes()).unwrap_err().status, 400, "{body:?}");
        }
        assert_eq!(read_json::<Outer>(b"[]").unwrap_err().status, 422);
    }

    #[test]
    fn every_wrong_field_is_named() {
        for (body, fields) in [
            (
                r#"{"width":"x","inner":[{"scale":"y","name":5}],"widht":1}"#,
                &["width", "inner[0].scale", "inner[0].name", "widht"][..],
            ),
            (r#"{"inner":[{"scale":1},{"name":5}]}"#, &["inner[1].name", "inner[1].scale", "width"]),
            (r#"{"width":1,"inner":[1,2],"x":1}"#, &["inner[0]", "x"]),
            (r#"{"width":1,"kind":"c","inner":5}"#, &["kind", "inner"]),
            (r#"{"width":1,"kind":5,"inner":5}"#, &["kind", "inner"]),
            (r#"{"width":1,"a":{"a":1},"b":2}"#, &["a", "b"]),
        ] {
            let problem = read_json::<Outer>(body.as_bytes()).unwrap_err();
            let mut named: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
            let mut fields = fields.to_vec();
            named.sort_unstable();
            fields.sort_unstable();
            assert_eq!((problem.status, named), (422, fields), "{body}: {problem:?}");
        }
        let many: Vec<String> = (0..100).map(|number| format!(r#""field{number}":1"#)).collect();
        let problem = read_json::<Outer>(format!("{{{}}}", many.join(",")).as_bytes()).unwrap_err();
        assert_eq!(problem.errors.len(), MOST_PROBLEMS);
    }

    #[test]
    fn only_a_nul_character_is_one() {
        for body in [r#""\u0000""#, r#""a\\\u0000""#, r#""\n\u0000""#, "\0", "a\0"] {
            assert!(has_nul(body.as_bytes()), "{body:?}");
        }
        for body in [r#""a literal \\u0000""#, r#""\\\\u0000""#, r#""\u0001""#, "\"", "\\", ""] {
            assert!(!has_nul(body.as_bytes()), "{body:?}");
        }
    }
}
