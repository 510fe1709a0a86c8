//! Downloads the files of a job from storage into the attempt's folder, through the cache.
//!
//! File names on disk are ours, or a model's own names after a check that they stay inside its folder.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::job::{ErrorClass, Stage, StageProgress};
use domain::model::{CONFIG_FILE, ModelFile, ModelFiles};
use futures::{StreamExt, TryStreamExt};
use tokio::time::{Instant, timeout};

use crate::attempt::{Attempt, WorkerContext};
use crate::cache::CacheError;
use crate::room;
use crate::stop::Stop;

/// Number of simultaneous downloads.
const AT_ONCE: usize = 4;

/// Time between two reports of progress.
const REPORT: Duration = Duration::from_secs(1);

/// One object and its target.
pub(crate) struct Wanted {
    /// What it is, for the user: "the picture `image`".
    pub name: String,
    pub storage_key: String,
    pub sha256: String,
    /// If the row records it.
    pub bytes: Option<u64>,
    pub target: PathBuf,
}

/// Fetches a checkpoint as a folder in diffusers layout; returns the folder.
pub(crate) async fn checkpoint(attempt: &Attempt<'_>, model: &ModelFiles, name: &str) -> Result<PathBuf, Stop> {
    let folder = attempt.subfolder(name)?;
    attempt.labels.add(&folder, &model.name);
    let wanted = model.files.iter().map(|file| of_model("checkpoint", model, file, folder.join(&file.path)));
    all_of(attempt, Some(&model.name), wanted.collect::<Result<_, _>>()?).await?;
    Ok(folder)
}

/// The same for a caller that has a folder but no attempt.
pub(crate) async fn checkpoint_into(context: &WorkerContext, model: &ModelFiles, folder: &Path) -> Result<(), Stop> {
    let wanted = model.files.iter().map(|file| of_model("checkpoint", model, file, folder.join(&file.path)));
    each(context, folder, wanted.collect::<Result<_, _>>()?, &Arc::default()).await
}

/// Fetches a model that is one file, such as a preview decoder; returns its path.
pub(crate) async fn one_file(attempt: &Attempt<'_>, model: &ModelFiles, name: &str) -> Result<PathBuf, Stop> {
    let [file] = model.files.as_slice() else {
        return Err(wrong(format!("model {} has {} files instead of one", model.name, model.files.len())));
    };
    let target = attempt.folder().join(format!("{name}.safetensors"));
    attempt.labels.add(&target, &model.name);
    all_of(attempt, Some(&model.name), vec![of_model("preview decoder", model, file, target.clone())?]).await?;
    Ok(target)
}

/// Fetches a LoRA and the config beside it, if it has one, into a folder `name`; returns the path of the weights.
pub(crate) async fn adapter(attempt: &Attempt<'_>, model: &ModelFiles, name: &str) -> Result<PathBuf, Stop> {
    let folder = attempt.subfolder(name)?;
    let mut weights = None;
    let mut wanted = Vec::with_capacity(model.files.len());
    for file in &model.files {
        // The reader expects the config under its own name.
        let target = if file.path == CONFIG_FILE {
            folder.join(CONFIG_FILE)
        } else {
            let target = folder.join("weights.safetensors");
            if weights.replace(target.clone()).is_some() {
                return Err(wrong(format!("model {} has several files of weights", model.name)));
            }
            target
        };
        wanted.push(of_model("LoRA", model, file, target)?);
    }
    all_of(attempt, Some(&model.name), wanted).await?;
    weights.ok_or_else(|| wrong(format!("model {} has no weights", model.name)))
}

/// Fetches everything; returns the first error.
pub(crate) async fn all(attempt: &Attempt<'_>, wanted: Vec<Wanted>) -> Result<(), Stop> {
    all_of(attempt, None, wanted).await
}

