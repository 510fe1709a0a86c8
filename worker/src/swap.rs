//! Swaps on this worker: models that somebody wants loaded, or unloaded, between two jobs; and telling what is loaded.
//!
//! A swap holds no lease and is not tried again: it ends with the worker, and a job loads its model by itself anyway.

use std::sync::Arc;

use domain::WorkerId;
use domain::model::ModelFiles;
use domain::swap::{self, SwapAction, SwapWork};
use domain::worker::Resident;

use crate::attempt::{House, Stop, disk};
use crate::fetch;
use crate::protocol::{Base, Order, Report, RequestId};
use crate::supervisor::{Event, Gone, Patience, Work};

/// What is asked of this worker.
#[derive(Clone)]
pub struct Swaps {
    house: Arc<House>,
    worker: WorkerId,
}

impl Swaps {
    pub(crate) fn of(house: Arc<House>, worker: WorkerId) -> Self {
        Self { house, worker }
    }

    /// Carries out all that is asked for, one after the other, the oldest first. What the database does not tell or take now is
    /// asked for again at the next call.
    pub async fn carry_out(&self) {
        loop {
            let told = swap::next(&self.house.pool, self.worker).await;
            let Some(work) = told.unwrap_or_else(|error| {
                tracing::debug!(%error, "no word of swaps");
                None
            }) else {
                return;
            };
            let done = tokio::select! {
                done = self.carry_out_one(&work) => done,
                // It ends with its worker.
                () = self.house.draining.cancelled() => return,
            };
            let (model, action) = (&work.model.name, work.action.as_str());
            match &done {
                Ok(()) => tracing::info!(model, action, "swapped"),
                Err(error) => tracing::warn!(model, action, error, "not swapped"),
            }
            // Who sees its end shall see its effect.
            let written = async {
                tell_resident(&self.house, self.worker).await?;
                swap::end(&self.house.pool, work.id, done.err().as_deref()).await
            };
            if let Err(error) = written.await {
                tracing::warn!(%error, "the end of a swap could not be written");
                return;
            }
        }
    }

    /// An error is a sentence for people.
    async fn carry_out_one(&self, work: &SwapWork) -> Result<(), String> {
        let patience = self.house.config.silence.loading;
        let patience = Patience { before_first_step: patience, between_steps: patience };
        let sha256 = work.model.sha256.clone();
        match work.action {
            SwapAction::Unload => self.engine(Work::new(patience, |request| Order::Unload { request, sha256 })).await,
            SwapAction::Load if work.deleted => Err(format!("{} was deleted.", work.model.name)),
            SwapAction::Load => {
                // Kept until the engine has read it.
                let folder = tempfile::Builder::new().prefix("load-").tempdir_in(&self.house.work_dir);
                let folder = folder.map_err(|error| sentence(disk(&self.house.work_dir, error)))?;
                let base = self.base(&work.model, folder.path()).await.map_err(sentence)?;
                let order = |request: RequestId| Order::Load { request, base };
                self.engine(Work::new(patience, order)).await
            }
        }
    }

    async fn base(&self, model: &ModelFiles, folder: &std::path::Path) -> Result<Base, Stop> {
        fetch::checkpoint_into(&self.house, model, folder).await?;
        Ok(Base { folder: folder.to_owned(), name: model.name.clone(), sha256: model.sha256.clone() })
    }

    async fn engine(&self, work: Work) -> Result<(), String> {
        let stops = || "The worker stops.".to_owned();
        let mut session = self.house.engine.begin(work).await.ok_or_else(stops)?;
        loop {
            match session.next().await {
                Some(Event::Report(Report::Done { .. })) => return Ok(()),
                Some(Event::Report(Report::Failed { message, .. })) => return Err(message),
                Some(Event::Report(_)) => {}
                Some(Event::Gone(Gone::Crashed(how))) => return Err(how),
                Some(Event::Gone(Gone::Silent(limit))) => {
                    return Err(format!("The engine gave no sign of life for {} s.", limit.as_secs_f64()));
                }
                Some(Event::Gone(Gone::Killed)) | None => return Err(stops()),
            }
        }
    }
}

fn sentence(stop: Stop) -> String {
    match stop {
        Stop::Released(why) | Stop::Crashed(why) | Stop::Failed(_, why) => why,
        Stop::LeaseLost | Stop::Canceled => "It was ended.".into(),
    }
}

/// Tells what the engine has loaded now.
pub(crate) async fn tell_resident(house: &House, worker: WorkerId) -> domain::Result<()> {
    let resident: Vec<Resident> = {
        let told = house.engine.resident();
        let told = told.borrow();
        told.iter()
            .map(|model| Resident {
                sha256: model.sha256.clone(),
                bytes: i64::try_from(model.bytes).unwrap_or(i64::MAX),
            })
            .collect()
    };
    domain::worker::seen(&house.pool, worker, &resident).await
}
