//! The update of one module: ΔW in the form of its algorithm, a change of the bias, DoRA magnitudes. Each algorithm
//! has its own file. `formats::adapter::keys` parses the names of the tensors, and `attach` applies the updates.

mod loha;
mod lokr;
mod low_rank;

use burn::prelude::*;
use burn::tensor::DType;
use formats::adapter::forms;
use formats::adapter::keys::Share;

pub(super) use loha::LoHa;
pub(super) use lokr::{LoKr, Side};
pub(super) use low_rank::LowRank;

/// Values and their shape, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The update of one module.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Update {
    /// ΔW, if the weight changes.
    pub delta: Option<Delta>,
    /// The scale of ΔW at strength 1.
    pub scale: f64,
    pub magnitude: Option<Magnitude>,
    /// Added to the bias at strength 1, `[out]`.
    pub bias: Option<Array>,
}

impl Update {
    /// Bytes of memory beside a layer of `dtype`. With magnitudes, every form but low-rank becomes a dense ΔW.
    pub(super) fn bytes(&self, dtype: DType) -> u64 {
        match (&self.delta, &self.magnitude) {
            (None, _) => 0,
            (Some(delta @ (Delta::LoKr(_) | Delta::LoHa(_))), Some(_)) => {
                (dtype.size() * delta.shape().iter().product::<usize>()) as u64
            }
            (Some(delta), _) => delta.bytes(dtype),
        }
    }
}

/// ΔW without its scale. The weight of a linear layer is a convolution with a 1×1 kernel.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Delta {
    LowRank(LowRank),
    LoHa(LoHa),
    LoKr(LoKr),
    /// `[out, in, kernel, kernel]`, or `[channels]` of a norm
    Full(Array),
}

/// The magnitudes m of DoRA.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Magnitude {
    /// Over the weights of each output, `[out]`
    Outputs(Array),
    /// Over the weights of each input, `[in]`
    Inputs(Array),
}

/// The form in which an update runs beside its layer.
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it is moved at once")]
pub(super) enum Form {
    /// Down `[rank, in, kernel, kernel]`, core `[rank', rank, kernel, kernel]`, up `[out, rank', 1, 1]`
    LowRank { down: Tensor<4>, mid: Option<Tensor<4>>, up: Tensor<4> },
    /// `[a, c]` and `[b, d, kernel, kernel]`. Of the a·b outputs, `outputs` are used, starting at `first`.
    Kronecker { left: Tensor<2>, right: Tensor<4>, first: usize, outputs: usize },
    /// ΔW, `[out, in, kernel, kernel]`
    Full(Tensor<4>),
}

impl Delta {
    /// `[out, in, kernel height, kernel width]`
    pub(super) fn shape(&self) -> [usize; 4] {
        match self {
            Self::LowRank(delta) => delta.shape(),
            Self::LoHa(delta) => delta.shape(),
            Self::LoKr(delta) => delta.shape(),
            Self::Full(delta) => delta.sides(),
        }
    }

    /// The same for the kernel of `[out, in, height, width]`, which LyCORIS flattens along the inputs.
    pub(super) fn with_kernel_of(self, weight: [usize; 4]) -> Self {
        match self {
            Self::LoHa(delta) => Self::LoHa(delta.with_kernel_of(weight)),
            Self::LoKr(delta) => Self::LoKr(delta.with_kernel_of(weight)),
            other => other,
        }
    }

    /// The rank; `None` for forms without one.
    pub(super) fn rank(&self) -> Option<usize> {
        match self {
            Self::LowRank(delta) => Some(delta.rank()),
            Self::LoHa(delta) => Some(delta.rank()),
            Self::LoKr(delta) => delta.rank(),
            Self::Full(_) => None,
        }
    }

    /// Bytes of its form beside a layer of `dtype`. Factors are f32; ΔW has the layer's dtype.
    fn bytes(&self, dtype: DType) -> u64 {
        let bytes = match self {
            Self::LowRank(LowRank { down, mid, up }) => {
                let mid = mid.as_ref().map_or(0, |mid| mid.values.len());
                4 * (down.values.len() + mid + up.values.len())
            }
            Self::LoKr(delta) => 4 * delta.values(),
            Self::LoHa(_) | Self::Full(_) => dtype.size() * self.shape().iter().product::<usize>(),
        };
        bytes as u64
    }

    /// The cheapest form to run beside the layer, on `device` in f32.
    pub(super) fn form(&self, device: &Device) -> Form {
        match self {
            Self::LowRank(delta) => delta.form(device),
            Self::LoHa(delta) => delta.form(device),
            Self::LoKr(delta) => delta.form(device),
            Self::Full(delta) => Form::Full(delta.tensor(device)),
        }
    }

    /// ΔW without its scale, `[out, in, kernel, kernel]`, on `device` in f32.
    pub(super) fn dense(&self, device: &Device) -> Tensor<4> {
        match self {
            Self::LowRank(delta) => delta.dense(device),
            Self::LoHa(delta) => delta.dense(device),
            Self::LoKr(delta) => delta.dense(device),
            Self::Full(delta) => delta.tensor(device),
        }
    }

