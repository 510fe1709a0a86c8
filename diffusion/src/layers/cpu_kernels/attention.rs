//! Scaled dot-product attention. Only a few rows of scores exist at a time: they are computed, turned into weights
//! and used while they are in a core's cache.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;
use rayon::prelude::*;

use super::lanes::{LANES, exponential, vectorised};
use super::product::{EMPTY_LEFT, EMPTY_PANEL, LeftRun, PanelRun, ROWS, RUN, WIDTH, add_product, set_row};
use super::{plain, tensor};

/// Rows of queries per thread at a time.
const QUERIES: usize = 8 * ROWS;

/// `softmax(q·kᵀ·scale + bias)·v`: `[batch, heads, length, head]` each, and a bias that broadcasts to
/// `[batch, heads, queries, keys]`. `None` unless all tensors are f32 on the CPU without autodiff.
pub(crate) fn attend(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    bias: Option<&Tensor<4>>,
    scale: f64,
) -> Option<Tensor<4>> {
    let [batch, heads, queries, _] = query.dims();
    let [_, _, keys, _] = key.dims();
    let [_, _, _, width] = value.dims();
    let bias = match bias {
        Some(bias) => Some(Rows::new(&plain(&bias.clone().expand([batch, heads, queries, keys]))?)),
        None => None,
    };
    let [query, key, value] = [plain(query)?, plain(key)?, plain(value)?].map(|tensor| Rows::new(&tensor));
    // Laid out like joined heads, `[batch, queries, heads, width]`, so that joining them copies nothing.
    let mut y = vec![0.0; batch * queries * heads * width];
    if y.is_empty() {
        return Some(Tensor::from_primitive::<Flex>(tensor(y, [batch, heads, queries, width])));
    }
    let mut outputs: Vec<Vec<&mut [f32]>> = (0..batch * heads).map(|_| Vec::with_capacity(queries)).collect();
    for (row, y) in y.chunks_exact_mut(width).enumerate() {
        outputs[row / (queries * heads) * heads + row % heads].push(y);
    }
    outputs.par_iter_mut().enumerate().for_each(|(number, rows)| {
        let at = [number / heads, number % heads];
        let head = Head::new(&key, &value, at, keys, width);
        rows.par_chunks_mut(QUERIES).enumerate().for_each_init(Scratch::default, |scratch, (part, rows)| {
            for (group, rows) in rows.chunks_mut(ROWS).enumerate() {
                head.attend(&query, bias.as_ref(), at, part * QUERIES + group * ROWS, scale as f32, rows, scratch);
            }
        });
    });
    drop(outputs);
    let y = tensor(y, [batch, queries, heads, width]);
    Some(Tensor::<4>::from_primitive::<Flex>(y).swap_dims(1, 2))
}

/// The rows of a four-dimensional tensor with any strides.
struct Rows {
    tensor: FlexTensor,
    strides: [usize; 3],
    width: usize,
}

impl Rows {
    fn new(tensor: &FlexTensor) -> Self {
        let usable = |tensor: &FlexTensor| {
            let strides = tensor.layout().strides();
            strides.iter().all(|stride| *stride >= 0) && strides[3] == 1
        };
        let tensor = if usable(tensor) { tensor.clone() } else { tensor.to_contiguous() };
        let strides = std::array::from_fn(|dim| tensor.layout().strides()[dim].unsigned_abs());
        let width = tensor.layout().shape()[3];
        Self { tensor, strides, width }
    }

    fn row(&self, [batch, head]: [usize; 2], row: usize) -> &[f32] {
        let [of_batch, of_head, of_row] = self.strides;
        let start = self.tensor.layout().start_offset() + batch * of_batch + head * of_head + row * of_row;
        &self.tensor.storage::<f32>()[start..start + self.width]
    }
}

/// Keys and values of one head, as right sides of products.
struct Head {
    keys: usize,
    key_panels: Vec<PanelRun>,
    value_panels: Vec<PanelRun>,
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    row: Vec<f32>,
    queries: Vec<LeftRun>,
    scores: Vec<f32>,
    weights: Vec<LeftRun>,
}

impl Head {
    fn new(key: &Rows, value: &Rows, at: [usize; 2], keys: usize, width: usize) -> Self {
        let runs = key.width.div_ceil(RUN);
        let mut key_panels = vec![EMPTY_PANEL; keys.div_ceil(WIDTH) * runs];
        for (number, panel) in key_panels.chunks_exact_mut(runs).enumerate() {
            for column in 0..WIDTH.min(keys - number * WIDTH) {
                let row = key.row(at, number * WIDTH + column);
                for (panel, value) in panel.as_flattened_mut().iter_mut().zip(row) {
                    panel[column] = *value;
                }
            }
        }
        let runs = keys.div_ceil(RUN);
        let mut value_panels = vec![EMPTY_PANEL; width.div_ceil(WIDTH) * runs];
        for number in 0..keys {
            for (columns, panel) in value.row(at, number).chunks(WIDTH).zip(value_panels.chunks_exact_mut(runs)) {
                panel.as_flattened_mut()[number][..columns.len()].copy_from_slice(columns);
            }
        }
        Self { keys, key_panels, value_panels }
    }

    /// Writes the results of the queries from `first` on into `rows`, which must be zeros.
    #[allow(clippy::too_many_arguments, reason = "a kernel")]
    fn attend(
        &self,
        query: &Rows,
        bias: Option<&Rows>,
        at: [usize; 2],
        first: usize,
        scale: f32,
        rows: &mut [&mut [f32]],
        scratch: &mut Scratch,
    ) {
        scratch.queries.resize(query.width.div_ceil(RUN), EMPTY_LEFT);
        for row in 0..rows.len() {
            scratch.row.clear();
            scratch.row.extend(query.row(at, first + row).iter().map(|value| value * scale));
            set_row(&mut scratch.queries, row, &scratch.row);
        }
        scratch.scores.resize(rows.len() * self.keys, 0.0);
        let mut scores: Vec<&mut [f32]> = scratch.scores.chunks_exact_mut(self.keys).take(rows.len()).collect();
        for (row, scores) in scores.iter_mut().enumerate() {
            match bias {
                Some(bias) => scores.copy_from_slice(bias.row(at, first + row)),
                None => scores.fill(0.0),
            }
        }
        add_product(&scratch.queries, &self.key_panels, &mut scores);
        scratch.weights.resize(self.keys.div_ceil(RUN), EMPTY_LEFT);
        let mut sums = [0.0; ROWS];
        for (row, (scores, sum)) in scores.iter_mut().zip(&mut sums).enumerate() {
            *sum = exponentials(scores);
            set_row(&mut scratch.weights, row, scores);
        }
        add_product(&scratch.weights, &self.value_panels, rows);
        for (row, sum) in rows.iter_mut().zip(&sums) {
            row.iter_mut().for_each(|value| *value /= sum);
        }
    }
}

vectorised! {
    /// Replaces the scores by `e^(score − highest)` and returns their sum.
    fn exponentials<'a>(scores: &'a mut [f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in &*chunks {
            for lane in 0..LANES {
                lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            }
        }
        let highest = lanes.iter().chain(&*rest).copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                chunk[lane] = exponential(chunk[lane] - highest);
                sums[lane] += chunk[lane];
            }
        }
        for value in &mut *rest {
            *value = exponential(*value - highest);
        }
        sums.iter().chain(&*rest).sum()
    }
}
