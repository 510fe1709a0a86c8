//! The product of activations with a stored weight. Its values are converted while they are multiplied, a few rows at a
//! time, so that the f32 weight never exists as a whole: writing it and reading it back takes longer than converting.
//! With many activations that matters less than Burn's faster product.

use std::ops::Range;

use burn::backend::Flex;
use burn::prelude::*;
use rayon::prelude::*;

use super::product::{EMPTY_LEFT, EMPTY_PANEL, LeftRun, PanelRun, ROWS, RUN, WIDTH, add_product, set_row};
use super::stored::Rows;
use super::{plain, tensor, values};

/// Most rows of `x` for which this is faster than converting the whole weight.
const MOST_ROWS: usize = 1024;
/// Rows of `x` that are multiplied together.
const TILE: usize = 512;
/// Products that are summed at once; a multiple of the block size. Then a tile fits into a core's cache.
const DEPTH: usize = 256;
/// Outputs per thread at a time.
const OUTPUTS: usize = 8 * ROWS;
/// Rows of the result per thread at a time when it is transposed.
const TURNED: usize = 16;

/// `x`: `[rows, in]`, `weight`: `[out, in]` → `[rows, out]`. `None` for many rows, and unless `x` is f32 on the CPU
/// without autodiff.
pub(crate) fn multiply(x: &Tensor<2>, weight: &Rows, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    let [rows, inputs] = x.dims();
    if rows > MOST_ROWS {
        return None;
    }
    let bias = match bias {
        Some(bias) => Some(plain(bias)?.to_contiguous()),
        None => None,
    };
    let (x, _) = values(&plain(x)?);
    let bias = bias.as_ref().map(|bias| bias.storage::<f32>());
    let product = turned_product(x.storage::<f32>(), inputs, weight);
    let outputs = weight.count();
    let mut y = vec![0.0; rows * outputs];
    y.par_chunks_mut(TURNED * outputs.max(1)).enumerate().for_each(|(number, y)| {
        let first = number * TURNED;
        for (output, product) in product.chunks_exact(rows).enumerate() {
            let bias = bias.map_or(0.0, |bias| bias[output]);
            let column = y[output..].iter_mut().step_by(outputs);
            column.zip(&product[first..]).for_each(|(y, product)| *y = product + bias);
        }
    });
    Some(Tensor::from_primitive::<Flex>(tensor(y, [rows, outputs])))
}

/// `W·xᵀ`: `[out, rows]`
fn turned_product(x: &[f32], inputs: usize, weight: &Rows) -> Vec<f32> {
    let rows = x.len() / inputs.max(1);
    let mut product = vec![0.0; weight.count() * rows];
    if product.is_empty() {
        return product;
    }
    for (tile, x) in x.chunks(TILE * inputs).enumerate() {
        let columns = tile * TILE..tile * TILE + x.len() / inputs;
        let panels: Vec<Vec<PanelRun>> = (0..inputs.div_ceil(DEPTH))
            .into_par_iter()
            .map(|block| {
                let depth = block * DEPTH..inputs.min((block + 1) * DEPTH);
                let runs = depth.len().div_ceil(RUN);
                let mut panels = vec![EMPTY_PANEL; columns.len().div_ceil(WIDTH) * runs];
                for (panel, x) in panels.chunks_exact_mut(runs).zip(x.chunks(WIDTH * inputs)) {
                    write_columns(panel, x, inputs, depth.clone());
                }
                panels
            })
            .collect();
        let work = product.par_chunks_mut(OUTPUTS * rows).enumerate();
        work.for_each_init(Scratch::default, |scratch, (number, product)| {
            let mut product: Vec<_> = product.chunks_exact_mut(rows).map(|row| &mut row[columns.clone()]).collect();
            for (block, panels) in panels.iter().enumerate() {
                let from = block * DEPTH;
                for (group, product) in product.chunks_mut(ROWS).enumerate() {
                    let first = number * OUTPUTS + group * ROWS;
                    let left = scratch.read(weight, first..first + product.len(), from..inputs.min(from + DEPTH));
                    add_product(left, panels, product);
                }
            }
        });
    }
    product
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    row: Vec<f32>,
    left: Vec<LeftRun>,
}

impl Scratch {
    /// Converts a part of some rows of the weight.
    fn read(&mut self, weight: &Rows, rows: Range<usize>, depth: Range<usize>) -> &[LeftRun] {
        self.row.resize(depth.len(), 0.0);
        self.left.resize(depth.len().div_ceil(RUN), EMPTY_LEFT);
        for (at, row) in rows.enumerate() {
            weight.read(row, depth.start, &mut self.row);
            set_row(&mut self.left, at, &self.row);
        }
        &self.left
    }
}

/// Writes the inputs `depth` of up to `WIDTH` rows of `x` as the columns of a panel.
fn write_columns(panel: &mut [PanelRun], x: &[f32], inputs: usize, depth: Range<usize>) {
    let panel = panel.as_flattened_mut();
    for (column, x) in x.chunks_exact(inputs).enumerate() {
        panel.iter_mut().zip(&x[depth.clone()]).for_each(|(row, value)| row[column] = *value);
    }
}
