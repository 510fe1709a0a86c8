//! The parameters of a training.

use serde::{Deserialize, Serialize};

use crate::limits::training as limits;
use crate::{OutOfRange, in_range};

/// The parameters of a training, validated and complete.
// Stored as JSON in its row and, in this order of fields, in its checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TrainingParams {
    /// Word that is prepended to every caption without it.
    pub trigger_word: Option<String>,
    /// Number of optimizer steps.
    pub steps: u32,
    /// Rank of the adapter.
    pub rank: u32,
    /// The scale of the adapter is `alpha / rank`.
    pub alpha: f64,
    pub learning_rate: f64,
    /// Number of pictures per step.
    pub batch_size: u32,
    /// Side of a square picture in pixels. Pictures of other shapes are scaled to the same area.
    pub resolution: u32,
    #[cfg_attr(feature = "schema", schema(minimum = 0))]
    pub seed: i64,
}

impl TrainingParams {
    /// Checks every value. Errors: the first value that is out of range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        in_range("rank", self.rank, limits::RANK)?;
        in_range("resolution", self.resolution, limits::RESOLUTION)?;
        in_range("steps", self.steps, limits::STEPS)?;
        in_range("alpha", self.alpha, limits::ALPHA)?;
        in_range("learning_rate", self.learning_rate, limits::LEARNING_RATE)?;
        in_range("batch_size", self.batch_size, limits::BATCH_SIZE)?;
        in_range("seed", self.seed, 0..=i64::MAX)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A training as version 0.1 wrote it into rows and checkpoints.
    #[test]
    fn an_older_row_is_read_and_written_the_same() {
        let row = concat!(
            r#"{"trigger_word":"ink","steps":4,"rank":2,"alpha":2.0,"learning_rate":0.01,"#,
            r#""batch_size":1,"resolution":32,"seed":3}"#
        );
        let params: TrainingParams = serde_json::from_str(row).unwrap();
        assert_eq!(serde_json::to_string(&params).unwrap(), row);
        params.check().unwrap();
    }

    #[test]
    fn each_value_has_a_range() {
        let good = TrainingParams {
            trigger_word: None,
            steps: 1,
            rank: 1,
            alpha: 1.0,
            learning_rate: 1e-4,
            batch_size: 1,
            resolution: 32,
            seed: 0,
        };
        for (field, wrong) in [
            ("steps", TrainingParams { steps: 0, ..good.clone() }),
            ("rank", TrainingParams { rank: 513, ..good.clone() }),
            ("alpha", TrainingParams { alpha: f64::NAN, ..good.clone() }),
            ("learning_rate", TrainingParams { learning_rate: 0.0, ..good.clone() }),
            ("batch_size", TrainingParams { batch_size: 65, ..good.clone() }),
            ("resolution", TrainingParams { resolution: 16, ..good.clone() }),
            ("seed", TrainingParams { seed: -1, ..good.clone() }),
        ] {
            assert_eq!(wrong.check().unwrap_err().field, field);
        }
    }
}
