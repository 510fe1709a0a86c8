//! Downloads files over HTTP: the [`Guard`] checks each hop, redirects are followed by hand, and a file is resumed
//! after each broken connection. Not here: the meaning of the Hub's answers (`hub`) and the format of files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use domain::job::ErrorClass;
use domain::limits::MAX_FILE_BYTES;
use formats::Sniffer;
use outgoing::{Guard, GuardError};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, LOCATION,
    RANGE,
};
use reqwest::{Method, Response, StatusCode};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use url::Url;

use crate::config::HubToken;
use crate::room;
use crate::stop::{Stop, disk};

/// Maximum number of redirects of one request.
const REDIRECTS: usize = 4;
/// Consecutive tries without new bytes before the attempt fails and the job's own retry pauses apply.
const TRIES: u32 = 5;
/// A broken try that brought at least this many bytes counts as progress.
const USEFUL: u64 = 64 * 1024;
/// Slowest accepted server, in bytes a second on average …
const SLOWEST: u64 = 16 * 1024;
/// … measured after this many seconds.
const PATIENCE: u64 = 60;
/// Pause after the first failed try; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a download failed.
#[derive(Debug)]
pub(crate) enum DownloadError {
    /// Permanent: a retry would fail in the same way.
    Final(String),
    /// Temporary: a retry may succeed.
    Passing(String),
    /// An error of this machine.
    Here(Stop),
}

impl From<DownloadError> for Stop {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Final(message) => Self::Failed(ErrorClass::InvalidInput, message),
            DownloadError::Passing(message) => Self::Failed(ErrorClass::Upstream, message),
            DownloadError::Here(stop) => stop,
        }
    }
}

impl From<GuardError> for DownloadError {
    fn from(error: GuardError) -> Self {
        match error {
            GuardError::Forbidden(why) => Self::Final(why.to_owned()),
            GuardError::Unknown(host) => Self::Passing(format!("The name `{host}` could not be looked up.")),
        }
    }
}

/// How far redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    Everywhere,
    /// A redirect to another host is returned as the answer.
    WithinHost,
}

/// The HTTP client for imports.
pub(crate) struct Fetcher<'a> {
    pub guard: &'a Guard,
    /// The one host that receives the token, wherever it redirects to.
    pub hub: &'a Url,
    pub token: Option<&'a HubToken>,
}

/// The point from which a download is resumed.
struct Resume<'a> {
    at: u64,
    /// `ETag` or `Last-Modified` of the part already downloaded.
    validator: Option<&'a str>,
}

/// A file to download.
pub(crate) struct Remote<'a> {
    pub url: &'a Url,
    /// Its path within the model, which determines the checks that apply.
    pub path: &'a str,
    /// If the size is known.
    pub bytes: Option<u64>,
    /// The URL always names these bytes, so a partial file can always be resumed.
    pub immutable: bool,
}

