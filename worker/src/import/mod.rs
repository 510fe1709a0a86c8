//! Runs an import: rows → list of the source's files → each file to the local disk, through the safetensors gate, into
//! storage → a new model and succeeded.
//!
//! The row records each file that is in storage, so that another attempt, on any worker, continues after it. A partial
//! file is kept in this machine's folder of the job, so that another attempt on this machine resumes it. A file that
//! another model already has is not downloaded if the source reports its hash, and is never stored twice.

mod download;
mod folder;
mod hub;
mod scratch;
mod selection;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use domain::import::{self, ImportWork};
use domain::job::ErrorClass;
use domain::model::intake::{self, Intake};
use domain::model::parts::{Part, named_as};
use domain::model::source::{Source, UploadedFile};
use domain::model::{self, CONFIG_FILE, MAX_CONFIG_BYTES, ModelFile, is_peft, upload};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};
use url::Url;

use self::download::{DownloadError, Fetcher, Remote};
use self::scratch::Scratch;
use crate::attempt::{Attempt, Progress};
use crate::stop::{Stop, disk};

/// Time limit for an attempt.
const TIME: Duration = Duration::from_hours(24);
/// Bytes read at once for the upload to storage.
const PIECE: usize = 1024 * 1024;
/// Minimum time between two progress reports.
const REPORT: Duration = Duration::from_secs(1);

/// The contents of a source.
#[derive(Default)]
struct Found {
    files: Vec<Wanted>,
    /// Text of the licence.
    license: Option<String>,
}

/// One file.
struct Wanted {
    /// Its path within the model.
    path: String,
    /// What its source calls it, for messages.
    called: String,
    place: Place,
    /// If the source reports it.
    bytes: Option<u64>,
    /// If the source reports it.
    sha256: Option<String>,
}

enum Place {
    Remote {
        url: Url,
        /// At a commit of the Hub: the bytes never change, and the Hub's token gives access.
        of_hub: bool,
    },
    Local(PathBuf),
    /// Uploaded objects, to be joined in this order.
    Parts(Vec<String>),
}

/// A source to list: the import's own, or that of one of its parts.
struct Asked<'a> {
    source: &'a Source,
    part: Option<Part>,
    /// Query string of a URL.
    query: Option<&'a String>,
    /// The name of a single file, without its extension.
    name: &'a str,
    /// The repository's commit, if an earlier attempt has resolved it.
    commit: Option<&'a String>,
}

/// Runs the whole attempt.
pub(crate) async fn run(attempt: &Attempt<'_>) -> Result<(), Stop> {
    let (context, claim) = (attempt.context, attempt.claim());
    let work = attempt.ask(|| import::load_work(&context.pool, claim)).await?;
    let folder = context.config.data_dir.join("imports");
    let scratch = Scratch::open(&folder, claim.subject).map_err(|error| disk(&folder, error))?;
    let bringing = Box::pin(attempt.prepare(bring(attempt, &work, scratch.path())));
    let brought = match timeout(TIME, bringing).await {
        Ok(brought) => brought,
        Err(_) => Err(Stop::Failed(ErrorClass::Timeout, "The import took longer than a day.".into())),
    };
    let finished = match brought {
        Ok((intake, license)) => {
            let finish = || import::finish(&context.pool, &context.storage, claim, &intake, license.as_deref());
            attempt.ask(finish).await.map(drop)
        }
        Err(stop) => Err(stop),
    };
    let uploads: Vec<_> = asked(&work).flat_map(|asked| asked.source.uploads()).collect();
    if finished.is_ok()
        && let Err(error) = upload::discard(&context.pool, &context.storage, &uploads).await
    {
        tracing::debug!(%error, "parts of an upload stay until it ends");
    }
    if matches!(finished, Ok(()) | Err(Stop::Canceled | Stop::Failed(ErrorClass::InvalidInput, _))) {
        scratch.remove();
    }
    finished
}

