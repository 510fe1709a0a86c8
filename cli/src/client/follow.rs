//! Follows a job to its end: events over SSE with reconnects, a progress bar on stderr, Ctrl-C cancels.

use std::io::{self, Write as _};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eventsource_stream::{Event, EventStreamError, Eventsource as _};
use futures::{StreamExt as _, stream};
use reqwest::header::{ACCEPT, HeaderName};
use serde_json::Value;

use super::resource::{Job, Progress, Status};
use super::{Client, Method};
use crate::failure::Failure;
use crate::meter::Meter;
use crate::whole_file;

/// How long the server may be unreachable before the client gives up; the job continues.
const PATIENCE: Duration = Duration::from_mins(2);
/// Silence after which a connection counts as lost. The server sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// Largest event, in bytes. A preview has some ten thousand.
const LARGEST_EVENT: usize = 1024 * 1024;
/// Shown beside the bar while no worker has the job.
const WAITING: &str = "waiting for a worker";

/// Follows the job in `created` (the answer to its creation) and returns its final state.
///
/// `label` is shown before the bar. Ctrl-C cancels the job.
///
/// # Errors
/// [`Failure::Failed`] with the job's own message when it failed, [`Failure::Canceled`] when it was canceled,
/// [`Failure::Unreachable`] when the server stays unreachable.
pub(crate) async fn follow(client: &Client, created: Value, label: &str) -> Result<Value, Failure> {
    follow_on(client, created, label, Meter::steps(label), None).await
}

/// As [`follow`], for a generation. Each preview replaces the one before.
pub(crate) async fn follow_generation(
    client: &Client,
    created: Value,
    label: &str,
    preview: Option<Preview<'_>>,
) -> Result<Value, Failure> {
    follow_on(client, created, label, Meter::steps(label), preview).await
}

/// As [`follow`], for an import. Progress is in bytes.
pub(crate) async fn follow_import(client: &Client, created: Value, label: &str) -> Result<Value, Failure> {
    follow_on(client, created, label, Meter::bytes(label, 0), None).await
}

async fn follow_on(
    client: &Client,
    created: Value,
    label: &str,
    meter: Meter,
    preview: Option<Preview<'_>>,
) -> Result<Value, Failure> {
    let job: Job = Client::understand(created.clone())?;
    let mut follower = Follower { client, job: &job, meter, last_event: None, preview };
    if !job.status.is_terminal() {
        let interrupted = tokio::select! {
            watched = follower.watch() => { watched?; false }
            signal = tokio::signal::ctrl_c() => signal.is_ok(),
        };
        if interrupted {
            follower.meter.say("Canceling. Press Ctrl-C again to exit at once.");
            client.act(&job.urls.cancel).await?;
            tokio::select! {
                watched = follower.watch() => watched?,
                _ = tokio::signal::ctrl_c() => {}
            }
        }
    }
    drop(follower);
    let last: Value = client.get(&job.urls.this).await?;
    let job: Job = Client::understand(last.clone())?;
    match (job.status, job.error) {
        (Status::Succeeded, _) => Ok(last),
        (Status::Canceled, _) => Err(Failure::Canceled(format!("{label}: canceled"))),
        (Status::Failed, Some(error)) => {
            Err(Failure::Failed(anyhow::anyhow!("{label}: failed ({}): {}", error.class, error.message)))
        }
        (Status::Failed, None) => Err(Failure::Failed(anyhow::anyhow!("{label}: failed"))),
        (Status::Queued | Status::Running, _) => {
            Err(Failure::Canceled(format!("{label}: exited before it was canceled")))
        }
    }
}

struct Follower<'a> {
    client: &'a Client,
    job: &'a Job,
    meter: Meter,
    last_event: Option<String>,
    /// File for previews.
    preview: Option<Preview<'a>>,
}