impl Fetcher<'_> {
    /// The response to a request, with any status.
    pub(crate) async fn ask(&self, method: Method, url: &Url, follow: Follow) -> Result<Response, DownloadError> {
        self.send(method, url, follow, None).await
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        follow: Follow,
        resume: Option<&Resume<'_>>,
    ) -> Result<Response, DownloadError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let client = self.guard.admit(&url).await?;
            let mut request = client.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(HubToken(token)) = self.token.filter(|_| url.origin() == self.hub.origin()) {
                request = request.bearer_auth(token);
            }
            if let Some(Resume { at, validator }) = resume {
                request = request.header(RANGE, format!("bytes={at}-"));
                if let Some(validator) = validator {
                    request = request.header(IF_RANGE, *validator);
                }
            }
            let response = request.send().await.map_err(|error| match broken(&error, &url) {
                DownloadError::Passing(why) if self.guard.is_proxied(&url) => {
                    DownloadError::Passing(format!("{why} It was asked through the worker's proxy."))
                }
                other => other,
            })?;
            let next = if response.status().is_redirection() { header(response.headers(), LOCATION) } else { None };
            let Some(next) = next else { return Ok(response) };
            let next = url
                .join(next)
                .map_err(|_| DownloadError::Final("The server redirects to what is no address.".into()))?;
            if follow == Follow::WithinHost && next.origin() != url.origin() {
                return Ok(response);
            }
            url = next;
        }
        Err(DownloadError::Final(format!("The server redirects more than {REDIRECTS} times.")))
    }

    /// The text at a URL, of at most `limit` bytes.
    pub(crate) async fn text(&self, url: &Url, limit: usize) -> Result<Vec<u8>, DownloadError> {
        let mut response = self.ask(Method::GET, url, Follow::Everywhere).await?;
        check_status(response.status())?;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error, url))? {
            text.extend_from_slice(&chunk);
            if text.len() > limit {
                return Err(DownloadError::Final(format!("The server's answer has more than {limit} bytes.")));
            }
        }
        Ok(text)
    }

    /// Downloads a file to `place` and resumes from what is already there. Calls `tell` with the number of bytes on
    /// disk, and of the whole file, if that is known.
    pub(crate) async fn download(
        &self,
        remote: &Remote<'_>,
        place: &Path,
        tell: &(dyn Fn(u64, Option<u64>) + Sync),
    ) -> Result<(), DownloadError> {
        let mut partial = Partial::open(place, remote).await?;
        let mut tries = 0;
        loop {
            let before = partial.bytes;
            let error = match self.go_on(remote, &mut partial, tell).await {
                Ok(()) => return partial.end().await,
                Err(DownloadError::Passing(message)) => message,
                Err(other) => return Err(other),
            };
            // A connection that brings hardly any bytes counts as no progress: it would block the imports behind it for
            // days.
            tries = if partial.bytes >= before + USEFUL { 1 } else { tries + 1 };
            if tries == TRIES {
                partial.end().await?;
                return Err(DownloadError::Passing(error));
            }
            tracing::info!(path = remote.path, bytes = partial.bytes, error, "a download broke and goes on");
            tokio::time::sleep(PAUSE * 2_u32.pow(tries - 1)).await;
        }
    }

    /// Sends one request; succeeds when the file is complete.
    async fn go_on(
        &self,
        remote: &Remote<'_>,
        partial: &mut Partial,
        tell: &(dyn Fn(u64, Option<u64>) + Sync),
    ) -> Result<(), DownloadError> {
        if partial.bytes > 0 && remote.bytes == Some(partial.bytes) {
            return Ok(());
        }
        if partial.bytes > 0 && !remote.immutable && partial.validator.is_none() {
            partial.restart(None).await?;
        }
        let validator = partial.validator.clone();
        let resume = Resume { at: partial.bytes, validator: validator.as_deref() };
        let resume = (partial.bytes > 0).then_some(&resume);
        let mut response = self.send(Method::GET, remote.url, Follow::Everywhere, resume).await?;
        let total = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = header(response.headers(), CONTENT_RANGE).and_then(content_range);
                let Some((_, total)) = range.filter(|(first, _)| *first == partial.bytes) else {
                    partial.restart(None).await?;
                    return Err(DownloadError::Passing("The server sent another range than it was asked for.".into()));
                };
                total
            }
            // The server has no more than we have, or has another file by now.
            StatusCode::RANGE_NOT_SATISFIABLE if partial.bytes > 0 => {
                partial.restart(None).await?;
                return Err(DownloadError::Passing("The server's file is shorter than before.".into()));
            }
            status => {
                check_status(status)?;
                partial.restart(validator_of(response.headers())).await?;
                header(response.headers(), CONTENT_LENGTH).and_then(|length| length.parse().ok())
            }
        };
        let expected = remote.bytes.or(total);
        if let (Some(known), Some(total)) = (remote.bytes, total)
            && known != total
        {
            partial.restart(None).await?;
            return Err(DownloadError::Passing(format!("The server speaks of {total} bytes, and of {known} before.")));
        }
        if expected.is_some_and(|bytes| bytes > MAX_FILE_BYTES) {
            return Err(too_large(remote.path));
        }
        if let (Some(folder), Some(bytes)) = (partial.place.parent(), expected) {
            room::check(folder, bytes.saturating_sub(partial.bytes)).map_err(DownloadError::Here)?;
        }
        let (since, before) = (Instant::now(), partial.bytes);
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error, remote.url))? {
            partial.write(&chunk).await?;
            let seconds = since.elapsed().as_secs();
            if seconds >= PATIENCE && partial.bytes - before < seconds * SLOWEST {
                return Err(DownloadError::Passing(format!("The server sends less than {SLOWEST} bytes a second.")));
            }
            if partial.bytes > expected.unwrap_or(MAX_FILE_BYTES) {
                return Err(too_large(remote.path));
            }
            tell(partial.bytes, expected);
        }
        match expected {
            Some(expected) if partial.bytes < expected => Err(DownloadError::Passing("The connection was cut.".into())),
            _ => Ok(()),
        }
    }
}

