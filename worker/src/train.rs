//! Runs a training: rows → pictures and base model on the local disk → engine → checkpoints and adapter in storage → a
//! new model and succeeded.
//!
//! Checkpoints are uploaded while the training continues; the next attempt, on any worker, continues from the latest
//! one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::artifact;
use domain::job::ErrorClass;
use domain::model::ModelFiles;
use domain::storage::StorageKey;
use domain::training::{self, NewCheckpoint, Snapshot, TrainingWork};
use requests::TrainingParams;
use serde_json::json;

use crate::attempt::Attempt;
use crate::fetch::{self, Wanted};
use crate::fit;
use crate::output;
use crate::protocol::{Base, Example, Order, Output, Report, RequestId, Train};
use crate::stop::Stop;
use crate::supervisor::Work;

/// Time limit for uploading the last checkpoint of an attempt that ends early.
const LAST_CHECKPOINT: Duration = Duration::from_secs(20);

/// A checkpoint on the local disk.
struct Saved {
    path: PathBuf,
    step: usize,
}

/// Runs the whole attempt.
pub(crate) async fn run(attempt: &Attempt<'_>) -> Result<(), Stop> {
    let (context, claim) = (attempt.context, attempt.claim());
    let work = attempt.ask(|| training::load_work(&context.pool, claim)).await?;
    let order = order(attempt, &work).await?;
    let (adapter, reported) = teach(attempt, &work, order).await?;
    let warnings = domain::model::job_warnings([&work.base], reported);

    let adapter = output::store(attempt, &adapter).await?;
    attempt.ask(|| training::finish(&context.pool, &context.storage, claim, adapter.clone(), &warnings)).await.map(drop)
}

async fn order(attempt: &Attempt<'_>, work: &TrainingWork) -> Result<Train, Stop> {
    fit::training(attempt, work)?;
    let folder = fetch::checkpoint(attempt, &work.base, "base").await?;
    fit::learn(attempt, &work.base, &folder).await;
    let base = Base { folder, name: work.base.name.clone(), sha256: work.base.sha256.clone() };
    let examples = examples(attempt, &work.examples).await?;
    let resume = resume(attempt, work).await?;
    Ok(Train {
        request: 0,
        base,
        examples,
        params: work.params.clone(),
        resume,
        output_dir: attempt.subfolder("output")?,
        checkpoint_every: attempt.context.config.checkpoint_every.max(1),
        metadata: metadata(&work.base, work.examples.len(), &work.params),
    })
}

async fn examples(attempt: &Attempt<'_>, snapshots: &[Snapshot]) -> Result<Vec<Example>, Stop> {
    let folder = attempt.subfolder("examples")?;
    let mut examples = Vec::with_capacity(snapshots.len());
    let mut wanted = Vec::with_capacity(snapshots.len());
    for (place, snapshot) in snapshots.iter().enumerate() {
        let path = folder.join(format!("{place:05}.{}", artifact::extension(&snapshot.media_type)));
        wanted.push(Wanted {
            name: format!("the picture of example {}", place + 1),
            storage_key: snapshot.storage_key.clone(),
            sha256: snapshot.sha256.clone(),
            bytes: None,
            target: path.clone(),
        });
        attempt.labels.add(&path, format!("example {}", place + 1));
        examples.push(Example { path, caption: snapshot.caption.clone() });
    }
    fetch::all(attempt, wanted).await?;
    Ok(examples)
}

async fn resume(attempt: &Attempt<'_>, work: &TrainingWork) -> Result<Option<PathBuf>, Stop> {
    let Some(checkpoint) = &work.checkpoint else { return Ok(None) };
    let path = attempt.folder().join("resume.safetensors");
    attempt.labels.add(&path, format!("the checkpoint of step {}", checkpoint.step));
    let wanted = Wanted {
        name: format!("the checkpoint of step {}", checkpoint.step),
        storage_key: checkpoint.storage_key.clone(),
        sha256: checkpoint.sha256.clone(),
        bytes: u64::try_from(checkpoint.bytes).ok(),
        target: path.clone(),
    };
    fetch::all(attempt, vec![wanted]).await?;
    tracing::info!(training = %work.id, step = checkpoint.step, epoch = checkpoint.epoch, "going on from a checkpoint");
    Ok(Some(path))
}

/// The metadata in the adapter's file: ours, and the keys of the [model metadata
/// standard](https://github.com/Stability-AI/ModelSpec) that other programs show. Nothing in it differs between two
/// trainings of the same request, so that they make the same file; names and ids are in the database.
fn metadata(base: &ModelFiles, examples: usize, params: &TrainingParams) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([
        ("modelspec.sai_model_spec".to_owned(), "1.0.1".to_owned()),
        ("modelspec.title".into(), format!("LoRA for {}", base.name)),
        ("pyrograph.version".into(), env!("CARGO_PKG_VERSION").into()),
        ("pyrograph.base_model".into(), base.name.clone()),
        ("pyrograph.base_sha256".into(), base.sha256.clone()),
        ("pyrograph.examples".into(), examples.to_string()),
        ("pyrograph.steps".into(), params.steps.to_string()),
        ("pyrograph.rank".into(), params.rank.to_string()),
        ("pyrograph.alpha".into(), params.alpha.to_string()),
        ("pyrograph.learning_rate".into(), params.learning_rate.to_string()),
        ("pyrograph.batch_size".into(), params.batch_size.to_string()),
        ("pyrograph.resolution".into(), params.resolution.to_string()),
        ("pyrograph.seed".into(), params.seed.to_string()),
    ]);
    if let Some(word) = &params.trigger_word {
        metadata.insert("modelspec.trigger_phrase".into(), word.clone());
    }
    metadata
}