    /// The part for a share of the outputs. `None` if it cannot be split that way.
    pub(super) fn share(&self, share: Share) -> Option<Self> {
        Some(match (self, share) {
            (_, Share::Whole) => self.clone(),
            (Self::LowRank(delta), _) => Self::LowRank(delta.share(share)?),
            (Self::LoHa(delta), _) => Self::LoHa(delta.share(share)?),
            (Self::LoKr(delta), _) => Self::LoKr(delta.share(share)?),
            (Self::Full(delta), _) => Self::Full(delta.share(share)?),
        })
    }
}

impl Update {
    /// The part for a share of the outputs. `None` if it cannot be split that way.
    pub(super) fn share(&self, share: Share) -> Option<Self> {
        let mut part = self.clone();
        if let Some(delta) = &mut part.delta {
            *delta = delta.share(share)?;
        }
        if let Some(Magnitude::Outputs(magnitude)) = &mut part.magnitude {
            *magnitude = magnitude.share(share)?;
        }
        if let Some(bias) = &mut part.bias {
            *bias = bias.share(share)?;
        }
        Some(part)
    }
}

impl Array {
    /// The values on `device` in f32, with trailing dimensions of size 1 added, such as the kernel of a linear layer.
    pub(super) fn tensor<const D: usize>(&self, device: &Device) -> Tensor<D> {
        let mut shape = self.shape.clone();
        shape.resize(D, 1);
        Tensor::from_data(TensorData::new(self.values.clone(), shape), (device, DType::F32))
    }

    /// The values as a matrix: the first dimension by all others.
    pub(super) fn matrix(&self, device: &Device) -> Tensor<2> {
        let rows = self.rows();
        let columns = self.values.len() / rows.max(1);
        Tensor::from_data(TensorData::new(self.values.clone(), [rows, columns]), (device, DType::F32))
    }

    /// The four dimensions of a weight; missing kernel dimensions are 1.
    pub(super) fn sides(&self) -> [usize; 4] {
        forms::sides(&self.shape)
    }

    /// Size of the first dimension.
    pub(super) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Concatenates arrays along the first dimension. `None` if the other dimensions differ.
    pub(super) fn stacked<'a>(arrays: impl Iterator<Item = &'a Self>) -> Option<Self> {
        arrays.cloned().map(Some).reduce(|above, below| {
            let (mut above, below) = (above?, below?);
            let fits = above.shape.get(1..) == below.shape.get(1..);
            *above.shape.first_mut()? += below.rows();
            above.values.extend(below.values);
            fits.then_some(above)
        })?
    }

    /// The rows of a share of the outputs. `None` if they cannot be split that way.
    pub(super) fn share(&self, share: Share) -> Option<Self> {
        let rows = self.rows();
        let row = self.values.len() / rows.max(1);
        let (rows, values) = match share {
            Share::Whole => (rows, self.values.clone()),
            Share::HalvesSwapped => {
                let (first, second) = self.values.split_at(rows.is_multiple_of(2).then_some(rows / 2 * row)?);
                (rows, [second, first].concat())
            }
            Share::Parts { from, count, of } => {
                let part = rows.is_multiple_of(of).then_some(rows / of)?;
                (count * part, self.values.get(from * part * row..(from + count) * part * row)?.to_vec())
            }
        };
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = rows;
        }
        Some(Self { shape, values })
    }
}

/// `core[i, j, ..] · a[i, out] · b[j, in]`, the Tucker product of LyCORIS: `[out, in, kernel, kernel]`.
///
/// Reference: <https://github.com/KohakuBlueleaf/LyCORIS/blob/f49d30d670591ec8841d241d79aaa8449b30a715/lycoris/functional/general.py#L9-L11>
fn tucker(core: Tensor<4>, a: Tensor<2>, b: Tensor<2>) -> Tensor<4> {
    let ([i, j, height, width], [_, outputs], [_, inputs]) = (core.dims(), a.dims(), b.dims());
    // [out, j · kernel]
    let left = a.transpose().matmul(core.reshape([i, j * height * width]));
    // [out · kernel, j] · [j, in]
    let left = left.reshape([outputs, j, height * width]).swap_dims(1, 2).reshape([outputs * height * width, j]);
    left.matmul(b).reshape([outputs, height, width, inputs]).permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rows() {
        let up = Array { shape: vec![7, 2], values: (0..14).map(|value| value as f32).collect() };
        let mlp = up.share(Share::Parts { from: 3, count: 4, of: 7 }).unwrap();
        assert_eq!((mlp.shape, mlp.values.as_slice()), (vec![4, 2], &up.values[6..]));
        assert_eq!(up.share(Share::Parts { from: 0, count: 1, of: 3 }), None);
        let pair = Array { shape: vec![2, 2], values: vec![0., 1., 2., 3.] };
        assert_eq!(pair.share(Share::HalvesSwapped).unwrap().values, [2., 3., 0., 1.]);
    }
}
