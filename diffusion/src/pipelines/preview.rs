//! Fast, approximate pictures of a running generation, decoded from the predicted x₀: by a tiny autoencoder or, if
//! there is none, by a linear map from latents to colours. Finished pictures always use the full autoencoder.

use std::path::Path;

use ::image::{ImageBuffer, Rgb, RgbImage, imageops};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;

use crate::checkpoint::load_strict;
use crate::checkpoint::single_file::taesd;
use crate::image;
use crate::networks::autoencoder_tiny::TinyDecoder;
use crate::networks::vae::Autoencoder;
use crate::noise::Noise;
use crate::{Error, Result};

/// The longest side of a preview, in pixels.
pub(super) const LONGEST_PREVIEW: usize = 512;
/// Side in latents of each quarter of the picture that the linear map is fitted to.
const QUARTER: usize = 8;
/// Number of colour patches per side in each quarter: patches larger than, equal to and smaller than a latent.
const PATCHES: [u32; 4] = [4, 8, 8, 16];
/// Ridge term relative to the latents' variance; keeps the fit finite for collinear latents.
const RIDGE: f64 = 1e-4;

/// Decodes the previews of one request.
#[derive(Debug)]
pub struct Previewer {
    decoder: Decoder,
    /// Pixels of the finished picture per latent along each side.
    factor: usize,
    latent_channels: usize,
}

#[derive(Debug)]
enum Decoder {
    Tiny(TinyDecoder),
    Linear(Box<Colours>),
}

/// Red, green and blue in −1..1 as linear combinations of the latent channels.
#[derive(Debug)]
struct Colours {
    /// `[latent channels, 3]`
    weight: Tensor<2>,
    /// `[1, 3]`
    bias: Tensor<2>,
}

impl Previewer {
    /// The tiny autoencoder in `file`; `None` if it is for other latents than those of `vae`.
    ///
    /// # Errors
    /// The file is not a tiny autoencoder.
    pub(super) fn load(file: &Path, vae: &Autoencoder, device: &Device) -> Result<Option<Self>> {
        let (config, tensors) = taesd::decoder(file)?;
        let (factor, latent_channels) = (vae.factor(), vae.latent_channels());
        if (config.factor(), config.latent_channels) != (factor, latent_channels) {
            return Ok(None);
        }
        let network = load_strict(TinyDecoder::new(&config, device), &tensors, DType::F32)?;
        Ok(Some(Self { decoder: Decoder::Tiny(network), factor, latent_channels }))
    }

    /// Fits the linear map that best inverts `vae`, by least squares over a picture of soft patches in random colours.
    pub(super) fn fit(vae: &Autoencoder, device: &Device) -> Result<Self> {
        let (factor, channels) = (vae.factor(), vae.latent_channels());
        let picture = image::to_tensor(&patches(factor), device);
        let latents = rows(vae.normalise(vae.encode(picture.clone()).mean))?;
        let colours = rows(avg_pool2d(picture, AvgPoolOptions::new([factor; 2])))?;
        let mut fit = LeastSquares::new(channels + 1);
        for (latent, colour) in latents.chunks_exact(channels).zip(colours.chunks_exact(3)) {
            let known = latent.iter().copied().chain([1.0]).map(f64::from).collect();
            fit.add(known, [0, 1, 2].map(|channel| f64::from(colour[channel])));
        }
        let solution: Vec<f32> = fit.solve().into_iter().flatten().map(|value| value as f32).collect();
        let all = Tensor::<2>::from_data(TensorData::new(solution, [channels + 1, 3]), device);
        let colours = Colours { weight: all.clone().narrow(0, 0, channels), bias: all.narrow(0, channels, 1) };
        Ok(Self { decoder: Decoder::Linear(Box::new(colours)), factor, latent_channels: channels })
    }

    /// A picture of normalised latents, `[1, latent channels, height, width]`. It is as large as the finished one,
    /// or, if that is longer than [`LONGEST_PREVIEW`], smaller by about a whole factor.
    pub fn picture(&self, latents: &Tensor<4>) -> Result<RgbImage> {
        let [_, channels, height, width] = latents.dims();
        if channels != self.latent_channels {
            return Err(Error::Invalid(format!("a preview of {channels} channels of latents was not prepared for")));
        }
        match &self.decoder {
            Decoder::Tiny(network) => {
                // Pools latents instead of shrinking the picture: decoding four times the pixels takes four times as
                // long.
                let too_large = (height.max(width) * self.factor).div_ceil(LONGEST_PREVIEW);
                let latents = match too_large.min(height).min(width) {
                    0 | 1 => latents.clone(),
                    side => avg_pool2d(latents.clone(), AvgPoolOptions::new([side; 2])),
                };
                let picture = image::from_tensor(network.decode(latents))?;
                Ok(match picture.width().max(picture.height()) {
                    // Too narrow to be pooled.
                    longest if longest > LONGEST_PREVIEW as u32 => {
                        let shrunk = |side: u32| (side * LONGEST_PREVIEW as u32 / longest).max(1);
                        imageops::thumbnail(&picture, shrunk(picture.width()), shrunk(picture.height()))
                    }
                    _ => picture,
                })
            }
            Decoder::Linear(colours) => {
                let places = latents.clone().permute([0, 2, 3, 1]).reshape([height * width, channels]);
                let pixels = places.matmul(colours.weight.clone()) + colours.bias.clone();
                let small = image::from_tensor(pixels.reshape([1, height, width, 3]).permute([0, 3, 1, 2]))?;
                let scale = (LONGEST_PREVIEW / height.max(width)).clamp(1, self.factor);
                let [wide, high] = [width, height].map(|side| (side * scale) as u32);
                Ok(imageops::resize::<ImageBuffer<Rgb<u8>, _>>(&small, wide, high, imageops::FilterType::Triangle))
            }
        }
    }
}