/// The same for the files of a model. If it takes longer than [`REPORT`], the job reports its progress.
async fn all_of(attempt: &Attempt<'_>, model: Option<&str>, wanted: Vec<Wanted>) -> Result<(), Stop> {
    let cache = &attempt.context.cache;
    let missing = wanted.iter().filter(|wanted| !cache.holds(&wanted.sha256, wanted.bytes));
    let missing: BTreeMap<_, _> = missing.map(|wanted| (&wanted.sha256, wanted.bytes)).collect();
    let total = missing.into_values().sum::<Option<u64>>();
    let received = Arc::new(AtomicU64::new(0));
    let fetching = attempt.prepare(each(attempt.context, attempt.folder(), wanted, &received));
    tokio::pin!(fetching);
    if total == Some(0) {
        return fetching.await;
    }
    let began = Instant::now();
    if let Ok(fetched) = timeout(REPORT, &mut fetching).await {
        return fetched;
    }
    let progress = attempt.progress();
    let fetched = loop {
        let (bytes, model) = (received.load(Ordering::Relaxed), model.map(str::to_owned));
        progress.stage(StageProgress::after(began.elapsed(), Stage::Fetching, model, bytes, total));
        if let Ok(fetched) = timeout(REPORT, &mut fetching).await {
            break fetched;
        }
    };
    if fetched.is_ok() {
        progress.stage_over();
        progress.end().await;
    }
    fetched
}

/// Fetches files beside those that the job has in `folder`.
async fn each(
    context: &WorkerContext,
    folder: &Path,
    wanted: Vec<Wanted>,
    received: &Arc<AtomicU64>,
) -> Result<(), Stop> {
    // Identical files with several names are fetched once, and then linked.
    let mut same = BTreeMap::<String, Vec<Wanted>>::new();
    for wanted in wanted {
        same.entry(wanted.sha256.clone()).or_default().push(wanted);
    }
    // Gigabytes may follow.
    room::check(folder, same.values().filter_map(|same| same.first()?.bytes).sum())?;
    let fetched = futures::stream::iter(same.into_values()).map(|same| async move {
        for wanted in same {
            one(context, wanted, received).await?;
        }
        Ok(())
    });
    fetched.buffer_unordered(AT_ONCE).try_collect().await
}

async fn one(context: &WorkerContext, wanted: Wanted, received: &Arc<AtomicU64>) -> Result<(), Stop> {
    let (storage, cache, key) = (&context.storage, &context.cache, &wanted.storage_key);
    let shared = match storage.local_file(key) {
        Some(object) => {
            let shared = cache.share(&wanted.sha256, wanted.bytes, object, received).await;
            shared.map_err(|error| not_provided(&wanted, error))?
        }
        None => None,
    };
    let file = match shared {
        Some(file) => file,
        None => {
            let download = |path: PathBuf| async move { storage.get_to_file(key, &path, received).await };
            let file = cache.file(&wanted.sha256, wanted.bytes, download).await;
            file.map_err(|error| not_provided(&wanted, error))?
        }
    };
    Ok(cache.link(&file, &wanted.target)?)
}

/// Storage keys and digests mean nothing to the user; the log has them.
fn not_provided(wanted: &Wanted, error: CacheError) -> Stop {
    let (name, key) = (&wanted.name, &wanted.storage_key);
    let message = match &error {
        CacheError::Storage(domain::Error::NotFound { .. }) => format!("{name} is missing from the bucket"),
        CacheError::Corrupt { .. } => format!("{name} is damaged in the bucket: it has other bytes than were stored"),
        _ => return error.into(),
    };
    tracing::warn!(key, %error, message);
    Stop::Failed(ErrorClass::Upstream, message)
}

/// `noun` is what users call the kind of model.
fn of_model(noun: &str, model: &ModelFiles, file: &ModelFile, target: PathBuf) -> Result<Wanted, Stop> {
    let inside = Path::new(&file.path).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside || file.path.is_empty() {
        return Err(wrong(format!("model {} names a file outside its folder: {}", model.name, file.path)));
    }
    Ok(Wanted {
        name: format!("the file `{}` of the {noun} `{}`", file.path, model.name),
        storage_key: file.storage_key.clone(),
        sha256: file.sha256.clone(),
        bytes: u64::try_from(file.bytes).ok(),
        target,
    })
}

fn wrong(message: String) -> Stop {
    Stop::Failed(ErrorClass::InvalidInput, message)
}
