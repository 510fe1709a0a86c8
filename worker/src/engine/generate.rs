//! Makes the pictures of one request and writes them to files.

use std::ops::ControlFlow;

use diffusion::PictureRequest;
use domain::artifact::OutputKind;
use memory::Picture;

use super::models::Models;
use super::picture::{self, Made};
use super::preview::Previews;
use super::{End, EngineSession, Signal};
use crate::protocol::{Generate, Output, Report};

/// Runs the pipeline; reports every step, and each picture at the end.
pub(super) fn run(models: &mut Models, order: &Generate, session: &EngineSession) -> diffusion::Result<End> {
    let request = order.request;
    if session.signal(request) != Signal::GoOn {
        return Ok(End::Canceled);
    }
    // Before the model is taken from the cache: a picture that cannot be read must not cost a loaded model.
    let pictures = PictureRequest::read(&order.params, order.seed)?;
    let (resident, warnings) = models.pipeline(&order.base, &order.loras, Picture::from(&pictures))?;
    session.tell_resident(models.list(Some((&order.base, &resident))));
    for message in warnings.into_iter().chain(resident.pipeline.notes(&pictures)?) {
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
            // A picture is finished soon: a draining worker waits for it.
            Signal::GoOn | Signal::Suspend => ControlFlow::Continue(()),
        }
    });
    let made_with = Made::by(&resident.pipeline, resident.weights());
    models.keep(&order.base, resident);
    let (format, quality) = (order.params.output_format, order.params.output_quality);
    for (position, picture) in images?.into_iter().enumerate() {
        // Seeds are non-negative 64-bit integers; the largest is followed by 0.
        let seed = order.seed.wrapping_add(position as u64) & i64::MAX as u64;
        let path = order.output_dir.join(format!("{position}.{}", format.extension()));
        let (width, height) = picture.dimensions();
        let metadata = picture::metadata(order, &made_with, seed);
        picture::write(&path, &picture, format, quality, &metadata).map_err(diffusion::Error::file(&path))?;
        let output = Output {
            position,
            path,
            kind: OutputKind::Image,
            media_type: format.media_type().into(),
            size: Some([width, height]),
            seed: Some(seed),
        };
        session.report(&Report::Output { request, output });
    }
    Ok(End::Done)
}
