//! Previews of pictures in progress, as JPEG files. They are optional: if one cannot be made, there is a warning and
//! the request continues.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use diffusion::{Pipeline, Previewer, Progress};
use image::codecs::jpeg::JpegEncoder;

use super::EngineSession;
use crate::protocol::{Generate, Report};

/// Minimum time between two previews: viewers would not notice more, and small models would spend most of their time on
/// them.
const DISTANCE: Duration = Duration::from_millis(200);
/// Minimum time between two previews, as a multiple of the time that the last one took: the pictures come first.
const SHARE: u32 = 9;
/// JPEG quality, 1 to 100.
const QUALITY: u8 = 80;

/// The previews of one request.
pub(super) struct Previews<'a> {
    previewer: Previewer,
    order: &'a Generate,
    session: &'a EngineSession,
    every: usize,
    /// No preview is made before this instant.
    not_before: Option<Instant>,
    /// The last file.
    shown: Option<PathBuf>,
    /// Whether a preview failed; then no more are made.
    broken: bool,
}

impl<'a> Previews<'a> {
    /// `None` if the request wants no previews or none can be made.
    pub(super) fn prepare(pipeline: &Pipeline, order: &'a Generate, session: &'a EngineSession) -> Option<Self> {
        let every = order.params.preview_every? as usize;
        let previewer = pipeline.previewer(order.vae_approx.as_deref()).or_else(|error| {
            if order.vae_approx.is_some() {
                warn(session, order, &format!("previews are rougher than they could be: {error}"));
                return pipeline.previewer(None);
            }
            Err(error)
        });
        match previewer {
            Ok(previewer) => {
                Some(Self { previewer, order, session, every, not_before: None, shown: None, broken: false })
            }
            Err(error) => {
                warn(session, order, &format!("no previews: {error}"));
                None
            }
        }
    }

    /// Called after each step.
    pub(super) fn step(&mut self, progress: &Progress<'_>) {
        let began = Instant::now();
        let due = progress.step.is_multiple_of(self.every) && self.not_before.is_none_or(|instant| began >= instant);
        if !due || self.broken {
            return;
        }
        if let Err(error) = self.make(progress) {
            warn(self.session, self.order, &format!("no more previews: {error}"));
            self.broken = true;
        }
        self.not_before = Some(Instant::now() + DISTANCE.max(SHARE * began.elapsed()));
    }

    fn make(&mut self, progress: &Progress<'_>) -> diffusion::Result<()> {
        let &Progress { step, total_steps, position, predicted_clean } = progress;
        let picture = self.previewer.picture(predicted_clean)?;
        let path = self.order.output_dir.join(format!("preview-{step}.jpg"));
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
            .encode_image(&picture)
            .map_err(|error| diffusion::Error::Invalid(format!("it could not be written as JPEG: {error}")))?;
        std::fs::write(&path, jpeg).map_err(diffusion::Error::file(&path))?;
        if let Some(before) = self.shown.replace(path.clone()) {
            // A worker that has not read it by now prefers the new one.
            let _ = std::fs::remove_file(before);
        }
        let (width, height) = picture.dimensions();
        let request = self.order.request;
        self.session.report(&Report::Preview { request, step, total_steps, position, path, width, height });
        Ok(())
    }
}

fn warn(session: &EngineSession, order: &Generate, message: &str) {
    session.report(&Report::Warning { request: order.request, message: message.to_owned() });
}
