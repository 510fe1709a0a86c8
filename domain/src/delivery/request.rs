//! What a request says about the delivery of its results.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use outgoing::Guard;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{SecretUrl, Target};
use crate::faults::Faults;
use crate::{DeliveryId, Error, Result};

/// Most headers of an upload.
const MOST_HEADERS: usize = 16;
/// Longest value of such a header, in bytes.
const MOST_HEADER_BYTES: usize = 1024;
/// Names of headers that an upload may have, beside those of the vendors below.
const HEADERS: [&str; 5] = ["cache-control", "content-disposition", "content-type", "expires", "if-none-match"];
/// Amazon, Google and Azure.
const VENDORS: [&str; 3] = ["x-amz-", "x-goog-", "x-ms-"];

/// How the caller wants the pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Presigned URLs.
    #[default]
    Url,
    /// Base64 in the JSON, beside the URLs.
    B64Json,
    /// The bytes of the one picture are the body of the response.
    Binary,
    /// The pictures are uploaded to URLs of the caller.
    Upload,
}

impl ResponseFormat {
    /// The name in rows and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::B64Json => "b64_json",
            Self::Binary => "binary",
            Self::Upload => "upload",
        }
    }
}

/// Where the pictures of a job are uploaded to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Uploads {
    /// One for each picture.
    pub urls: Vec<SecretUrl>,
    /// Sent to each of them.
    pub headers: BTreeMap<String, String>,
}

/// How the pictures of a generation are delivered.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub format: ResponseFormat,
    /// Only for [`ResponseFormat::Upload`].
    pub uploads: Uploads,
}

impl Plan {
    /// Checks the fields of a request for `num_images` pictures; wrong ones are added to `faults`.
    pub(crate) fn of(
        format: ResponseFormat,
        stated: Stated<'_>,
        num_images: u32,
        guard: &Guard,
        faults: &mut Faults,
    ) -> Self {
        if format == ResponseFormat::Binary && num_images > 1 {
            let message = "`binary` answers with the bytes of one picture; leave `num_images` at 1.";
            faults.take(Err::<(), _>(Error::invalid("response_format", message)));
        }
        let uploads = if format == ResponseFormat::Upload {
            stated.check(num_images, guard, faults)
        } else {
            stated.refuse(format, faults)
        };
        Self { format, uploads }
    }
}

/// Fields that name where pictures are uploaded to, as they are stated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stated<'a> {
    pub urls: Option<&'a [String]>,
    pub url: Option<&'a str>,
    pub headers: Option<&'a BTreeMap<String, String>>,
}

