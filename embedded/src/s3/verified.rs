//! A body that is verified while it is read: its length and its checksums are compared before the last byte is handed
//! on, so that what does not match is never stored.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::Stream;
use http::HeaderMap;
use s3s::crypto::{Checksum, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream;
use s3s::{S3Error, StdError, TrailingHeaders, s3_error};

/// Whether a body turned out to be another one than its headers promised.
#[derive(Clone, Default)]
pub(super) struct Verdict(Arc<AtomicBool>);

impl Verdict {
    /// The error to answer with: `BadDigest` if the body did not match.
    pub(super) fn of(&self, error: S3Error) -> S3Error {
        if self.0.load(Ordering::Relaxed) {
            return s3_error!(BadDigest, "The bytes that arrived are not those that the request's headers describe.");
        }
        error
    }
}

/// One digest that a header, or a trailer, states.
struct Digest {
    header: &'static str,
    state: State,
}

enum State {
    Md5(Md5),
    Crc32(Crc32),
    Crc32c(Crc32c),
    Crc64Nvme(Crc64Nvme),
    Sha1(Sha1),
    Sha256(Sha256),
}

/// Headers that state a digest in base64.
const HEADERS: [&str; 6] = [
    "content-md5",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
];
/// States a digest in hexadecimal digits, or that there is none.
const PAYLOAD: &str = "x-amz-content-sha256";
const DECODED_LENGTH: &str = "x-amz-decoded-content-length";

impl Digest {
    fn of(header: &'static str) -> Self {
        let state = match header {
            "content-md5" => State::Md5(Md5::new()),
            "x-amz-checksum-crc32" => State::Crc32(Crc32::new()),
            "x-amz-checksum-crc32c" => State::Crc32c(Crc32c::new()),
            "x-amz-checksum-crc64nvme" => State::Crc64Nvme(Crc64Nvme::new()),
            "x-amz-checksum-sha1" => State::Sha1(Sha1::new()),
            _ => State::Sha256(Sha256::new()),
        };
        Self { header, state }
    }

    fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Md5(digest) => digest.update(bytes),
            State::Crc32(digest) => digest.update(bytes),
            State::Crc32c(digest) => digest.update(bytes),
            State::Crc64Nvme(digest) => digest.update(bytes),
            State::Sha1(digest) => digest.update(bytes),
            State::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The digest as its header writes it.
    fn finish(self) -> (&'static str, String) {
        let bytes = match self.state {
            State::Md5(digest) => digest.finalize().to_vec(),
            State::Crc32(digest) => digest.finalize().to_vec(),
            State::Crc32c(digest) => digest.finalize().to_vec(),
            State::Crc64Nvme(digest) => digest.finalize().to_vec(),
            State::Sha1(digest) => digest.finalize().to_vec(),
            State::Sha256(digest) => digest.finalize().to_vec(),
        };
        let text = match self.header {
            PAYLOAD => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            _ => BASE64_STANDARD.encode(bytes),
        };
        (self.header, text)
    }
}

/// The body, and what its headers promise of it.
struct Verified {
    body: StreamingBlob,
    headers: HeaderMap,
    trailers: Option<TrailingHeaders>,
    /// `None` once everything was compared.
    digests: Option<Vec<Digest>>,
    bytes: u64,
    verdict: Verdict,
}

/// Wraps `body`: reading it fails if length or digest differ from what `headers` or `trailers` state.
pub(super) fn verified(
    body: StreamingBlob,
    headers: &HeaderMap,
    trailers: Option<&TrailingHeaders>,
) -> (StreamingBlob, Verdict) {
    let promised = promised_trailers(headers);
    let stated = |header: &&str| headers.contains_key(*header) || promised.contains(header);
    let mut digests: Vec<Digest> = HEADERS.into_iter().filter(stated).map(Digest::of).collect();
    // Otherwise a word such as UNSIGNED-PAYLOAD.
    if text(headers, PAYLOAD).is_some_and(|value| value.len() == 64) {
        digests.push(Digest::of(PAYLOAD));
    }
    let verdict = Verdict::default();
    let verified = Verified {
        body,
        headers: headers.clone(),
        trailers: trailers.cloned(),
        digests: Some(digests),
        bytes: 0,
        verdict: verdict.clone(),
    };
    (StreamingBlob::new(verified), verdict)
}

/// Digests that follow the body, by the name of their trailer.
pub(super) fn promised_trailers(headers: &HeaderMap) -> Vec<&'static str> {
    let named = text(headers, "x-amz-trailer").unwrap_or_default();
    let named: Vec<String> = named.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    HEADERS.into_iter().filter(|header| named.iter().any(|name| name == header)).collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Verified {
    fn matches(&self, digests: Vec<Digest>) -> bool {
        let length = text(&self.headers, DECODED_LENGTH).is_none_or(|length| length.parse() == Ok(self.bytes));
        let stated = |name: &str| {
            let trailer = self
                .trailers
                .as_ref()
                .and_then(|trailers| trailers.read(|trailers| text(trailers, name).map(str::to_owned)).flatten());
            text(&self.headers, name).map(str::to_owned).or(trailer)
        };
        length
            && digests.into_iter().all(|digest| {
                let (header, computed) = digest.finish();
                stated(header).is_some_and(|stated| stated == computed)
            })
    }
}

impl Stream for Verified {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match ready!(Pin::new(&mut self.body).poll_next(context)) {
            Some(Ok(bytes)) => {
                self.bytes += bytes.len() as u64;
                self.digests.iter_mut().flatten().for_each(|digest| digest.update(&bytes));
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let digests = self.digests.take();
                if digests.is_none_or(|digests| self.matches(digests)) {
                    return Poll::Ready(None);
                }
                self.verdict.0.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err("the body does not match its headers".into())))
            }
        }
    }
}

impl ByteStream for Verified {}
