//! LoKr: `ΔW = w1 ⊗ w2`, a Kronecker product. Each side may itself be a product of factors, the right one with a Tucker
//! core ([Yeh et al. 2023](https://arxiv.org/abs/2309.14859)).

use burn::prelude::*;
use formats::adapter::forms;
use formats::adapter::keys::Share;

use super::{Array, Form};

/// The two sides as stored in the file.
///
/// Reference: <https://github.com/KohakuBlueleaf/LyCORIS/blob/f49d30d670591ec8841d241d79aaa8449b30a715/lycoris/functional/lokr.py#L124-L151>
#[derive(Debug, Clone, PartialEq)]
pub(in crate::lora) struct LoKr {
    /// `[a, c]`
    pub left: Side,
    /// `[b, d]`, or `[b, d, kernel, kernel]`
    pub right: Side,
    left_shape: [usize; 2],
    right_shape: [usize; 4],
    /// The first output that is used and how many, if not all. The product of a fused layer cannot be split without
    /// losing its form.
    part: Option<(usize, usize)>,
}

/// One side of the product.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::lora) enum Side {
    Whole(Array),
    /// `a · b`, or with a core `[rank, rank, kernel, kernel]` and `a` as `[rank, rows]`
    Factored {
        a: Array,
        b: Array,
        core: Option<Array>,
    },
}

impl Side {
    fn rank(&self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Factored { b, .. } => Some(b.rows()),
        }
    }

    fn shapes(&self) -> forms::Side<'_> {
        match self {
            Self::Whole(whole) => forms::Side::Whole(&whole.shape),
            Self::Factored { a, b, core } => {
                forms::Side::Factored { a: &a.shape, b: &b.shape, core: core.as_ref().map(|core| &*core.shape) }
            }
        }
    }

    /// The product of its factors, the first dimension by all others.
    fn matrix(&self, device: &Device) -> Tensor<2> {
        match self {
            Self::Whole(whole) => whole.matrix(device),
            Self::Factored { a, b, core: None } => a.matrix(device).matmul(b.matrix(device)),
            Self::Factored { a, b, core: Some(core) } => {
                super::tucker(core.tensor(device), a.matrix(device), b.matrix(device)).flatten(1, 3)
            }
        }
    }
}

impl LoKr {
    /// `None` if the shapes do not match.
    pub(crate) fn new(left: Side, right: Side) -> Option<Self> {
        let (left_shape, right_shape) = forms::lokr(left.shapes(), right.shapes())?;
        Some(Self { left, right, left_shape, right_shape, part: None })
    }

    /// The same for a kernel that LyCORIS flattens along the inputs.
    pub(super) fn with_kernel_of(mut self, [_, inputs, height, width]: [usize; 4]) -> Self {
        let ([_, c], [b, flat, ..]) = (self.left_shape, self.right_shape);
        if self.right_shape[2..] == [1, 1] && c * flat == inputs * height * width && height * width > 0 {
            self.right_shape = [b, flat / (height * width), height, width];
        }
        self
    }

    /// The rank of a factored side. `None` if neither is factored: alpha has no meaning then.
    pub(crate) fn rank(&self) -> Option<usize> {
        self.right.rank().or(self.left.rank())
    }

    /// Itself, unless it is a part of a fused layer.
    pub(crate) fn whole(&self) -> Option<&Self> {
        self.part.is_none().then_some(self)
    }

    /// Joins parts that were split from one layer; `None` if they were not.
    pub(crate) fn joined(parts: &[&Self]) -> Option<Self> {
        let whole = |part: &&Self| Self { part: None, ..(*part).clone() };
        let first = whole(parts.first()?);
        let mut next = 0;
        for part in parts {
            let (from, count) = part.part?;
            if from != next || whole(part) != first {
                return None;
            }
            next += count;
        }
        (next == first.outputs().1).then_some(first)
    }

    fn outputs(&self) -> (usize, usize) {
        self.part.unwrap_or((0, self.left_shape[0] * self.right_shape[0]))
    }

    pub(super) fn shape(&self) -> [usize; 4] {
        let ([_, c], [_, d, height, width]) = (self.left_shape, self.right_shape);
        [self.outputs().1, c * d, height, width]
    }

    /// Number of values of both sides.
    pub(super) fn values(&self) -> usize {
        self.left_shape.iter().product::<usize>() + self.right_shape.iter().product::<usize>()
    }

    pub(super) fn form(&self, device: &Device) -> Form {
        let (first, outputs) = self.outputs();
        let right = self.right.matrix(device).reshape(self.right_shape);
        Form::Kronecker { left: self.left.matrix(device), right, first, outputs }
    }

    pub(super) fn dense(&self, device: &Device) -> Tensor<4> {
        let ([a, c], [b, d, height, width]) = (self.left_shape, self.right_shape);
        let left = self.left.matrix(device).reshape([a, 1, c, 1, 1]);
        let right = self.right.matrix(device).reshape([1, b, 1, d, height * width]);
        let (first, outputs) = self.outputs();
        (left * right).reshape([a * b, c * d, height, width]).narrow(0, first, outputs)
    }

    pub(super) fn share(&self, share: Share) -> Option<Self> {
        let (first, outputs) = self.outputs();
        let part = match share {
            Share::Whole => self.part,
            Share::Parts { from, count, of } => {
                let part = outputs.is_multiple_of(of).then_some(outputs / of)?;
                Some((first + from * part, count * part))
            }
            // FLUX.1's last norm, which no known adapter changes this way.
            Share::HalvesSwapped => return None,
        };
        Some(Self { part, ..self.clone() })
    }
}