impl Stated<'_> {
    /// The first field that is stated.
    pub(crate) fn first(self) -> Option<&'static str> {
        let fields = [
            ("upload_urls", self.urls.is_some()),
            ("upload_url", self.url.is_some()),
            ("upload_headers", self.headers.is_some()),
        ];
        fields.into_iter().find(|(_, stated)| *stated).map(|(field, _)| field)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.first().is_none()
    }

    /// Nothing is uploaded with this format, so that a stated field is added to `faults`.
    pub(crate) fn refuse(self, format: ResponseFormat, faults: &mut Faults) -> Uploads {
        if let Some(field) = self.first() {
            let message = format!("It is only for `response_format: upload`; this one is `{}`.", format.as_str());
            faults.take(Err::<(), _>(Error::invalid(field, message)));
        }
        Uploads::default()
    }

    /// Headers need a URL that they belong to, and are added to `faults`.
    pub(crate) fn without_url(self, faults: &mut Faults) -> Uploads {
        if self.headers.is_some() {
            let message = "They belong to an `upload_url`: state it again.";
            faults.take(Err::<(), _>(Error::invalid("upload_headers", message)));
        }
        Uploads::default()
    }

    /// Errors are added to `faults`: no URLs, another number than `num_images`, a URL that is wrong or stated twice,
    /// a wrong header.
    pub(crate) fn check(self, num_images: u32, guard: &Guard, faults: &mut Faults) -> Uploads {
        let urls: Vec<(String, &str)> = match (self.urls, self.url) {
            (Some(_), Some(_)) => {
                let message = "State `upload_url` or `upload_urls`, not both.";
                faults.take(Err::<(), _>(Error::invalid("upload_url", message)));
                return Uploads::default();
            }
            (Some(urls), None) => {
                (0..).zip(urls).map(|(at, url): (usize, _)| (format!("upload_urls[{at}]"), url.as_str())).collect()
            }
            (None, Some(url)) => vec![("upload_url".to_owned(), url)],
            (None, None) => Vec::new(),
        };
        if urls.len() != num_images as usize {
            let field = if self.url.is_some() { "upload_url" } else { "upload_urls" };
            let message = match urls.len() {
                0 => "`response_format: upload` needs a URL for each picture.".to_owned(),
                count => format!("URLs: {count}, pictures (`num_images`): {num_images}. Each picture needs its URL."),
            };
            faults.take(Err::<(), _>(Error::invalid(field, message)));
        }
        let mut parsed: Vec<SecretUrl> = Vec::new();
        for (field, text) in urls {
            let url = SecretUrl::parse(&field, text, guard);
            let url = url.and_then(|url| {
                if parsed.contains(&url) {
                    let message = "It is stated twice: the second picture would replace the first.";
                    return Err(Error::invalid(&field, message));
                }
                Ok(url)
            });
            parsed.extend(faults.take(url.map(Some)));
        }
        let headers = self.headers.map(checked_headers).transpose();
        Uploads { urls: parsed, headers: faults.take(headers).unwrap_or_default() }
    }
}

/// Names in lower case. Errors: `Invalid` for a header that may not be sent.
pub(crate) fn checked_headers(headers: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let invalid = |message: String| Error::invalid("upload_headers", message);
    if headers.len() > MOST_HEADERS {
        return Err(invalid(format!("There are {}; {MOST_HEADERS} are the most.", headers.len())));
    }
    let mut checked = BTreeMap::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let is_sent = HEADERS.contains(&lower.as_str()) || VENDORS.iter().any(|vendor| lower.starts_with(vendor));
        if !is_sent || HeaderName::try_from(lower.as_str()).is_err() {
            let shown: String = name.chars().take(64).filter(|character| !character.is_control()).collect();
            return Err(invalid(format!(
                "`{shown}` is not sent. Allowed are {}, and names that begin with {}.",
                HEADERS.join(", "),
                VENDORS.join(", ")
            )));
        }
        if value.len() > MOST_HEADER_BYTES || HeaderValue::try_from(value.as_str()).is_err() {
            return Err(invalid(format!("The value of `{lower}` is not that of a header, of at most 1024 bytes.")));
        }
        if checked.insert(lower.clone(), value.clone()).is_some() {
            return Err(invalid(format!("`{lower}` is stated twice.")));
        }
    }
    Ok(checked)
}

/// Deliveries to be written with a job, by columns.
#[derive(Debug, Default)]
pub(crate) struct NewDeliveries {
    pub ids: Vec<Uuid>,
    pub jobs: Vec<Uuid>,
    pub targets: Vec<String>,
    pub positions: Vec<i32>,
    pub urls: Vec<Option<String>>,
    pub queries: Vec<Option<String>>,
    pub headers: Vec<Option<serde_json::Value>>,
}

impl NewDeliveries {
    /// Adds the uploads of a job, and, if they are `archived`, its `num_images` pictures for the archive.
    pub(crate) fn add(&mut self, job: Uuid, uploads: &Uploads, archived: bool, num_images: u32) {
        for (position, url) in (0..).zip(&uploads.urls) {
            let headers = serde_json::to_value(&uploads.headers).unwrap_or_default();
            self.push(job, Target::Upload, position, Some(url.address()), url.query(), Some(headers));
        }
        for position in 0..if archived { num_images as i32 } else { 0 } {
            self.push(job, Target::Archive, position, None, None, None);
        }
    }