/// The state of a partial file on disk, and beside it, in `….validator`, the version of the server's file that it
/// belongs to.
struct Partial {
    file: File,
    place: PathBuf,
    bytes: u64,
    validator: Option<String>,
    /// Checks the beginning of weights; a resumed attempt has done that already.
    sniffer: Option<Sniffer>,
    weights: bool,
}

impl Partial {
    async fn open(place: &Path, remote: &Remote<'_>) -> Result<Self, DownloadError> {
        let open = async {
            let file = File::options().create(true).append(true).open(place).await?;
            let bytes = file.metadata().await?.len();
            Ok((file, bytes))
        };
        let (file, bytes) = open.await.map_err(|error| here(place, error))?;
        let validator = tokio::fs::read_to_string(beside(place)).await.ok().filter(|_| bytes > 0);
        let mut partial = Self {
            file,
            place: place.to_owned(),
            bytes,
            validator,
            sniffer: None,
            weights: formats::weights::is_weights(remote.path) || remote.path.ends_with(".gguf"),
        };
        if bytes == 0 || remote.bytes.is_some_and(|whole| bytes > whole) {
            partial.restart(None).await?;
        }
        Ok(partial)
    }

    /// Starts from the beginning.
    async fn restart(&mut self, validator: Option<String>) -> Result<(), DownloadError> {
        let work = async {
            self.file.set_len(0).await?;
            match &validator {
                Some(validator) => tokio::fs::write(beside(&self.place), validator).await,
                None => match tokio::fs::remove_file(beside(&self.place)).await {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                },
            }
        };
        work.await.map_err(|error| here(&self.place, error))?;
        self.bytes = 0;
        self.validator = validator;
        self.sniffer = self.weights.then(Sniffer::default);
        Ok(())
    }

    async fn write(&mut self, chunk: &[u8]) -> Result<(), DownloadError> {
        if let Some(sniffer) = &mut self.sniffer {
            // Gigabytes may follow: refuse a file that is not safetensors now.
            sniffer.push(chunk).map_err(|refusal| DownloadError::Final(format!("The file is refused: {refusal}.")))?;
        }
        self.file.write_all(chunk).await.map_err(|error| here(&self.place, error))?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    async fn end(mut self) -> Result<(), DownloadError> {
        self.file.flush().await.map_err(|error| here(&self.place, error))
    }
}

fn beside(place: &Path) -> PathBuf {
    place.with_extension("validator")
}

fn here(place: &Path, error: std::io::Error) -> DownloadError {
    DownloadError::Here(disk(place, error))
}

fn too_large(path: &str) -> DownloadError {
    DownloadError::Final(format!("`{path}` is larger than it was said to be, or than 64 GiB."))
}

/// A failure reports only its kind and the host: the URL may be signed, and clients must not learn what answers at that
/// address.
pub(crate) fn broken(error: &reqwest::Error, url: &Url) -> DownloadError {
    // The operator must change something first; the server's name is the client's own.
    if let Some(refusal) = outgoing::refused_certificate(error) {
        return DownloadError::Final(format!("The server is not trusted: {refusal}."));
    }
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    DownloadError::Passing(if error.is_timeout() {
        format!("`{host}` does not answer.")
    } else if error.is_connect() && url.scheme() == "https" {
        format!("`{host}` cannot be reached, or does not speak TLS.")
    } else if error.is_connect() {
        format!("`{host}` cannot be reached.")
    } else {
        format!("The connection to `{host}` broke.")
    })
}

pub(crate) fn check_status(status: StatusCode) -> Result<(), DownloadError> {
    let message = || format!("The server answers {status}.");
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(DownloadError::Passing(message()))
        }
        status if status.is_server_error() => Err(DownloadError::Passing(message())),
        _ => Err(DownloadError::Final(message())),
    }
}

pub(crate) fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// A strong `ETag`, or else `Last-Modified`.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let etag = header(headers, ETAG).filter(|etag| !etag.starts_with("W/"));
    etag.or_else(|| header(headers, LAST_MODIFIED)).map(str::to_owned)
}

/// First byte and total length of `bytes 5-9/10`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["", "bytes */10", "5-9/10", "bytes 5/10"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