impl Follower<'_> {
    /// Returns when the job has ended.
    async fn watch(&mut self) -> Result<(), Failure> {
        let mut last_bytes = Instant::now();
        loop {
            match self.listen(&mut last_bytes).await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(Failure::Unreachable(_)) => {}
                Err(refused) => return Err(refused),
            }
            // The stream ends with the job, but may also have been interrupted; ask the server which it was.
            match self.client.get::<Job>(&self.job.urls.this).await {
                Ok(job) if job.status.is_terminal() => return Ok(()),
                Ok(_) => {}
                Err(unreachable @ Failure::Unreachable(_)) if last_bytes.elapsed() > PATIENCE => {
                    return Err(unreachable);
                }
                Err(Failure::Unreachable(_)) => self.meter.note("the server is unreachable, retrying"),
                Err(refused) => return Err(refused),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Reads one connection. `true` if the job has ended, `false` if only the connection has.
    async fn listen(&mut self, last_bytes: &mut Instant) -> Result<bool, Failure> {
        let mut request = self.client.request(Method::GET, &self.job.urls.events)?.header(ACCEPT, "text/event-stream");
        if let Some(last) = &self.last_event {
            request = request.header(HeaderName::from_static("last-event-id"), last);
        }
        // The time limit is for bytes, not for events: the server's comments show that the connection is alive.
        // `eventsource-stream` 0.2 panics on a byte order mark, which a proxy may add.
        let bytes = self.client.send(request).await?.bytes_stream().enumerate().map(|(index, piece)| match piece {
            Ok(piece) if index == 0 && piece.starts_with(b"\xEF\xBB\xBF") => Ok(piece.slice(3..)),
            piece => piece,
        });
        let bytes = stream::unfold(Box::pin(bytes), |mut bytes| async move {
            let piece = tokio::time::timeout(SILENCE, bytes.next()).await.ok()??;
            Some((piece, bytes))
        });
        let mut size = EventSize::default();
        let bytes = bytes.inspect(|_| *last_bytes = Instant::now());
        let bytes = bytes.map(|piece| match piece {
            Ok(piece) if !size.fits(&piece) => Err(Broken::TooLarge),
            piece => piece.map_err(|_| Broken::Connection),
        });
        let mut events = pin!(bytes.eventsource());
        loop {
            match events.next().await {
                Some(Ok(event)) => {
                    if self.show(event) {
                        return Ok(true);
                    }
                }
                // Another connection would bring the same event.
                Some(Err(EventStreamError::Transport(Broken::TooLarge))) => {
                    let message = format!("the server sent an event of more than {LARGEST_EVENT} bytes");
                    return Err(Failure::Failed(anyhow::anyhow!(message)));
                }
                Some(Err(_)) | None => return Ok(false),
            }
        }
    }

    /// Shows one event. Returns whether it was the last.
    fn show(&mut self, event: Event) -> bool {
        if !event.id.is_empty() {
            self.last_event = Some(event.id);
        }
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let message = data.get("message").and_then(Value::as_str).unwrap_or_default();
        match event.event.as_str() {
            "queued" => self.meter.note(WAITING),
            "started" => self.meter.note("preparing"),
            "progress" => {
                let progress: Progress = serde_json::from_value(data).unwrap_or_default();
                if let Some(line) = progress.stage_line() {
                    self.meter.stage(&line);
                } else if let (Some(bytes), Some(total)) = (progress.bytes, progress.total_bytes) {
                    self.meter.reach(bytes, total, "");
                } else if let (Some(step), Some(total)) = (progress.step, progress.total_steps) {
                    let note = progress.loss.map(|loss| format!("loss {loss:.4}")).unwrap_or_default();
                    self.meter.reach(step, total, &note);
                }
            }
            "preview" => {
                let image = data.get("image").and_then(Value::as_str).unwrap_or_default();
                if let Some(preview) = &mut self.preview
                    && let Err(error) = preview.write(image)
                {
                    self.meter.say(&format!("no more previews: {}: {error}", preview.file.display()));
                    self.preview = None;
                }
            }
            "warning" => self.meter.say(&format!("warning: {message}")),
            "retrying" => {
                self.meter.say(&format!("returned to the queue: {message}"));
                self.meter.note(WAITING);
            }
            "succeeded" | "failed" | "canceled" => return true,
            _ => {}
        }
        false
    }
}

/// Why a stream of events cannot be read on.
#[derive(Debug)]
enum Broken {
    Connection,
    TooLarge,
}

/// Counts the bytes since the last empty line, which ends an event: the parser keeps all of them.
#[derive(Default)]
struct EventSize {
    bytes: usize,
    at_line_start: bool,
    after_return: bool,
}

impl EventSize {
    /// Whether the events are small enough, up to the end of this piece.
    fn fits(&mut self, piece: &[u8]) -> bool {
        for byte in piece {
            self.bytes += 1;
            let second_of_line_end = *byte == b'\n' && std::mem::take(&mut self.after_return);
            if second_of_line_end {
                continue;
            }
            self.after_return = *byte == b'\r';
            if matches!(byte, b'\r' | b'\n') {
                if std::mem::replace(&mut self.at_line_start, true) {
                    self.bytes = 0;
                }
            } else {
                self.at_line_start = false;
            }
            if self.bytes > LARGEST_EVENT {
                return false;
            }
        }
        true
    }
}

/// Where previews are written.
pub(crate) struct Preview<'a> {
    pub file: &'a Path,
    /// Whether a file that is there may be replaced. Each preview is, by the next one.
    pub overwrite: bool,
}

impl Preview<'_> {
    /// Puts the picture of a `data:` URI in the place of the file, which a viewer may be reading.
    fn write(&mut self, image: &str) -> io::Result<()> {
        let bytes = image.rsplit_once(',').and_then(|(_, text)| STANDARD.decode(text).ok());
        let bytes = bytes.ok_or_else(|| io::Error::other("the server sent no picture"))?;
        let (mut out, part) = whole_file::part_of(self.file)?;
        out.write_all(&bytes)?;
        whole_file::finish(part, self.file, self.overwrite)?;
        self.overwrite = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_replaces_the_one_before_and_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = &folder.path().join("preview.jpg");
        let mut preview = Preview { file, overwrite: false };
        preview.write("data:image/jpeg;base64,YQ==").unwrap();
        preview.write("data:image/jpeg;base64,Yg==").unwrap();
        assert_eq!(std::fs::read(file).unwrap(), b"b");
        assert!(Preview { file, overwrite: false }.write("data:image/jpeg;base64,YQ==").is_err());
        assert_eq!(std::fs::read(file).unwrap(), b"b");
    }

    #[test]
    fn an_event_has_an_end() {
        let line = [b'x'; 1000];
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            let mut size = EventSize::default();
            assert!((0..3000).all(|_| size.fits(&line) && size.fits(end.as_bytes())), "{end:?}: many events");
        }
        for end in ["", "\n", "\r\n", "\r"] {
            let mut size = EventSize::default();
            assert!(!(0..3000).all(|_| size.fits(&line) && size.fits(end.as_bytes())), "{end:?}: one event");
        }
        let mut split = EventSize::default();
        assert!((0..3000).all(|_| split.fits(&line) && split.fits(b"\r\n\r") && split.fits(b"\n")), "split line ends");
    }
}
