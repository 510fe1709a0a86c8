//! Makes the pictures of one request and writes them as PNG files.

use std::ops::ControlFlow;

use diffusion::{PictureRequest, Pipeline, image};

use super::models::Models;
use super::picture::{self, Recipe};
use super::preview::Previews;
use super::{End, EngineSession, Signal};
use crate::protocol::{Generate, Report};

/// Runs the pipeline, reporting every step and at the end every picture.
pub(super) fn run(models: &mut Models, order: &Generate, session: &EngineSession) -> diffusion::Result<End> {
    let request = order.request;
    if session.signal(request) != Signal::GoOn {
        return Ok(End::Canceled);
    }
    // Before the model is taken from its shelf: a picture that cannot be read costs no model.
    let source = order.source.as_ref();
    let image = source.map(|source| image::read(&source.image)).transpose()?;
    let mask = source.and_then(|source| source.mask.as_ref()).map(|mask| image::read_mask(mask)).transpose()?;
    let scheduler =
        order.scheduler.as_deref().map(|name| name.parse().map_err(diffusion::Error::Invalid)).transpose()?;
    let pictures = PictureRequest {
        prompt: order.prompt.clone(),
        image,
        mask,
        strength: source.map_or(1.0, |source| source.strength),
        scheduler,
        clip_skip: order.clip_skip,
        negative_prompt: order.negative_prompt.clone(),
        num_images: order.num_images,
        num_inference_steps: order.num_inference_steps,
        guidance_scale: order.guidance_scale,
        true_cfg_scale: order.true_cfg_scale,
        guidance_rescale: 0.0,
        width: order.width,
        height: order.height,
        seed: order.seed,
    };
    let (resident, warnings) = models.pipeline(&order.base, &order.loras, &pictures)?;
    session.tell_resident(models.list(Some((&order.base, &resident))));
    for message in warnings {
        session.report(&Report::Warning { request, message });
    }
    let mut previews = Previews::prepare(&resident.pipeline, order, session);
    let mut last = std::time::Instant::now();
    let images = resident.pipeline.generate(&pictures, &mut |progress| {
        session.fault.at_step(progress.step);
        let seconds = last.elapsed().as_secs_f64();
        last = std::time::Instant::now();
        session.report(&Report::Progress {
            request,
            step: progress.step,
            total_steps: progress.total_steps,
            loss: None,
            seconds_per_step: Some(seconds),
        });
        if let Some(previews) = &mut previews {
            previews.step(&progress);
        }
        match session.signal(request) {
            Signal::Cancel => ControlFlow::Break(()),
            // A picture is soon done: a worker that drains waits for it.
            Signal::GoOn | Signal::Suspend => ControlFlow::Continue(()),
        }
    });
    let recipe = Recipe {
        solver: resident.pipeline.solver(),
        is_flux: matches!(resident.pipeline, Pipeline::Flux(_)),
        weights: resident.weights(),
    };
    models.keep(&order.base, resident);
    for (position, made) in images?.into_iter().enumerate() {
        // Seeds are kept as non-negative 64-bit integers and go round at their end.
        let seed = order.seed.wrapping_add(position as u64) & i64::MAX as u64;
        let path = order.output_dir.join(format!("{position}.png"));
        let (width, height) = made.dimensions();
        picture::write(&path, made.as_raw(), (width, height), order, &recipe, seed)
            .map_err(diffusion::Error::file(&path))?;
        session.report(&Report::Image { request, position, path, seed, width, height });
    }
    Ok(End::Done { adapter: None })
}
