//! LoRA: `ΔW = up · down` ([Hu et al. 2021](https://arxiv.org/abs/2106.09685)), and LoCon, the same for convolutions,
//! with or without a Tucker core ([Yeh et al. 2023](https://arxiv.org/abs/2309.14859)).

use burn::prelude::*;
use formats::adapter::forms;
use formats::adapter::keys::Share;

use super::{Array, Form};

/// The factors.
///
/// References:
/// - <https://github.com/huggingface/peft/blob/5d602fdbff04c33c1c4de55cda9d4ae1d7cb7e40/src/peft/tuners/lora/layer.py#L1005-L1033>
/// - <https://github.com/KohakuBlueleaf/LyCORIS/blob/f49d30d670591ec8841d241d79aaa8449b30a715/lycoris/modules/locon.py#L198-L219>
#[derive(Debug, Clone, PartialEq)]
pub(in crate::lora) struct LowRank {
    /// `[rank, in]`, or `[rank, in, kernel, kernel]` without a core
    pub down: Array,
    /// `[rank', rank, kernel, kernel]`
    pub mid: Option<Array>,
    /// `[out, rank']`, or `[out, rank', 1, 1]`
    pub up: Array,
}

impl LowRank {
    /// `None` if the shapes do not match.
    pub(crate) fn new(down: Array, mid: Option<Array>, up: Array) -> Option<Self> {
        forms::low_rank(&down.shape, mid.as_ref().map(|mid| &*mid.shape), &up.shape)?;
        Some(Self { down, mid, up })
    }

    /// The rank of the inner factor, by which alpha is divided.
    pub(crate) fn rank(&self) -> usize {
        self.down.rows()
    }

    /// Whether it was made for a convolution.
    pub(crate) fn is_convolution(&self) -> bool {
        self.down.shape.len() == 4
    }

    pub(super) fn shape(&self) -> [usize; 4] {
        let kernel = self.mid.as_ref().unwrap_or(&self.down);
        let side = |at: usize| kernel.shape.get(at).copied().unwrap_or(1);
        [self.up.rows(), self.down.shape.get(1).copied().unwrap_or(1), side(2), side(3)]
    }

    pub(super) fn form(&self, device: &Device) -> Form {
        Form::LowRank {
            down: self.down.tensor(device),
            mid: self.mid.as_ref().map(|mid| mid.tensor(device)),
            up: self.up.tensor(device),
        }
    }

    pub(super) fn dense(&self, device: &Device) -> Tensor<4> {
        match &self.mid {
            None => self.up.matrix(device).matmul(self.down.matrix(device)).reshape(self.shape()),
            Some(mid) => {
                let up = self.up.matrix(device).transpose();
                super::tucker(mid.tensor(device), up, self.down.matrix(device))
            }
        }
    }

    /// Whether it changes nothing.
    pub(crate) fn is_zero(&self) -> bool {
        self.up.values.iter().all(|value| *value == 0.0)
    }

    pub(super) fn share(&self, share: Share) -> Option<Self> {
        Some(Self { up: self.up.share(share)?, ..self.clone() }.without_idle_ranks())
    }

    /// Drops ranks that no output uses: trainers that fuse layers pad the factors of each part with zeros.
    fn without_idle_ranks(self) -> Self {
        let (rank, columns) = (self.rank(), self.down.values.len() / self.rank().max(1));
        let used: Vec<usize> =
            (0..rank).filter(|at| self.up.values.iter().skip(*at).step_by(rank).any(|value| *value != 0.0)).collect();
        if self.mid.is_some() || used.is_empty() || used.len() == rank {
            return self;
        }
        let mut shapes = [self.down.shape, self.up.shape];
        shapes[0][0] = used.len();
        shapes[1][1] = used.len();
        let [down_shape, up_shape] = shapes;
        let down = used.iter().flat_map(|at| &self.down.values[at * columns..(at + 1) * columns]).copied().collect();
        let up = self.up.values.chunks(rank).flat_map(|row| used.iter().map(|at| row[*at])).collect();
        Self { down: Array { shape: down_shape, values: down }, mid: None, up: Array { shape: up_shape, values: up } }
    }
}
