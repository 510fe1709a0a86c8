//! Matrix products in small tiles, for kernels that compute their operands on the fly and never store them whole. Burn
//! multiplies large matrices in memory.

use pulp::{Arch, Simd, WithSimd};

/// Columns per panel.
pub(super) const WIDTH: usize = 32;
/// Rows of the left side per tile.
pub(super) const ROWS: usize = 12;
/// Products per run; shorter runs are padded with zeros.
pub(super) const RUN: usize = 16;

/// A run of the right side: row by row, `WIDTH` columns each.
pub(super) type PanelRun = [[f32; WIDTH]; RUN];
/// A run of the left side, row by row as in memory.
pub(super) type LeftRun = [[f32; RUN]; ROWS];

pub(super) const EMPTY_PANEL: PanelRun = [[0.0; WIDTH]; RUN];
pub(super) const EMPTY_LEFT: LeftRun = [[0.0; RUN]; ROWS];

/// Writes one row of the left side.
pub(super) fn set_row(left: &mut [LeftRun], row: usize, values: &[f32]) {
    let (whole, rest) = values.as_chunks::<RUN>();
    for (left, run) in left.iter_mut().zip(whole) {
        left[row] = *run;
    }
    for (left, value) in left
        .iter_mut()
        .skip(whole.len())
        .flat_map(|left| &mut left[row])
        .zip(rest.iter().copied().chain(std::iter::repeat(0.0)))
    {
        *left = value;
    }
}

/// `out[row][column] += Σ_k left[row][k] · right[k][column]` for at most `ROWS` rows. `panels` holds consecutive
/// panels of the right side, each with as many runs as `left`.
pub(super) fn add_product(left: &[LeftRun], panels: &[PanelRun], out: &mut [&mut [f32]]) {
    Arch::new().dispatch(Product { left, panels, out });
}

struct Product<'a, 'b> {
    left: &'a [LeftRun],
    panels: &'a [PanelRun],
    out: &'a mut [&'b mut [f32]],
}

impl WithSimd for Product<'_, '_> {
    type Output = ();

    /// The sums of a tile must fit into the registers: 32 with AVX-512 and NEON, 16 with AVX2.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.tiles::<S, 12, 2>(simd),
            8 => self.tiles::<S, 3, 4>(simd),
            4 => self.tiles::<S, 3, 8>(simd),
            _ => self.tiles::<S, 1, WIDTH>(simd),
        }
    }
}

impl Product<'_, '_> {
    /// Computes tiles of `R` rows and `V` vectors.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        for (number, panel) in self.panels.chunks_exact(self.left.len()).enumerate() {
            for (group, out) in self.out.chunks_mut(R).enumerate() {
                let mut sums = [[0.0; WIDTH]; R];
                tile::<S, R, V>(simd, self.left, group, panel, &mut sums);
                for (out, sums) in out.iter_mut().zip(&sums) {
                    for (out, sum) in out[number * WIDTH..].iter_mut().zip(sums) {
                        *out += sum;
                    }
                }
            }
        }
    }
}

/// Indices and lengths are compile-time constants here, so that all sums stay in registers.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    left: &[LeftRun],
    group: usize,
    panel: &[PanelRun],
    out: &mut [[f32; WIDTH]; R],
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (left, right) in left.iter().zip(panel) {
        let Some(left) = left.as_chunks::<R>().0.get(group) else { return };
        for k in 0..RUN {
            let right = S::as_simd_f32s(&right[k]).0;
            for r in 0..R {
                let left = simd.splat_f32s(left[r][k]);
                for v in 0..V {
                    // Without a fused instruction, `mul_add` is a slow library call.
                    sums[r][v] = if S::IS_SCALAR {
                        simd.add_f32s(simd.mul_f32s(left, right[v]), sums[r][v])
                    } else {
                        simd.mul_add_f32s(left, right[v], sums[r][v])
                    };
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Scalar, Scalar128b, Scalar256b, Scalar512b};

    use super::*;

    /// 33 columns are one panel plus one; 20 products are one run plus some.
    #[test]
    fn every_width_of_vectors_gives_the_same_product() {
        let (depth, columns) = (20, 33);
        let value = |at: usize| (at * 37 % 101) as f32 - 50.0;
        let row = |row: usize| (0..depth).map(|k| value(row * depth + k)).collect::<Vec<f32>>();
        let (mut left, mut panels) = (vec![EMPTY_LEFT; 2], vec![EMPTY_PANEL; 4]);
        for k in 0..depth {
            for column in 0..columns {
                panels[column / WIDTH * 2 + k / RUN][k % RUN][column % WIDTH] = value(7 * k + column);
            }
        }
        for rows in [1, 7, ROWS] {
            (0..rows).for_each(|number| set_row(&mut left, number, &row(number)));
            let wanted = |number: usize, column: usize| {
                1.0 + row(number).iter().enumerate().map(|(k, left)| left * value(7 * k + column)).sum::<f32>()
            };
            let wanted: Vec<f32> = (0..rows * columns).map(|at| wanted(at / columns, at % columns)).collect();
            let multiply = |by: &dyn Fn(Product<'_, '_>)| {
                let mut y = vec![1.0; rows * columns];
                let mut out: Vec<&mut [f32]> = y.chunks_exact_mut(columns).collect();
                by(Product { left: &left, panels: &panels, out: &mut out });
                assert_eq!(y, wanted, "whole numbers have no rounding");
            };
            multiply(&|product| Scalar.vectorize(product));
            multiply(&|product| Scalar128b.vectorize(product));
            multiply(&|product| Scalar256b.vectorize(product));
            multiply(&|product| Scalar512b.vectorize(product));
            multiply(&|product| add_product(product.left, product.panels, product.out));
        }
    }
}
