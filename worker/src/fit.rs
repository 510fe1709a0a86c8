//! Whether a job fits into the memory that the engine may use, before a file is fetched for it. The engine asks again,
//! with the adapters that are fetched by then.

use std::path::Path;

use domain::generation::GenerationWork;
use domain::model::{self, ModelFiles};
use domain::training::TrainingWork;
use memory::{Budget, Demand, Footprint, Picture, TooLarge, TrainingDemand};

use crate::attempt::Attempt;
use crate::stop::Stop;

/// Errors: [`Stop::DoesNotFit`].
pub(crate) fn picture(attempt: &Attempt<'_>, work: &GenerationWork) -> Result<(), Stop> {
    let Some((budget, footprint)) = known(attempt, &work.base) else { return Ok(()) };
    let demand = Demand { footprint: &footprint, picture: Picture::from(&work.params), adapters: 0 };
    budget.plan(&demand).map(drop).map_err(does_not_fit)
}

/// Errors: [`Stop::DoesNotFit`].
pub(crate) fn training(attempt: &Attempt<'_>, work: &TrainingWork) -> Result<(), Stop> {
    let Some((budget, footprint)) = known(attempt, &work.base) else { return Ok(()) };
    let demand = TrainingDemand { footprint: &footprint, params: &work.params, examples: work.examples.len() };
    budget.plan_training(&demand).map_or(Ok(()), |planned| planned.map(drop).map_err(does_not_fit))
}

/// The engine's budget and the model's footprint, if both are known.
fn known(attempt: &Attempt<'_>, base: &ModelFiles) -> Option<(Budget, Footprint)> {
    let budget = attempt.context.engine.info()?.budget?;
    let footprint = Footprint::of(base.family.parse().ok()?, base.networks.as_ref()?).ok()?;
    Some((budget, footprint))
}

fn does_not_fit(TooLarge { needed, reason }: TooLarge) -> Stop {
    Stop::DoesNotFit(needed, reason)
}

/// Records the networks of a checkpoint of an older version, whose files are in `folder` now.
pub(crate) async fn learn(attempt: &Attempt<'_>, base: &ModelFiles, folder: &Path) {
    if base.networks.is_some() {
        return;
    }
    match diffusion::pipelines::networks(folder) {
        Ok(networks) => {
            if let Err(error) = model::learn_networks(&attempt.context.pool, base.id, &networks).await {
                tracing::debug!(%error, model = base.name, "the networks of a model could not be recorded");
            }
        }
        // The engine says why.
        Err(error) => tracing::debug!(%error, model = base.name, "the networks of a model could not be read"),
    }
}
