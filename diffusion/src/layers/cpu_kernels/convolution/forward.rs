//! The forward pass: a product of the weights with all windows of the picture. Only as many columns are written out
//! at a time as fit into a core's cache.

use rayon::prelude::*;

use super::super::lanes::vectorised;
use super::super::product::{EMPTY_LEFT, EMPTY_PANEL, LeftRun, PanelRun, ROWS, RUN, WIDTH, add_product, set_row};

/// Output positions that are computed together.
const TILE: usize = 384;
/// Approximate number of products that are summed at once for them.
const DEPTH: usize = 288;
/// Minimum number of work items per thread.
const PIECES: usize = 4;

/// Sizes of input, kernel and output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub inputs: usize,
    pub height: usize,
    pub width: usize,
    pub kernel: usize,
    pub stride: usize,
    /// Zeros above and to the left. Everything else outside the picture is 0 too.
    pub padding: usize,
    pub outputs: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Size {
    /// Values per input channel.
    fn plane(&self) -> usize {
        self.height * self.width
    }

    /// Values per output channel.
    pub(super) fn places(&self) -> usize {
        self.rows * self.columns
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    panels: Vec<PanelRun>,
    left: Vec<LeftRun>,
}

/// `x`: `[batch, in, height, width]`, `weight`: `[out, in, kernel, kernel]` → `[batch, out, rows, columns]`
pub(super) fn convolution(x: &[f32], weight: &[f32], bias: Option<&[f32]>, size: Size) -> Vec<f32> {
    let picture = size.inputs * size.plane();
    let batch = x.len() / picture.max(1);
    let mut y = vec![0.0; batch * size.outputs * size.places()];
    if y.is_empty() {
        return y;
    }
    let tiles = size.places().div_ceil(TILE);
    // Small pictures are split by output channels.
    let parts = (PIECES * rayon::current_num_threads()).div_ceil(batch * tiles);
    let outputs = size.outputs.div_ceil(parts).next_multiple_of(ROWS);
    let parts = size.outputs.div_ceil(outputs);
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..batch * tiles * parts).map(|_| Vec::with_capacity(outputs)).collect();
    for (plane, y) in y.chunks_exact_mut(size.places()).enumerate() {
        let (picture, output) = (plane / size.outputs, plane % size.outputs);
        for (tile, y) in y.chunks_mut(TILE).enumerate() {
            pieces[(picture * tiles + tile) * parts + output / outputs].push(y);
        }
    }
    pieces.into_par_iter().enumerate().for_each_init(Scratch::default, |scratch, (number, mut y)| {
        let (part, tile) = (number % parts, number / parts);
        let (number, tile) = (tile / tiles, tile % tiles);
        let first = part * outputs;
        if let Some(bias) = bias {
            y.iter_mut().zip(&bias[first..]).for_each(|(y, bias)| y.fill(*bias));
        }
        let x = &x[number * picture..(number + 1) * picture];
        let weight = &weight[first * size.inputs * size.taps()..];
        add_tile(x, weight, tile * TILE, &mut y, size, scratch);
    });
    y
}

/// Adds the contribution of the weights to the positions from `first` on in `y`, which has one row per output.
fn add_tile(x: &[f32], weight: &[f32], first: usize, y: &mut [&mut [f32]], size: Size, scratch: &mut Scratch) {
    let places = y.first().map_or(0, |y| y.len());
    let block = (DEPTH / size.taps()).max(1);
    for (number, planes) in x.chunks(block * size.plane()).enumerate() {
        let depth = planes.len() / size.plane() * size.taps();
        let runs = depth.div_ceil(RUN);
        scratch.panels.clear();
        scratch.panels.resize(places.div_ceil(WIDTH) * runs, EMPTY_PANEL);
        for (from, panel) in (first..).step_by(WIDTH).zip(scratch.panels.chunks_exact_mut(runs)) {
            let to = (from + WIDTH).min(first + places);
            write_windows(planes, panel.as_flattened_mut(), from, to, size);
        }
        scratch.left.clear();
        scratch.left.resize(runs, EMPTY_LEFT);
        for (group, y) in y.chunks_mut(ROWS).enumerate() {
            for row in 0..y.len() {
                let start = (group * ROWS + row) * size.inputs * size.taps() + number * block * size.taps();
                set_row(&mut scratch.left, row, &weight[start..start + depth]);
            }
            add_product(&scratch.left, &scratch.panels, y);
        }
    }
}

vectorised! {
    /// Writes the kernel's windows at the positions `from..to` into the columns of a panel.
    fn write_windows<'a>(planes: &'a [f32], panel: &'a mut [[f32; WIDTH]], from: usize, to: usize, size: Size) -> () {
        let mut at = from;
        while at < to {
            // Positions of one output row.
            let (row, column) = (at / size.columns, at % size.columns);
            let count = (size.columns - column).min(to - at);
            for tap in 0..size.taps() {
                let (down, right) = (tap / size.kernel, tap % size.kernel);
                let line = (row * size.stride + down).wrapping_sub(size.padding);
                if line >= size.height {
                    continue;
                }
                let source = |place: usize| ((column + place) * size.stride + right).wrapping_sub(size.padding);
                let low = (0..count).find(|place| source(*place) < size.width).unwrap_or(count);
                let high = (low..count).find(|place| source(*place) >= size.width).unwrap_or(count);
                if low == high {
                    continue;
                }
                let start = line * size.width + source(low);
                let columns = at - from + low..at - from + high;
                let rows = panel[tap..].iter_mut().step_by(size.taps());
                for (plane, row) in planes.chunks_exact(size.plane()).zip(rows) {
                    let plane = &plane[start..];
                    match (plane.first_chunk(), size.stride) {
                        (Some(whole), 1) if columns.len() == WIDTH => *row = *whole,
                        (_, 1) => row[columns.clone()].copy_from_slice(&plane[..columns.len()]),
                        (_, stride) => {
                            for (to, from) in row[columns.clone()].iter_mut().zip(plane.iter().step_by(stride)) {
                                *to = *from;
                            }
                        }
                    }
                }
            }
            at += count;
        }
    }
}
