//! The fields of `/v1`'s answers that the commands read. Unknown fields are ignored, so that an older client works with
//! a newer server. `--json` prints the server's whole answer.

use std::fmt;

use serde::Deserialize;

use crate::output::shown;

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}

/// A model as named by a job.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Reference {
    pub name: String,
}

/// The state of a job: the fields that all kinds share.
#[derive(Debug, Deserialize)]
pub(crate) struct Job {
    pub status: Status,
    pub error: Option<JobError>,
    #[serde(default)]
    pub progress: Progress,
    pub created_at: String,
    pub finished_at: Option<String>,
    pub urls: Urls,
}

/// The life of a job: `queued → running → succeeded | failed | canceled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Queued,
    Running,
    Succeeded,
    Failed,
    Canceled,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        })
    }
}

impl Status {
    /// Whether the job has ended.
    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Progress {
    #[serde(default)]
    pub step: Option<u64>,
    #[serde(default)]
    pub total_steps: Option<u64>,
    #[serde(default)]
    pub loss: Option<f64>,
    #[serde(default)]
    pub bytes: Option<u64>,
    #[serde(default)]
    pub total_bytes: Option<u64>,
    /// `fetching` or `loading`, before the first step.
    #[serde(default)]
    pub stage: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub seconds_left: Option<u64>,
}

impl Progress {
    /// The stage before the first step, such as `fetching flux-dev 3.1 of 32.0 GiB, 2 min left`, if there is one.
    pub(crate) fn stage_line(&self) -> Option<String> {
        let mut line = self.stage.clone()?;
        if let Some(model) = &self.model {
            line += &format!(" {model}");
        }
        line += &match (self.bytes, self.total_bytes) {
            (Some(bytes), Some(total @ 1..)) if line.starts_with("loading") => {
                format!(" {} %", u128::from(bytes) * 100 / u128::from(total))
            }
            (Some(bytes), Some(total)) => {
                let (unit, name) = if total < 1 << 30 { (1 << 20, "MiB") } else { (1 << 30, "GiB") };
                let [bytes, total] = [bytes, total].map(|bytes| bytes as f64 / f64::from(unit));
                format!(" {bytes:.1} of {total:.1} {name}")
            }
            _ => String::new(),
        };
        match self.seconds_left {
            Some(seconds @ ..60) => line += &format!(", {seconds} s left"),
            Some(seconds) => line += &format!(", {} min left", seconds.div_ceil(60)),
            None => {}
        }
        Some(line)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct JobError {
    pub class: String,
    pub message: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Urls {
    #[serde(rename = "self")]
    pub this: String,
    pub cancel: String,
    pub events: String,
}

/// A file that a job made.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Artifact {
    /// Presigned; a secret for an hour.
    pub url: String,
    pub position: u32,
    pub media_type: String,
    pub seed: Option<u64>,
}

impl Artifact {
    /// The ending of a file of this kind.
    pub(crate) fn extension(&self) -> &'static str {
        domain::artifact::extension(&self.media_type)
    }
}

/// Pictures from a prompt.
#[derive(Debug, Deserialize)]
pub(crate) struct Generation {
    pub id: String,
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A training of a LoRA.
#[derive(Debug, Deserialize)]
pub(crate) struct Training {
    pub id: String,
    pub output_model: Option<Reference>,
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// An import of a model.
#[derive(Debug, Deserialize)]
pub(crate) struct Import {
    pub output_model: Option<Reference>,
}

/// An export of a LoRA.
#[derive(Debug, Deserialize)]
pub(crate) struct Export {
    pub artifacts: Vec<Artifact>,
}

/// Pictures with captions.
#[derive(Debug, Deserialize)]
pub(crate) struct Dataset {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub examples: Vec<Example>,
    pub created_at: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Example {
    pub id: String,
    pub caption: Option<String>,
    pub width: u32,
    pub height: u32,
    pub bytes: u64,
}

/// An input picture for generations.
#[derive(Debug, Deserialize)]
pub(super) struct Input {
    pub id: String,
}

/// How a picture was made.
#[derive(Debug, Deserialize)]
pub(crate) struct PictureInfo {
    pub program: Option<String>,
    /// The body of a request for a generation.
    pub request: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default)]
    pub unmapped: Vec<Unmapped>,
}

/// A value that has no place in that request.
#[derive(Debug, Deserialize)]
pub(crate) struct Unmapped {
    pub field: String,
    pub value: String,
    pub reason: String,
}

impl Unmapped {
    /// What it is, by the name that people use, and its value.
    pub(crate) fn title(&self) -> String {
        let field = match self.field.as_str() {
            "lora" => "LoRA",
            "model" => "checkpoint",
            field => field,
        };
        match self.value.as_str() {
            "" => field.to_owned(),
            value => format!("{field} `{value}`"),
        }
    }
}

impl PictureInfo {
    /// For a picture without a request: that, and the reason if there is one.
    pub(crate) fn says_nothing(&self, picture: &std::path::Path) -> String {
        let reasons: Vec<&str> = self.unmapped.iter().map(|one| one.reason.as_str()).collect();
        let colon = if reasons.is_empty() { "" } else { ": " };
        format!("{} does not say how it was made{colon}{}", shown(picture), reasons.join(" "))
    }
}

/// A checkpoint or a LoRA.
#[derive(Debug, Deserialize)]
pub(crate) struct Model {
    pub id: String,
    pub name: String,
    pub kind: String,
    pub family: Option<String>,
    pub bytes: u64,
    pub sha256: String,
    #[serde(default)]
    pub built_in: bool,
    pub trigger_word: Option<String>,
    #[serde(default)]
    pub warnings: Vec<String>,
    #[serde(default)]
    pub files: Vec<ModelFile>,
    #[serde(default)]
    pub resident_on: Vec<Residence>,
    pub created_at: String,
}

/// A worker that has a model loaded.
#[derive(Debug, Deserialize)]
pub(crate) struct Residence {
    pub name: String,
    pub device: String,
    pub bytes: u64,
}

/// A live worker.
#[derive(Debug, Deserialize)]
pub(crate) struct Worker {
    pub id: String,
    pub name: String,
    pub device: String,
    #[serde(default)]
    pub queues: Vec<String>,
    pub version: String,
    /// Why it claims no jobs.
    pub paused: Option<String>,
    #[serde(default)]
    pub resident: Vec<Resident>,
    #[serde(default)]
    pub jobs: Vec<CurrentJob>,
    #[serde(default)]
    pub other_jobs: u64,
    /// Each a [`Swap`].
    #[serde(default)]
    pub swaps: Vec<serde_json::Value>,
    pub last_seen_at: String,
}

/// A model that a worker has loaded.
#[derive(Debug, Deserialize)]
pub(crate) struct Resident {
    pub model: Option<Reference>,
    /// `None` for a model of another project.
    pub sha256: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CurrentJob {
    pub url: String,
}

/// A request to a worker to load or unload a model.
#[derive(Debug, Deserialize)]
pub(crate) struct Swap {
    /// Id of the worker.
    pub worker: String,
    /// The worker's name.
    pub name: String,
    pub device: String,
    pub model: Reference,
    pub status: String,
    pub error: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ModelFile {
    pub path: String,
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_a_line() {
        const GIB: u64 = 1 << 30;
        let line = |json| serde_json::from_value::<Progress>(json).unwrap().stage_line();
        for (progress, wanted) in [
            (serde_json::json!({"step": 0, "total_steps": 4}), None),
            (
                serde_json::json!({"stage": "fetching", "model": "flux-dev", "bytes": 31 * GIB / 10,
                                   "total_bytes": 32 * GIB, "seconds_left": 101}),
                Some("fetching flux-dev 3.1 of 32.0 GiB, 2 min left"),
            ),
            (
                serde_json::json!({"stage": "loading", "model": "flux-dev", "bytes": 2, "total_bytes": 5,
                                   "seconds_left": 59}),
                Some("loading flux-dev 40 %, 59 s left"),
            ),
            (
                serde_json::json!({"stage": "fetching", "bytes": 1 << 19, "total_bytes": 1 << 20}),
                Some("fetching 0.5 of 1.0 MiB"),
            ),
            (serde_json::json!({"stage": "fetching", "bytes": 7}), Some("fetching")),
        ] {
            assert_eq!(line(progress).as_deref(), wanted);
        }
    }
}
