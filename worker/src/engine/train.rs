//! Trains one adapter; reports every step and writes checkpoints from which another attempt can continue.

use std::time::Instant;

use diffusion::training::{LoraTrainer, TrainingExample};
use domain::artifact::{ADAPTER_MEDIA_TYPE, OutputKind};
use memory::WeightStorage;

use super::models::Models;
use super::{End, EngineSession, Signal};
use crate::protocol::{Output, Report, Train};

/// Runs the trainer from its start, or from the checkpoint in the order, to its last step.
pub(super) fn run(models: &mut Models, order: &Train, session: &EngineSession) -> diffusion::Result<End> {
    let request = order.request;
    let plan = models.make_room_for_training(order)?;
    session.tell_resident(models.list(None));
    let (base, device, reading) = (&order.base.folder, &models.device().device, models.reading());
    let mut trainer = LoraTrainer::load(base, &examples(order), order.params.clone(), device, plan.options, reading)?;
    trainer.set_gradient_checkpointing(plan.recompute);
    let format = plan.options.weights;
    if format > WeightStorage::Half {
        let message = format!("the base model was stored in {format}; another format gives another LoRA");
        session.report(&Report::Warning { request, message });
    }
    if let Some(checkpoint) = &order.resume {
        trainer.resume(checkpoint)?;
        tracing::info!(checkpoint = %checkpoint.display(), "training resumed");
    }
    let checkpoint = |trainer: &LoraTrainer, step: usize| {
        let path = order.output_dir.join(format!("checkpoint-{step}.safetensors"));
        trainer.save_checkpoint(&path)?;
        session.report(&Report::Checkpoint { request, path, step });
        Ok::<_, diffusion::Error>(())
    };
    let mut last_saved = None;
    loop {
        let started = Instant::now();
        let Some(step) = trainer.next().transpose()? else { break };
        session.fault.at_step(step.step);
        session.report(&Report::Progress {
            request,
            step: step.step,
            total_steps: step.total_steps,
            loss: Some(step.loss),
            seconds_per_step: Some(started.elapsed().as_secs_f64()),
        });
        let signal = session.signal(request);
        if signal == Signal::Cancel {
            return Ok(End::Canceled);
        }
        let due = step.step % order.checkpoint_every == 0 && step.step < step.total_steps;
        if (due || signal == Signal::Suspend) && last_saved != Some(step.step) {
            checkpoint(&trainer, step.step)?;
            last_saved = Some(step.step);
        }
        if signal == Signal::Suspend && step.step < step.total_steps {
            return Ok(End::Suspended);
        }
    }
    let path = order.output_dir.join("adapter.safetensors");
    trainer.save_adapter(&path, &order.metadata)?;
    let output = Output {
        position: 0,
        path,
        kind: OutputKind::Adapter,
        media_type: ADAPTER_MEDIA_TYPE.into(),
        size: None,
        seed: None,
    };
    session.report(&Report::Output { request, output });
    Ok(End::Done)
}

fn examples(order: &Train) -> Vec<TrainingExample> {
    order
        .examples
        .iter()
        .map(|example| TrainingExample { image: example.path.clone(), caption: example.caption.clone() })
        .collect()
}
