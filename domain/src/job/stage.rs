//! What a running job does before its first step: files of models are fetched and read, which may take minutes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a running job does before its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Files are copied from storage to the worker's disk, or checked if they are on it.
    Fetching,
    /// Weights are read from the worker's disk into memory.
    Loading,
}

/// How far a stage is: the data of its progress reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageProgress {
    pub stage: Stage,
    /// The name of the model whose files they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub bytes: u64,
    /// `None` while the size of a file is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// `None` while it cannot be estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

impl StageProgress {
    /// The progress after `elapsed`. The time left is estimated from the mean rate, in whole seconds, rounded up.
    pub fn after(elapsed: Duration, stage: Stage, model: Option<String>, bytes: u64, total_bytes: Option<u64>) -> Self {
        let bytes = total_bytes.map_or(bytes, |total| bytes.min(total));
        let left = total_bytes.filter(|_| bytes > 0).map(|total| (total - bytes) as f64 / bytes as f64);
        let seconds_left = left.map(|left| (left * elapsed.as_secs_f64()).ceil() as u64);
        Self { stage, model, bytes, total_bytes, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_mean_rate() {
        let left = |seconds: f64, bytes, total| {
            StageProgress::after(Duration::from_secs_f64(seconds), Stage::Loading, None, bytes, total).seconds_left
        };
        assert_eq!(left(10.0, 1 << 30, Some(4 << 30)), Some(30));
        assert_eq!(left(2.5, 100, Some(150)), Some(2), "rounded up");
        assert_eq!(left(10.0, 200, Some(100)), Some(0), "a file that was fetched twice");
        assert_eq!((left(10.0, 0, Some(100)), left(10.0, 100, None)), (None, None));
    }
}
