//! Progress on stderr: a bar where a person looks at a terminal, a line per tenth where a log is kept.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{escaped, tell};

/// Progress of an operation that takes longer than a second. The bar disappears when it is dropped.
pub(crate) struct Meter {
    bar: ProgressBar,
    tenths: Option<Arc<Tenths>>,
}

/// Replaces the bar if there is no terminal to draw on.
struct Tenths {
    label: String,
    /// The last tenth printed, and when.
    printed: Mutex<(u64, Instant)>,
    /// The last note printed.
    noted: Mutex<String>,
    /// When a stage was last printed.
    stage_printed: Mutex<Option<Instant>>,
}

/// Least time between two lines, so that short things do not fill the log.
const PAUSE: Duration = Duration::from_secs(2);
/// Least time between two lines about a stage, which may take minutes.
const STAGE_PAUSE: Duration = Duration::from_secs(10);

impl Tenths {
    fn print(&self, position: u64, total: u64, note: &str) {
        let tenth = (position * 10).checked_div(total).unwrap_or(0);
        let mut printed = self.printed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if tenth > printed.0 && printed.1.elapsed() > PAUSE {
            *printed = (tenth, Instant::now());
            tell!("{} {} %  {note}", self.label, tenth * 10);
        }
    }

    /// The line, unless one was printed a moment ago.
    fn stage(&self, line: &str) {
        let mut printed = self.stage_printed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if printed.is_none_or(|printed| printed.elapsed() >= STAGE_PAUSE) {
            *printed = Some(Instant::now());
            tell!("{}: {line}", self.label);
        }
    }

    /// The note, if it has changed.
    fn note(&self, note: &str) {
        let mut noted = self.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *noted != note {
            note.clone_into(&mut noted);
            tell!("{}: {note}", self.label);
        }
    }
}

impl Meter {
    /// Steps of a job. The first event reports the total.
    pub(crate) fn steps(label: impl Into<String>) -> Self {
        Self::new(label.into(), "{spinner:.cyan} {prefix} {bar:32.cyan/dim} {pos}/{len}  {msg}  {elapsed} < {eta}")
    }

    /// Bytes on their way.
    pub(crate) fn bytes(label: impl Into<String>, total: u64) -> Self {
        let meter = Self::new(
            label.into(),
            "{spinner:.cyan} {prefix} {bar:32.cyan/dim} {bytes}/{total_bytes}  {bytes_per_sec}  {msg}",
        );
        meter.bar.set_length(total);
        meter
    }

    /// Counts items.
    pub(crate) fn count(label: impl Into<String>, total: u64) -> Self {
        let meter = Self::new(label.into(), "{spinner:.cyan} {prefix} {bar:32.cyan/dim} {pos}/{len}");
        meter.bar.set_length(total);
        meter
    }

    /// Work without measurable progress.
    pub(crate) fn wait(label: impl Into<String>) -> Self {
        Self::new(label.into(), "{spinner:.cyan} {prefix} {msg}  {elapsed}")
    }

    fn new(label: String, template: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            None,
            if terminal { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() },
        );
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(escaped(&label).into_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        let tenths = (!terminal).then(|| {
            tell!("{label} …");
            Arc::new(Tenths {
                label,
                printed: Mutex::new((0, Instant::now())),
                noted: Mutex::default(),
                stage_printed: Mutex::default(),
            })
        });
        Self { bar, tenths }
    }

    /// Sets the position; `note` is shown beside the bar.
    pub(crate) fn reach(&self, position: u64, total: u64, note: &str) {
        self.bar.set_length(total);
        self.bar.set_position(position);
        self.bar.set_message(escaped(note).into_owned());
        if let Some(tenths) = &self.tenths {
            tenths.print(position, total, note);
        }
    }

    /// Advances the position by `by`.
    pub(crate) fn advance(&self, by: u64) {
        self.counter()(by);
    }

    /// A function that advances this meter, to be passed to a stream of bytes for instance.
    pub(crate) fn counter(&self) -> impl Fn(u64) + Send + Sync + use<> {
        let (bar, tenths) = (self.bar.clone(), self.tenths.clone());
        move |by| {
            bar.inc(by);
            if let Some(tenths) = &tenths {
                tenths.print(bar.position(), bar.length().unwrap_or(0), "");
            }
        }
    }

    /// Shows a note beside the bar.
    pub(crate) fn note(&self, note: &str) {
        self.bar.set_message(escaped(note).into_owned());
        if let Some(tenths) = &self.tenths {
            tenths.note(note);
        }
    }

    /// Shows how far something is that comes before what the bar counts. A log gets a line in ten seconds.
    pub(crate) fn stage(&self, line: &str) {
        self.bar.set_message(line.to_owned());
        if let Some(tenths) = &self.tenths {
            tenths.stage(line);
        }
    }

    /// Prints a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        if self.tenths.is_some() {
            tell!("{line}");
        } else {
            self.bar.println(escaped(line));
        }
    }

    /// Replaces the bar by one line.
    pub(crate) fn finish(self, line: &str) {
        self.bar.finish_and_clear();
        tell!("{line}");
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
