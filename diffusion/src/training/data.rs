//! The cached inputs of a training: latents and prompt embeddings of its examples, grouped by the shape of their
//! pictures. The trainer draws batches from them.

use std::path::PathBuf;

use burn::prelude::*;

use super::Random;
use crate::image;
use crate::pipelines::flux::{FluxPipeline, PromptEmbeddings, pack};
use crate::{Error, Result};

/// A picture and its caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingExample {
    /// PNG, JPEG or WebP.
    pub image: PathBuf,
    pub caption: String,
}

/// The size of a batch's pictures in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    pub rows: usize,
    pub columns: usize,
}

/// The encoded examples.
#[derive(Debug)]
pub struct Cache {
    examples: Vec<Cached>,
    /// The embeddings of the empty caption, for caption dropout.
    empty: PromptEmbeddings,
}

#[derive(Debug)]
struct Cached {
    bucket: Bucket,
    /// Normalised and packed, `[1, tokens, channels]`
    latents: Tensor<3>,
    prompt: PromptEmbeddings,
}

/// Examples of one bucket.
#[derive(Debug, Clone)]
pub struct Batch {
    pub bucket: Bucket,
    /// `[batch, tokens, channels]`
    pub latents: Tensor<3>,
    /// `[batch, length, joint_attention_dim]`
    pub hidden: Tensor<3>,
    /// `[batch, pooled_projection_dim]`
    pub pooled: Tensor<2>,
}

impl Cache {
    /// Encodes every example at about `resolution`² pixels, in the aspect ratio of its picture.
    pub fn new(pipeline: &FluxPipeline, examples: &[(PathBuf, String)], resolution: usize) -> Result<Self> {
        let multiple = pipeline.size_multiple();
        let mut cached = Vec::with_capacity(examples.len());
        for (path, caption) in examples {
            pipeline.reading.check()?;
            let picture = image::read(path)?;
            let (width, height) = picture.dimensions();
            if width == 0 || height == 0 {
                return Err(Error::malformed(path, "the picture is empty"));
            }
            let bucket = Bucket::nearest(f64::from(width) / f64::from(height), resolution, multiple);
            let (width, height) = (bucket.columns * multiple, bucket.rows * multiple);
            let pixels = image::to_tensor(&image::cover(&picture, width as u32, height as u32), &pipeline.device);
            let latents = pipeline.vae.normalise(pipeline.vae.encode(pixels).mean);
            cached.push(Cached { bucket, latents: pack(latents), prompt: pipeline.encode_prompt(caption)? });
        }
        if cached.is_empty() {
            return Err(Error::Invalid("a training needs at least one example".into()));
        }
        Ok(Self { examples: cached, empty: pipeline.encode_prompt("")? })
    }

    /// A cache of one encoded example: a picture of `(rows, columns)` tokens as normalised and packed latents
    /// `[1, tokens, channels]`, and its prompt as T5 states `[1, length, joint_attention_dim]` and CLIP's pooled state
    /// `[1, pooled_projection_dim]`. Its caption is never dropped.
    pub fn of_one((rows, columns): (usize, usize), latents: Tensor<3>, hidden: Tensor<3>, pooled: Tensor<2>) -> Self {
        let prompt = PromptEmbeddings { hidden, pooled };
        let example = Cached { bucket: Bucket { rows, columns }, latents, prompt: prompt.clone() };
        Self { examples: vec![example], empty: prompt }
    }

    /// Draws a batch: a bucket with probability proportional to its size, then examples of it, without repetition if
    /// there are enough. Each caption is dropped with the probability `without_caption`.
    pub fn draw(&self, size: usize, without_caption: f64, random: &mut Random) -> Batch {
        let bucket = self.examples[random.below(self.examples.len())].bucket;
        let examples: Vec<&Cached> = self.examples.iter().filter(|example| example.bucket == bucket).collect();
        let mut order: Vec<usize> = Vec::new();
        let (mut latents, mut hidden, mut pooled) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..size {
            if order.is_empty() {
                order = (0..examples.len()).collect();
            }
            let example = examples[order.swap_remove(random.below(order.len()))];
            let prompt = if random.chance(without_caption) { &self.empty } else { &example.prompt };
            latents.push(example.latents.clone());
            hidden.push(prompt.hidden.clone());
            pooled.push(prompt.pooled.clone());
        }
        Batch {
            bucket,
            latents: Tensor::cat(latents, 0),
            hidden: Tensor::cat(hidden, 0),
            pooled: Tensor::cat(pooled, 0),
        }
    }
}

impl Bucket {
    /// The shape closest to `aspect` (width / height) with an area of about `resolution`², between 1:2 and 2:1. A
    /// token has `multiple` pixels per side.
    fn nearest(aspect: f64, resolution: usize, multiple: usize) -> Self {
        let side = (resolution as f64 / multiple as f64).max(1.0);
        let shapes = (side / 2f64.sqrt()).round().max(1.0) as usize..=(side * 2f64.sqrt()).round() as usize;
        let distance = |bucket: &Bucket| (bucket.columns as f64 / bucket.rows as f64 / aspect).ln().abs();
        shapes
            .map(|columns| Self { rows: ((side * side / columns as f64).round() as usize).max(1), columns })
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .unwrap_or(Self { rows: side as usize, columns: side as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_keeps_its_shape_as_far_as_the_grid_allows() {
        assert_eq!(Bucket::nearest(1.0, 64, 8), Bucket { rows: 8, columns: 8 });
        assert_eq!(Bucket::nearest(1.0, 1024, 16), Bucket { rows: 64, columns: 64 });
        let wide = Bucket::nearest(16.0 / 9.0, 1024, 16);
        assert!((wide.columns as f64 / wide.rows as f64 - 16.0 / 9.0).abs() < 0.05, "{wide:?}");
        assert!((wide.rows * wide.columns).abs_diff(64 * 64) < 64, "{wide:?}");
        let panorama = Bucket::nearest(5.0, 512, 16);
        assert!(panorama.columns <= 2 * panorama.rows + 1, "{panorama:?}");
        assert_eq!(Bucket::nearest(1.0, 4, 8), Bucket { rows: 1, columns: 1 });
    }
}