fn asked(work: &ImportWork) -> impl Iterator<Item = Asked<'_>> {
    let own = Asked {
        source: &work.source,
        part: None,
        query: work.url_query.as_ref(),
        name: &work.name,
        commit: work.source_commit.as_ref(),
    };
    let parts = work.parts.each().map(|(part, source)| Asked {
        source,
        part: Some(part),
        query: work.part_queries.get(&part),
        name: part.as_str(),
        commit: None,
    });
    std::iter::once(own).chain(parts)
}

async fn bring(attempt: &Attempt<'_>, work: &ImportWork, scratch: &Path) -> Result<(Intake, Option<String>), Stop> {
    let context = attempt.context;
    let rules = &context.config.imports;
    // A client's URL is never requested with the operator's token, not even on the Hub's own host.
    let anonymous = Fetcher { guard: &rules.guard, hub: &rules.hub, token: None };
    let of_hub = Fetcher { token: rules.hub_token.as_ref(), ..anonymous };
    let (mut files, mut license) = (Vec::new(), None);
    for asked in asked(work) {
        let mut found = find(attempt, &of_hub, &asked).await?;
        if let Source::Url { .. } = asked.source {
            found.files.extend(config_of_url(&anonymous, &asked, &found.files, scratch).await?);
        }
        if let (Some(part), true) = (asked.part, found.files.len() != 1) {
            let message =
                format!("The source of the part `{}` is {} files, not one.", part.as_str(), found.files.len());
            return Err(Stop::Failed(ErrorClass::InvalidInput, message));
        }
        files.extend(found.files);
        if asked.part.is_none() {
            license = found.license;
        }
    }
    let mut intake = Intake::of_attempt(context.pool.clone(), context.storage.clone(), work.project, attempt.claim());
    let tally = Tally::of(attempt, &files);
    for wanted in &files {
        let fetcher = if matches!(wanted.place, Place::Remote { of_hub: true, .. }) { &of_hub } else { &anonymous };
        let taken = Taker { attempt, work, scratch, fetcher, tally: &tally }.take(wanted, &mut intake).await?;
        tally.file_done(taken.bytes.unsigned_abs());
    }
    tally.end().await;
    if let Some(donor) = work.parts_of {
        let donor = attempt.ask(|| model::by_id(&context.pool, donor)).await?;
        intake.borrow_parts(&donor).await?;
    }
    Ok((intake, license))
}

/// Lists the files of the source.
async fn find(attempt: &Attempt<'_>, of_hub: &Fetcher<'_>, asked: &Asked<'_>) -> Result<Found, Stop> {
    match asked.source {
        Source::Url { url, sha256 } => Ok(one_url(asked, url, sha256.as_ref())?),
        Source::HuggingFace { .. } => hub::find(attempt, of_hub, asked).await,
        Source::Path { path } => Ok(folder::find(attempt.context.config.imports.folder.as_deref(), path, asked.name)?),
        Source::Upload { files } => uploaded(attempt, asked, files).await,
    }
}

fn one_url(asked: &Asked<'_>, url: &str, sha256: Option<&String>) -> Result<Found, DownloadError> {
    let mut url = Url::parse(url).map_err(|error| DownloadError::Final(format!("The URL cannot be read: {error}.")))?;
    url.set_query(asked.query.map(String::as_str));
    url.set_fragment(None);
    let file = Wanted {
        path: named_as(asked.name, url.path()),
        called: url.path_segments().and_then(Iterator::last).unwrap_or_default().to_owned(),
        place: Place::Remote { url, of_hub: false },
        bytes: None,
        sha256: sha256.cloned(),
    };
    Ok(Found { files: vec![file], license: None })
}

