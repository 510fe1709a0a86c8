//! Processes large pictures in overlapping tiles, so that memory does not grow with the picture, and batches one
//! picture at a time. A tile has no context beyond its edges, so the result is close but not equal to processing the
//! whole picture. Overlaps are blended. The arithmetic is that of diffusers' `tiled_encode` and `tiled_decode`.

use burn::prelude::*;

use super::{Autoencoder, Posterior};

impl Autoencoder {
    /// Sets the largest picture that is processed as a whole, in pixels. The default is 1024².
    pub fn with_largest_whole(self, pixels: usize) -> Self {
        Self { largest_whole: pixels, ..self }
    }

    /// [`Self::encode`], one picture at a time, in tiles if the pictures are too large.
    pub fn encode_sliced(&self, pictures: Tensor<4>) -> Posterior {
        let [_, _, height, width] = pictures.dims();
        let tiled = height * width > self.largest_whole;
        let encode = |picture| if tiled { self.encode_tiled(picture) } else { self.encode(picture) };
        let slices: Vec<Posterior> = pictures.split(1, 0).into_iter().map(encode).collect();
        Posterior {
            mean: Tensor::cat(slices.iter().map(|slice| slice.mean.clone()).collect(), 0),
            log_variance: Tensor::cat(slices.into_iter().map(|slice| slice.log_variance).collect(), 0),
        }
    }

    /// [`Self::decode`], one picture at a time, in tiles if the pictures are too large.
    pub fn decode_sliced(&self, latents: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = latents.dims();
        let tiled = height * width * self.factor * self.factor > self.largest_whole;
        let decode = |latents| if tiled { self.decode_tiled(latents) } else { self.decode(latents) };
        Tensor::cat(latents.split(1, 0).into_iter().map(decode).collect(), 0)
    }

    /// [`Self::encode`] in tiles of the training size.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/autoencoder_kl.py#L254-L300>
    pub fn encode_tiled(&self, pictures: Tensor<4>) -> Posterior {
        self.posterior(in_tiles(pictures, self.tile * self.factor, self.tile, |tile| self.moments(tile)))
    }

    /// [`Self::decode`] in tiles of the training size.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/autoencoder_kl.py#L364-L411>
    pub fn decode_tiled(&self, latents: Tensor<4>) -> Tensor<4> {
        in_tiles(latents, self.tile, self.tile * self.factor, |tile| self.decode(tile))
    }
}

/// Applies `work` to tiles of `side` positions, each overlapping the previous one by a quarter, and joins the results.
/// `work` returns tiles of `side_out` positions. Both sides are multiples of 4.
fn in_tiles(whole: Tensor<4>, side: usize, side_out: usize, work: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = whole.dims();
    let (stride, kept, overlap) = (side / 4 * 3, side_out / 4 * 3, side_out / 4);
    let mut above: Vec<Tensor<4>> = Vec::new();
    let mut rows = Vec::new();
    for top in (0..height).step_by(stride) {
        let band = whole.clone().narrow(2, top, side.min(height - top));
        let mut row: Vec<Tensor<4>> = Vec::new();
        for (column, left) in (0..width).step_by(stride).enumerate() {
            let mut tile = work(band.clone().narrow(3, left, side.min(width - left)));
            if let Some(above) = above.get(column) {
                tile = fade(above, tile, 2, overlap);
            }
            if let Some(before) = row.last() {
                tile = fade(before, tile, 3, overlap);
            }
            row.push(tile);
        }
        let uncovered = |tile: &Tensor<4>| {
            let [_, _, height, width] = tile.dims();
            tile.clone().narrow(2, 0, height.min(kept)).narrow(3, 0, width.min(kept))
        };
        rows.push(Tensor::cat(row.iter().map(uncovered).collect(), 3));
        above = row;
    }
    Tensor::cat(rows, 2)
}

/// Blends the first positions of `tile` along `dim` with the last ones of the tile `before` it.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/autoencoders/autoencoder_kl.py#L242-L246>
fn fade(before: &Tensor<4>, tile: Tensor<4>, dim: usize, overlap: usize) -> Tensor<4> {
    let (length_before, length) = (before.dims()[dim], tile.dims()[dim]);
    let overlap = overlap.min(length_before).min(length);
    let shares: Vec<f32> = (0..overlap).map(|place| place as f32 / overlap as f32).collect();
    let mut shape = [1; 4];
    shape[dim] = overlap;
    let share = Tensor::<4>::from_data(TensorData::new(shares, shape), (&tile.device(), tile.dtype()));
    let end = before.clone().narrow(dim, length_before - overlap, overlap);
    let start = tile.clone().narrow(dim, 0, overlap);
    let faded = end * (-share.clone() + 1.0) + start * share;
    if overlap == length {
        return faded;
    }
    Tensor::cat(vec![faded, tile.narrow(dim, overlap, length - overlap)], dim)
}
