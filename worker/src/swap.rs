//! Swaps on this worker: loads and unloads models on request between two jobs, and records which models are loaded.
//!
//! A swap holds no lease and is not retried: it ends with the worker, and a job loads its model by itself anyway.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::model::ModelFiles;
use domain::swap::{self, SwapAction, SwapWork};
use domain::worker::Resident;
use domain::{SwapId, WorkerId};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::attempt::WorkerContext;
use crate::fetch;
use crate::labels::Labels;
use crate::protocol::{Base, Order, Report, RequestId};
use crate::stop::{Stop, disk};
use crate::supervisor::{EngineExit, Event, Patience, Work};

/// How long an engine may send no report while it loads a model: a large one takes long on a slow disk.
const LOADING: Duration = Duration::from_mins(10);

/// Swaps requested of this worker.
#[derive(Clone)]
pub struct Swaps {
    context: Arc<WorkerContext>,
    worker: WorkerId,
    fetching: Arc<Mutex<Option<Fetching>>>,
}

/// Files of a model to be loaded are fetched while jobs run, which may take many minutes.
struct Fetching {
    swap: SwapId,
    task: JoinHandle<Result<TempDir, String>>,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Swaps {
    pub(crate) fn of(context: Arc<WorkerContext>, worker: WorkerId) -> Self {
        Self { context, worker, fetching: Arc::default() }
    }

    /// Carries out the oldest swap if its files are here, or starts fetching them. Called between two jobs, so one at a
    /// time. What the database cannot read or write now is tried again at the next call.
    pub async fn carry_out(&self) {
        let told = swap::next(&self.context.pool, self.worker).await;
        let Some(work) = told.unwrap_or_else(|error| {
            tracing::debug!(%error, "no word of swaps");
            None
        }) else {
            return;
        };
        let files = match work.action {
            SwapAction::Load if !work.deleted => match self.fetched(&work).await {
                Some(files) => files.map(Some),
                None => return,
            },
            _ => Ok(None),
        };
        let done = tokio::select! {
            done = self.carry_out_one(&work, files) => done,
            // A swap ends with its worker.
            () = self.context.draining.cancelled() => return,
        };
        let (model, action) = (&work.model.name, work.action.as_str());
        match &done {
            Ok(()) => tracing::info!(model, action, "swapped"),
            Err(error) => tracing::warn!(model, action, error, "not swapped"),
        }
        // A client that sees the end of the swap must also see its effect.
        let written = async {
            tell_resident(&self.context, self.worker).await?;
            swap::end(&self.context.pool, work.id, done.err().as_deref()).await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "the end of a swap could not be written");
        }
    }

    /// The files of a model to be loaded; `None` while they are being fetched.
    async fn fetched(&self, work: &SwapWork) -> Option<Result<TempDir, String>> {
        let mut ended = {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            match fetching.take() {
                Some(here) if here.swap == work.id && here.task.is_finished() => here,
                Some(coming) if coming.swap == work.id => {
                    *fetching = Some(coming);
                    return None;
                }
                _ => {
                    let (context, model) = (Arc::clone(&self.context), work.model.clone());
                    let task = tokio::spawn(async move { fetch_files(&context, &model).await });
                    *fetching = Some(Fetching { swap: work.id, task });
                    return None;
                }
            }
        };
        let files = (&mut ended.task).await;
        Some(files.unwrap_or_else(|error| Err(format!("The model could not be fetched: {error}"))))
    }

    /// The error is a sentence for users.
    async fn carry_out_one(&self, work: &SwapWork, files: Result<Option<TempDir>, String>) -> Result<(), String> {
        let patience = Patience { before_first_step: LOADING, between_steps: LOADING };
        let sha256 = work.model.sha256.clone();
        match work.action {
            SwapAction::Unload => self.engine(Work::new(patience, |request| Order::Unload { request, sha256 })).await,
            SwapAction::Load => {
                // Kept until the engine has read it.
                let Some(files) = files? else { return Err(format!("{} was deleted.", work.model.name)) };
                let labels = Labels::default();
                labels.add(files.path(), &work.model.name);
                let base = Base { folder: files.path().to_owned(), name: work.model.name.clone(), sha256 };
                let order = |request: RequestId| Order::Load { request, base };
                self.engine(Work::new(patience, order)).await.map_err(|error| labels.apply(&error))
            }
        }
    }

    async fn engine(&self, work: Work) -> Result<(), String> {
        let stops = || "The worker stops.".to_owned();
        let mut session = self.context.engine.begin(work).await.ok_or_else(stops)?;
        loop {
            match session.next().await {
                Some(Event::Report(Report::Done { .. })) => return Ok(()),
                Some(Event::Report(Report::Failed { message, .. })) => return Err(message),
                Some(Event::Report(_)) => {}
                Some(Event::Exited(EngineExit::Crashed(how))) => return Err(how),
                Some(Event::Exited(EngineExit::Silent(limit))) => {
                    return Err(format!("The engine gave no sign of life for {} s.", limit.as_secs_f64()));
                }
                Some(Event::Exited(EngineExit::Killed)) | None => return Err(stops()),
            }
        }
    }
}

async fn fetch_files(context: &WorkerContext, model: &ModelFiles) -> Result<TempDir, String> {
    let work_dir = &context.work_dir;
    let folder = work_dir.ensure().and_then(|parent| tempfile::Builder::new().prefix("load-").tempdir_in(parent));
    let folder = folder.map_err(|error| sentence(disk(work_dir.path(), error)))?;
    fetch::checkpoint_into(context, model, folder.path()).await.map_err(sentence)?;
    Ok(folder)
}

fn sentence(stop: Stop) -> String {
    match stop {
        Stop::Released(why)
        | Stop::Trouble(_, why)
        | Stop::Crashed(why)
        | Stop::DoesNotFit(_, why)
        | Stop::NoRoom(why)
        | Stop::Failed(_, why) => why,
        Stop::LeaseLost | Stop::Canceled => "It was ended.".into(),
    }
}

/// Records which models the engine has loaded now.
pub(crate) async fn tell_resident(context: &WorkerContext, worker: WorkerId) -> domain::Result<()> {
    let resident: Vec<Resident> = {
        let told = context.engine.resident();
        let told = told.borrow();
        told.iter()
            .map(|model| Resident {
                sha256: model.sha256.clone(),
                bytes: i64::try_from(model.bytes).unwrap_or(i64::MAX),
            })
            .collect()
    };
    domain::worker::seen(&context.pool, worker, &resident).await
}
