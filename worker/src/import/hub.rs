//! The part of the Hugging Face Hub's HTTP protocol that fetches a model: a revision is resolved to a commit, the size
//! and hash of each file are known before anything is downloaded, and a repository without access is refused then.
//!
//! The crate `hf-hub` is not used: its client follows redirects and resolves hosts by itself, without the
//! [`outgoing::Guard`], and it needs its own cache on disk.

use std::path::Path;

use domain::import::{self, MAX_LICENSE_BYTES};
use domain::model::source::Source;
use formats::folder::{self, INDEX};
use formats::json;
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderName};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::download::{DownloadError, Fetcher, Follow, broken, check_status, header};
use super::selection;
use super::{Asked, Found, Place, Wanted};
use crate::attempt::Attempt;
use crate::stop::Stop;

/// Size limit for answers of the API, and for model_index.json.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");

/// The API's description of a repository at a revision.
#[derive(Deserialize)]
struct Repository {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The files of a repository on the Hub, each with its size.
pub(super) async fn find(attempt: &Attempt<'_>, fetcher: &Fetcher<'_>, asked: &Asked<'_>) -> Result<Found, Stop> {
    let Source::HuggingFace { repo, revision, files, variant } = asked.source else { return Ok(Found::default()) };
    let hub = Hub { fetcher, repo };
    let revision = asked.commit.unwrap_or(revision);
    let repository = hub.repository(revision).await?;
    if asked.commit.is_none() {
        let (pool, claim) = (&attempt.context.pool, attempt.claim());
        attempt.ask(|| import::pin_commit(pool, claim, asked.part, &repository.sha)).await?;
    }
    let commit = &repository.sha;
    let paths: Vec<&str> = repository.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let mut chosen = hub.choose(commit, &paths, files.as_deref(), variant.as_deref()).await?;
    if asked.part.is_none() {
        chosen = selection::with_config(chosen, &paths);
    }
    let mut wanted = Vec::with_capacity(chosen.len());
    for path in &chosen {
        let (bytes, sha256) = hub.look(commit, path).await?;
        let url = hub.file(commit, path)?;
        let within = selection::path_within(asked.name, path, &chosen);
        let (called, place) = ((*path).to_owned(), Place::Remote { url, of_hub: true });
        wanted.push(Wanted { path: within, called, place, bytes, sha256 });
    }
    let license = paths.iter().find(|path| selection::is_license(path));
    let license = match license {
        Some(path) => fetcher.text(&hub.file(commit, path)?, MAX_LICENSE_BYTES).await.ok(),
        None => None,
    };
    Ok(Found { files: wanted, license: license.and_then(super::license) })
}

struct Hub<'a> {
    fetcher: &'a Fetcher<'a>,
    repo: &'a str,
}

