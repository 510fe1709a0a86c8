//! DoRA: the direction of `W + ΔW` with a learned magnitude, `W' = m · (W + ΔW) / ‖W + ΔW‖` ([Liu et al.
//! 2024](https://arxiv.org/abs/2402.09353)). The norm depends on the base weight, so it is computed when the adapter
//! is attached.

use burn::prelude::*;

use super::update::{Form, Magnitude};

/// m / ‖W + ΔW‖, never negative zero or infinite: an all-zero weight has no direction and is left unchanged.
pub(super) enum Gain {
    /// `[out]`
    Outputs(Tensor<1>),
    /// `[in]`
    Inputs(Tensor<1>),
}

/// The gain for the changed weight, `[out, in, kernel, kernel]`.
///
/// References:
/// - <https://github.com/huggingface/peft/blob/5d602fdbff04c33c1c4de55cda9d4ae1d7cb7e40/src/peft/tuners/lora/dora.py#L62-L170>
/// - <https://github.com/KohakuBlueleaf/LyCORIS/blob/f49d30d670591ec8841d241d79aaa8449b30a715/lycoris/modules/locon.py#L239-L260>
pub(super) fn gain(magnitude: &Magnitude, changed: Tensor<4>, device: &Device) -> Gain {
    let norm = |weight: Tensor<4>| {
        let [rows, ..] = weight.dims();
        let columns = weight.shape().num_elements() / rows.max(1);
        let squares = weight.reshape([rows, columns]).powi_scalar(2).sum_dim(1).squeeze_dim::<1>(1);
        squares.sqrt().clamp_min(f32::MIN_POSITIVE)
    };
    match magnitude {
        Magnitude::Outputs(m) => Gain::Outputs(m.tensor::<1>(device) / norm(changed)),
        Magnitude::Inputs(m) => Gain::Inputs(m.tensor::<1>(device) / norm(changed.swap_dims(0, 1))),
    }
}

impl Gain {
    /// Scales the rows or columns of ΔW.
    pub(super) fn of_weight(&self, delta: Tensor<4>) -> Tensor<4> {
        delta * self.along_weight()
    }

    /// Scales the rows of the outer factor or the columns of the inner one.
    pub(super) fn of_factors(&self, down: Tensor<4>, mid: Option<Tensor<4>>, up: Tensor<4>) -> Form {
        match self {
            Self::Outputs(_) => Form::LowRank { down, mid, up: up * self.along_weight() },
            Self::Inputs(_) => Form::LowRank { down: down * self.along_weight(), mid, up },
        }
    }

    fn along_weight(&self) -> Tensor<4> {
        match self {
            Self::Outputs(gain) => gain.clone().reshape([-1, 1, 1, 1]),
            Self::Inputs(gain) => gain.clone().reshape([1, -1, 1, 1]),
        }
    }
}