/// A picture of soft patches in random colours. It is the same on every call.
fn patches(factor: usize) -> RgbImage {
    let mut random = Noise::seeded(0);
    let side = (QUARTER * factor) as u32;
    let mut whole = RgbImage::new(2 * side, 2 * side);
    for (place, count) in (0..).zip(PATCHES) {
        let quarter = RgbImage::from_fn(count, count, |_, _| Rgb([0; 3].map(|_: u8| random.below(256) as u8)));
        let (left, top) = (place % 2 * i64::from(side), place / 2 * i64::from(side));
        imageops::replace(&mut whole, &image::stretch(&quarter, side, side), left, top);
    }
    whole
}

/// `[1, channels, height, width]` → the channels of each position, one position after the other.
fn rows(tensor: Tensor<4>) -> Result<Vec<f32>> {
    let values = tensor.permute([0, 2, 3, 1]).into_data().convert::<f32>().try_to_vec::<f32>();
    values.map_err(|error| Error::Invalid(format!("latents cannot be read: {error:?}")))
}

/// Linear regression of three values by the normal equations.
struct LeastSquares {
    /// Sums of products of the inputs.
    products: Vec<Vec<f64>>,
    /// Sums of products of inputs and targets.
    targets: Vec<[f64; 3]>,
}

impl LeastSquares {
    fn new(size: usize) -> Self {
        Self { products: vec![vec![0.0; size]; size], targets: vec![[0.0; 3]; size] }
    }

    fn add(&mut self, known: Vec<f64>, sought: [f64; 3]) {
        for (row, left) in known.iter().enumerate() {
            for (column, right) in known.iter().enumerate() {
                self.products[row][column] += left * right;
            }
            for (channel, value) in sought.iter().enumerate() {
                self.targets[row][channel] += left * value;
            }
        }
    }

    /// Gaussian elimination. With the ridge term the matrix is positive definite and needs no pivoting.
    fn solve(self) -> Vec<[f64; 3]> {
        let Self { mut products, mut targets } = self;
        let size = products.len();
        for (place, row) in products.iter_mut().enumerate() {
            row[place] = row[place] * (1.0 + RIDGE) + f64::MIN_POSITIVE.sqrt();
        }
        for pivot in 0..size {
            let (row, target) = (products[pivot].clone(), targets[pivot]);
            let others = products.iter_mut().zip(&mut targets).enumerate().filter(|(other, _)| *other != pivot);
            for (_, (products, targets)) in others {
                let factor = products[pivot] / row[pivot];
                products.iter_mut().zip(&row).for_each(|(value, above)| *value -= factor * above);
                targets.iter_mut().zip(target).for_each(|(value, above)| *value -= factor * above);
            }
        }
        (0..size).map(|place| targets[place].map(|value| value / products[place][place])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_map_is_found_again() {
        let mut random = Noise::seeded(1);
        let wanted = [[0.5, -1.0, 2.0], [1.5, 0.0, -0.25], [0.1, 0.2, 0.3]];
        let mut fit = LeastSquares::new(3);
        for _ in 0..50 {
            let known = [f64::from(random.uniform()), f64::from(random.uniform()), 1.0];
            let sought = [0, 1, 2].map(|channel| (0..3).map(|row| known[row] * wanted[row][channel]).sum());
            fit.add(known.to_vec(), sought);
        }
        for (found, wanted) in fit.solve().iter().flatten().zip(wanted.iter().flatten()) {
            assert!((found - wanted).abs() < 2e-2, "{found} for {wanted}");
        }
    }

    #[test]
    fn what_says_the_same_twice_has_a_finite_answer() {
        let mut fit = LeastSquares::new(3);
        for value in [0.1, 0.5, 0.9] {
            fit.add(vec![value, value, 0.0], [value; 3]);
        }
        let solution = fit.solve();
        assert!(solution.iter().flatten().all(|value| value.is_finite()));
        assert!((solution[0][0] + solution[1][0] - 1.0).abs() < 1e-2, "{solution:?}");
    }
}