impl Hub<'_> {
    async fn repository(&self, revision: &str) -> Result<Repository, DownloadError> {
        let url = self.address(&["api", "models"], &["revision", revision])?;
        let mut response = self.fetcher.ask(Method::GET, &url, Follow::Everywhere).await?;
        self.check(response.status(), response.headers(), revision)?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error, &url))? {
            answer.extend_from_slice(&chunk);
            if answer.len() > ANSWER_BYTES {
                return Err(DownloadError::Final("The Hub's answer is too long.".into()));
            }
        }
        let repository: Repository = serde_json::from_slice(&answer).map_err(|_| {
            DownloadError::Final("What answers at HF_ENDPOINT does not speak the Hub's protocol.".into())
        })?;
        if repository.sha.len() > 64 || !repository.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(DownloadError::Final("The Hub names no commit.".into()));
        }
        Ok(repository)
    }

    async fn choose<'p>(
        &self,
        commit: &str,
        paths: &[&'p str],
        files: Option<&[String]>,
        variant: Option<&str>,
    ) -> Result<Vec<&'p str>, DownloadError> {
        if let Some(files) = files {
            let find = |file: &String| {
                let found = paths.iter().find(|path| *path == file).copied();
                found.ok_or_else(|| DownloadError::Final(format!("The repository has no file `{file}`.")))
            };
            let mut chosen = files.iter().map(find).collect::<Result<Vec<_>, _>>()?;
            chosen.sort_unstable();
            chosen.dedup();
            return Ok(chosen);
        }
        if !paths.contains(&INDEX) {
            return Ok(vec![folder::single(paths).map_err(DownloadError::Final)?]);
        }
        self.look(commit, INDEX).await?;
        let index = self.fetcher.text(&self.file(commit, INDEX)?, ANSWER_BYTES).await?;
        let index =
            json::read(&index).map_err(|error| DownloadError::Final(format!("{INDEX} is not JSON: {error}.")))?;
        folder::pipeline(paths, &index, variant).map_err(DownloadError::Final)
    }

    /// Size and SHA-256 of a file, if the Hub reports them; or an error if there is no access to it.
    async fn look(&self, commit: &str, path: &str) -> Result<(Option<u64>, Option<String>), DownloadError> {
        let response = self.fetcher.ask(Method::HEAD, &self.file(commit, path)?, Follow::WithinHost).await?;
        let (status, headers) = (response.status(), response.headers());
        if !status.is_redirection() {
            self.check(status, headers, commit)?;
        }
        let own_length = || header(headers, CONTENT_LENGTH).filter(|_| status.is_success());
        let bytes = header(headers, LINKED_SIZE).or_else(own_length).and_then(|bytes| bytes.parse().ok());
        // For a file in LFS, the tag is the SHA-256 of its bytes; for others it is the git hash, which is of no use
        // here.
        let etag = header(headers, LINKED_ETAG).or_else(|| header(headers, ETAG)).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        Ok((bytes, is_sha256.then(|| etag.to_ascii_lowercase())))
    }

    /// `hub/BEFORE…/owner/name/AFTER…`, with each segment escaped.
    fn address(&self, before: &[&str], after: &[&str]) -> Result<Url, DownloadError> {
        let mut url = self.fetcher.hub.clone();
        let mut segments = url
            .path_segments_mut()
            .map_err(|()| DownloadError::Final("HF_ENDPOINT is no address of a server.".into()))?;
        segments.pop_if_empty().extend(before).extend(self.repo.split('/')).extend(after);
        drop(segments);
        Ok(url)
    }

    fn file(&self, commit: &str, path: &str) -> Result<Url, DownloadError> {
        let after: Vec<&str> = ["resolve", commit].into_iter().chain(path.split('/')).collect();
        self.address(&[], &after)
    }

    /// Explains a refusal and what to do about it.
    fn check(&self, status: StatusCode, headers: &HeaderMap, revision: &str) -> Result<(), DownloadError> {
        let repo = self.repo;
        let token = if self.fetcher.token.is_some() { "HF_TOKEN" } else { "HF_TOKEN, which is not set," };
        let message = match header(headers, ERROR_CODE) {
            Some("GatedRepo") => format!(
                "`{repo}` is gated: accept its conditions on its page, and give the workers a token of that account \
                 in {token} to have it."
            ),
            Some("RevisionNotFound") => format!("`{repo}` has no revision `{revision}`."),
            Some("EntryNotFound") => format!("`{repo}` lacks a file that it lists."),
            Some("RepoNotFound") => {
                format!("There is no repository `{repo}`, or it is private and {token} does not open it.")
            }
            _ if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => {
                format!("There is no repository `{repo}`, or it is private and {token} does not open it.")
            }
            _ => return check_status(status),
        };
        Err(DownloadError::Final(message))
    }
}

/// Where the Hub file `path` is stored while it is downloaded.
pub(crate) fn partial(folder: &Path, url: &Url) -> std::path::PathBuf {
    use sha2::{Digest, Sha256};
    let name = hex::encode(Sha256::digest(url.as_str().split('?').next().unwrap_or_default()));
    folder.join(&name[..32]).with_extension("part")
}