/// Runs the trainer; returns the adapter.
async fn teach(attempt: &Attempt<'_>, work: &TrainingWork, order: Train) -> Result<(Output, Vec<String>), Stop> {
    let patience = attempt.patience();
    let engine_work = Work::new(patience, move |request: RequestId| Order::Train(Box::new(Train { request, ..order })));
    let (saved, mut inbox) = tokio::sync::mpsc::unbounded_channel::<Saved>();
    let sending = async {
        while let Some(mut newest) = inbox.recv().await {
            // Only the newest checkpoint is worth uploading.
            while let Ok(newer) = inbox.try_recv() {
                remove(&std::mem::replace(&mut newest, newer).path);
            }
            if let Err(stop) = send(attempt, work, &newest).await {
                tracing::warn!(reason = %stop, step = newest.step, "a checkpoint was not stored");
            }
            remove(&newest.path);
        }
    };
    tokio::pin!(sending);
    let talking = talk(attempt, &work.base.name, engine_work, saved);
    tokio::pin!(talking);
    let outcome = tokio::select! {
        outcome = &mut talking => outcome,
        // Never finishes first: the sender is owned by the conversation.
        () = &mut sending => talking.await,
    };
    match &outcome {
        // The finished adapter makes checkpoints useless; without the lease or after a cancel nobody needs them.
        Ok(_) | Err(Stop::LeaseLost | Stop::Canceled) => {}
        Err(_) => {
            let _ = tokio::time::timeout(LAST_CHECKPOINT, sending).await;
        }
    }
    outcome
}

async fn talk(
    attempt: &Attempt<'_>,
    model: &str,
    work: Work,
    saved: tokio::sync::mpsc::UnboundedSender<Saved>,
) -> Result<(Output, Vec<String>), Stop> {
    let mut conversation = attempt.converse(work).await?;
    let progress = attempt.progress();
    let (mut adapter, mut warnings) = (None, Vec::new());
    loop {
        match conversation.next().await? {
            Report::Reading { bytes, total_bytes, seconds, .. } => progress.read(model, bytes, total_bytes, seconds),
            Report::Progress { step, total_steps, loss, seconds_per_step, .. } => {
                progress.set(step, total_steps, json!({"loss": loss, "seconds_per_step": seconds_per_step}));
            }
            Report::Checkpoint { path, step, .. } => {
                let _ = saved.send(Saved { path, step });
            }
            Report::Warning { message, .. } => warnings.push(message),
            Report::Output { output, .. } => adapter = Some(output),
            Report::Done { .. } => {
                let adapter = adapter
                    .ok_or_else(|| Stop::Failed(ErrorClass::Internal, "the engine trained no adapter".into()))?;
                progress.end().await;
                return Ok((adapter, warnings));
            }
            other => tracing::debug!(?other, "not about a training"),
        }
    }
}

async fn send(attempt: &Attempt<'_>, work: &TrainingWork, saved: &Saved) -> Result<(), Stop> {
    let (context, claim) = (attempt.context, attempt.claim());
    let step = i32::try_from(saved.step).unwrap_or(i32::MAX);
    let key = StorageKey::TrainingCheckpoint { training: work.id, epoch: claim.epoch, step }.to_string();
    let stored = attempt.store(&saved.path, &key, "application/octet-stream").await?;
    let checkpoint = NewCheckpoint { step, storage_key: key, sha256: stored.sha256, bytes: stored.bytes };
    attempt.ask(|| training::add_checkpoint(&context.pool, &context.storage, claim, checkpoint.clone())).await
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "not removed");
    }
}

#[cfg(test)]
mod tests {
    use domain::ModelId;

    use super::*;

    /// A title or an id would make the files of two equal trainings differ.
    #[test]
    fn the_metadata_depends_on_the_request_alone() {
        let params = TrainingParams {
            trigger_word: Some("ink".into()),
            steps: 3,
            rank: 4,
            alpha: 4.0,
            learning_rate: 1e-4,
            batch_size: 1,
            resolution: 64,
            seed: 7,
        };
        // Another row of the same model.
        let [one, other] = [(); 2].map(|()| ModelFiles {
            id: ModelId::new(),
            name: "ember".into(),
            family: "flux".into(),
            sha256: "ee".repeat(32),
            files: Vec::new(),
            warnings: Vec::new(),
            networks: None,
        });
        let metadata_of = |base| metadata(base, 10, &params);
        assert_eq!(metadata_of(&one), metadata_of(&other));
        assert_eq!(metadata_of(&one)["modelspec.title"], "LoRA for ember");
        assert_eq!(metadata_of(&one)["modelspec.trigger_phrase"], "ink");
        assert_ne!(metadata_of(&one), metadata(&one, 11, &params));
    }
}