    fn push(
        &mut self,
        job: Uuid,
        target: Target,
        position: i32,
        url: Option<String>,
        query: Option<&str>,
        headers: Option<serde_json::Value>,
    ) {
        self.ids.push(DeliveryId::new().into());
        self.jobs.push(job);
        self.targets.push(target.as_str().to_owned());
        self.positions.push(position);
        self.urls.push(url);
        self.queries.push(query.map(str::to_owned));
        self.headers.push(headers);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generation::GenerationRequest;

    fn plan(request: serde_json::Value, num_images: u32) -> Result<Plan> {
        let mut request = request;
        request["prompt"] = "a fox".into();
        let request: GenerationRequest = serde_json::from_value(request).unwrap();
        let stated = Stated {
            urls: request.upload_urls.as_deref(),
            url: request.upload_url.as_deref(),
            headers: request.upload_headers.as_ref(),
        };
        let (format, mut faults) = (request.response_format.unwrap_or_default(), Faults::default());
        let plan = Plan::of(format, stated, num_images, &Guard::default(), &mut faults);
        faults.check().map(|()| plan)
    }

    fn refused(request: serde_json::Value, num_images: u32) -> String {
        plan(request, num_images).unwrap_err().to_string()
    }

    #[test]
    fn a_url_for_each_picture() {
        let one = json!({"response_format": "upload", "upload_url": "https://example.com/0?s=1"});
        assert_eq!(plan(one.clone(), 1).unwrap().uploads.urls.len(), 1);
        assert!(refused(one, 2).starts_with("upload_url: URLs: 1, pictures"));
        let two = |second: &str| json!({"response_format": "upload", "upload_urls": ["https://example.com/0", second]});
        assert_eq!(plan(two("https://example.com/1"), 2).unwrap().uploads.urls.len(), 2);
        assert!(refused(two("https://example.com/1"), 1).starts_with("upload_urls: URLs: 2"));
        assert!(refused(two("https://example.com/0"), 2).starts_with("upload_urls[1]: It is stated twice"));
        assert!(refused(two("gopher://example.com/"), 2).starts_with("upload_urls[1]: Its scheme"));
        assert!(refused(json!({"response_format": "upload"}), 1).starts_with("upload_urls: `response_format: upload`"));
        let both = json!({"response_format": "upload", "upload_url": "https://a.example/", "upload_urls": []});
        assert!(refused(both, 1).contains("not both"));
        for field in ["upload_url", "upload_urls", "upload_headers"] {
            let value = match field {
                "upload_url" => json!("https://example.com/"),
                "upload_urls" => json!(["https://example.com/"]),
                _ => json!({"x-amz-acl": "private"}),
            };
            assert!(refused(json!({field: value}), 1).starts_with(&format!("{field}: It is only for")));
        }
        assert!(refused(json!({"response_format": "binary"}), 2).starts_with("response_format: `binary`"));
    }

    #[test]
    fn headers_that_a_url_may_have_signed() {
        let headers = |pairs: &[(&str, &str)]| {
            checked_headers(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        let sent =
            headers(&[("X-Amz-Acl", "private"), ("content-type", "image/jpeg"), ("x-ms-blob-type", "BlockBlob")]);
        assert_eq!(sent.unwrap()["x-amz-acl"], "private");
        for wrong in [
            &[("host", "example.com")][..],
            &[("Content-Length", "1")],
            &[("authorization", "x")],
            &[("x-amz-", "fine"), ("x-amz- y", "no name")],
            &[("x-amz-acl", "a\r\nhost: b")],
            &[("x-amz-acl", "a"), ("X-AMZ-ACL", "b")],
            &[("x-amz-acl", &*"a".repeat(1025))],
        ] {
            let error = headers(wrong).unwrap_err();
            assert!(matches!(&error, Error::Invalid { field, .. } if field == "upload_headers"), "{wrong:?}: {error}");
        }
        let many: Vec<(String, String)> = (0..17).map(|at| (format!("x-amz-{at}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert!(headers(&many).is_err());
    }
}