/// PEFT's config beside the URL of weights that PEFT saved, if there is one.
async fn config_of_url(
    fetcher: &Fetcher<'_>,
    asked: &Asked<'_>,
    files: &[Wanted],
    scratch: &Path,
) -> Result<Option<Wanted>, Stop> {
    let [Wanted { place: Place::Remote { url, .. }, .. }] = files else { return Ok(None) };
    if asked.part.is_some() || !is_peft(url.path()) {
        return Ok(None);
    }
    let mut beside = url.clone();
    if let Ok(mut segments) = beside.path_segments_mut() {
        segments.pop().push(CONFIG_FILE);
    }
    let text = match fetcher.text(&beside, MAX_CONFIG_BYTES as usize).await {
        Ok(text) => text,
        // It is not there, or the query string opens the weights only.
        Err(DownloadError::Final(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !serde_json::from_slice::<Value>(&text).is_ok_and(|json| json.is_object()) {
        return Ok(None);
    }
    let place = scratch.join(CONFIG_FILE);
    tokio::fs::write(&place, &text).await.map_err(|error| disk(&place, error))?;
    let bytes = Some(text.len() as u64);
    let called = CONFIG_FILE.to_owned();
    Ok(Some(Wanted { path: called.clone(), called, place: Place::Local(place), bytes, sha256: None }))
}

async fn uploaded(attempt: &Attempt<'_>, asked: &Asked<'_>, files: &[UploadedFile]) -> Result<Found, Stop> {
    let context = attempt.context;
    let mut found = Found::default();
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for file in files {
        let (parts, bytes) = attempt.ask(|| upload::whole(&context.pool, &context.storage, file.upload)).await?;
        let path = selection::path_within(asked.name, &file.path, &paths);
        let (called, place, bytes) = (file.path.clone(), Place::Parts(parts), Some(bytes.unsigned_abs()));
        found.files.push(Wanted { path, called, place, bytes, sha256: None });
    }
    Ok(found)
}

/// The text of a licence as it may be stored in a row.
fn license(text: Vec<u8>) -> Option<String> {
    String::from_utf8(text).ok().filter(|text| !text.contains('\0') && !text.trim().is_empty())
}

struct Taker<'a> {
    attempt: &'a Attempt<'a>,
    work: &'a ImportWork,
    scratch: &'a Path,
    fetcher: &'a Fetcher<'a>,
    tally: &'a Tally,
}

impl Taker<'_> {
    /// Makes sure that a file is in storage and recorded in the row.
    async fn take(&self, wanted: &Wanted, intake: &mut Intake) -> Result<ModelFile, Stop> {
        let context = self.attempt.context;
        if let Some(file) = self.work.files.iter().find(|file| file.path == wanted.path) {
            match intake.adopt(file.clone(), false).await {
                Ok(()) => return Ok(file.clone()),
                // An interrupted attempt deleted the object after its row had been written; it is stored again.
                Err(domain::Error::NotFound { .. }) => tracing::warn!(path = wanted.path, "a remembered file is gone"),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(sha256) = &wanted.sha256
            && let Some(held) = self
                .attempt
                .ask(|| intake::held_file(&context.pool, &context.storage, self.work.project, sha256))
                .await?
        {
            let file = ModelFile { path: wanted.path.clone(), ..held };
            tracing::info!(path = wanted.path, "another model has this file already");
            intake.adopt(file.clone(), true).await?;
            return Ok(file);
        }
        let file = match &wanted.place {
            Place::Local(place) => self.store(wanted, place, intake).await?,
            Place::Parts(parts) => self.join(wanted, parts, intake).await?,
            Place::Remote { url, of_hub } => {
                let place = hub::partial(self.scratch, url);
                let remote = Remote { url, path: &wanted.path, bytes: wanted.bytes, immutable: *of_hub };
                self.fetcher.download(&remote, &place, &|bytes, total| self.tally.at(bytes, total)).await?;
                let stored = self.store(wanted, &place, intake).await;
                if !matches!(stored, Err(Stop::Trouble(..) | Stop::Failed(ErrorClass::Upstream, _))) {
                    let _ = tokio::fs::remove_file(&place).await;
                }
                stored?
            }
        };
        let (pool, claim) = (&context.pool, self.attempt.claim());
        intake.keep(&file);
        self.attempt.ask(|| import::add_file(pool, claim, &file)).await?;
        Ok(file)
    }

    /// Joins uploaded parts, checks the file and stores it.
    async fn join(&self, wanted: &Wanted, parts: &[String], intake: &mut Intake) -> Result<ModelFile, Stop> {
        let mut file = intake.file(&wanted.path).await?.called(&wanted.called);
        let mut sent = 0;
        for part in parts {
            // Reads no more than a part may have: its URL may still be valid, and its owner could put a larger object
            // there.
            let bytes = self.attempt.context.storage.get_range(part, 0..upload::PART_BYTES.unsigned_abs()).await;
            let bytes = bytes.map_err(|error| match error {
                domain::Error::NotFound { .. } => {
                    let message = format!("a part of the upload for `{}` is missing from the bucket", wanted.path);
                    Stop::Failed(ErrorClass::InvalidInput, message)
                }
                other => other.into(),
            })?;
            for piece in bytes.chunks(PIECE) {
                file.write(piece).await?;
                sent += piece.len() as u64;
                self.tally.at(sent, wanted.bytes);
            }
        }
        Ok(file.finish().await?)
    }

    /// Checks a file on disk and uploads it to storage.
    async fn store(&self, wanted: &Wanted, place: &Path, intake: &mut Intake) -> Result<ModelFile, Stop> {
        let failed = |error| match &wanted.place {
            // The operator's file, which another attempt would find in the same state.
            Place::Local(_) => {
                Stop::Failed(ErrorClass::Resource, format!("`{}` could not be read: {error}.", wanted.called))
            }
            Place::Remote { .. } | Place::Parts(_) => disk(place, error),
        };
        let mut source = tokio::fs::File::open(place).await.map_err(failed)?;
        let mut file = intake.file(&wanted.path).await?.called(&wanted.called);
        let (mut piece, mut sent) = (vec![0; PIECE], 0);
        loop {
            let count = source.read(&mut piece).await.map_err(failed)?;
            if count == 0 {
                break;
            }
            file.write(&piece[..count]).await?;
            sent += count as u64;
            if matches!(wanted.place, Place::Local(_)) {
                self.tally.at(sent, wanted.bytes);
            }
        }
        let file = file.finish().await?;
        match &wanted.sha256 {
            Some(sha256) if *sha256 != file.sha256 => Err(Stop::Failed(
                ErrorClass::InvalidInput,
                format!("The file's sha256 is {}, and {sha256} was expected.", file.sha256),
            )),
            _ => Ok(file),
        }
    }
}

/// Number of files and bytes done, reported at intervals.
struct Tally {
    progress: Progress,
    /// Sizes of the files in their order; 0 while one is not known.
    sizes: Vec<AtomicU64>,
    done: AtomicUsize,
    done_bytes: AtomicU64,
    began: Instant,
    told_at: AtomicU64,
}

impl Tally {
    fn of(attempt: &Attempt<'_>, files: &[Wanted]) -> Self {
        let tally = Self {
            progress: attempt.progress(),
            sizes: files.iter().map(|file| AtomicU64::new(file.bytes.unwrap_or(0))).collect(),
            done: AtomicUsize::new(0),
            done_bytes: AtomicU64::new(0),
            began: Instant::now(),
            told_at: AtomicU64::new(0),
        };
        tally.tell(0);
        tally
    }

    /// Sets the bytes done of the current file, and its size, if that is known by now.
    fn at(&self, bytes: u64, size: Option<u64>) {
        self.learn(size);
        let now = self.began.elapsed();
        if now >= Duration::from_millis(self.told_at.load(Ordering::Relaxed)) + REPORT {
            self.told_at.store(now.as_millis() as u64, Ordering::Relaxed);
            self.tell(bytes);
        }
    }

    fn file_done(&self, bytes: u64) {
        self.learn(Some(bytes));
        self.done.fetch_add(1, Ordering::Relaxed);
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tell(0);
    }

    fn learn(&self, size: Option<u64>) {
        if let (Some(size), Some(current)) = (size, self.sizes.get(self.done.load(Ordering::Relaxed))) {
            current.store(size, Ordering::Relaxed);
        }
    }

    fn tell(&self, at_hand: u64) {
        let bytes = self.done_bytes.load(Ordering::Relaxed) + at_hand;
        let sizes = self.sizes.iter().map(|size| Some(size.load(Ordering::Relaxed)).filter(|size| *size > 0));
        let total = sizes.sum::<Option<u64>>();
        let data = json!({"bytes": bytes, "total_bytes": total});
        self.progress.set(self.done.load(Ordering::Relaxed), self.sizes.len(), data);
    }

    async fn end(self) {
        self.progress.end().await;
    }
}
