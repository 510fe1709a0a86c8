//! The memory of a training: encoding the examples with text encoders and autoencoder, then training on the
//! denoiser alone, whose activations are kept for the backward pass or recomputed block by block.

use requests::TrainingParams;

use crate::footprint::{Denoiser, PROCESS, loading};
use crate::{ComputeType, Footprint, LoadOptions, Needs, WeightStorage};

/// Above this many parameters, activations are recomputed: keeping them would need more memory than the model.
pub const MOST_KEPT: usize = 1_000_000_000;

/// Number of tensors on the finest level of the autoencoder's encoder that are alive at the peak, measured on the CPU.
const ENCODER_TENSORS: usize = 7;
/// Number of tensors of the streams' width that are kept for the backward pass, measured on the CPU and rounded up: in
/// a double block (for each token of either stream), and in a single block.
const KEPT_IN_DOUBLE: usize = 40;
const KEPT_IN_SINGLE: usize = 34;
/// The same that are alive at the peak besides those: activations and gradients of the block at hand.
const IN_PASSING: usize = 24;
/// Score tensors that are kept for each block, and those that are alive at the peak besides them.
const KEPT_SCORES: usize = 1;
const SCORES_IN_PASSING: usize = 4;
/// Tensors of the size of all factors: the factors, their gradients, two moments, and those of an update in progress.
const FACTOR_TENSORS: usize = 6;
/// What the graph of the backward pass and freed gradients that the allocator keeps take, in bytes: measured with ember.
const GRAPH: u64 = 24 << 20;

impl Footprint {
    /// Whether a training recomputes activations even if there is room to keep them.
    pub fn recomputes(&self) -> bool {
        self.denoiser.values() > MOST_KEPT
    }

    /// What a training on this many examples needs in `compute`, with a base model loaded with `options`, and activations
    /// kept or recomputed. `None` if models of this family cannot be trained.
    pub fn training(
        &self,
        params: &TrainingParams,
        examples: usize,
        compute: ComputeType,
        options: LoadOptions,
        recompute: bool,
    ) -> Option<Needs> {
        let Denoiser::Flux { width, heads, text, trained } = &self.kind else { return None };
        let bytes = |values: usize, compute: ComputeType| (values as u64).saturating_mul(compute.bytes() as u64);
        let [batch, resolution, rank] =
            [params.batch_size, params.resolution, params.rank].map(|number| number as usize);
        // Pictures that are not square have up to a row more.
        let side = (resolution / (2 * self.factor.max(1))).max(1);
        let tokens = side * (side + 1);

        let encoders =
            self.text_bytes(options, compute) + bytes(self.vae, ComputeType::F32) + self.reading(options, compute);
        let weights = self.denoiser.bytes(options.weights, compute);
        let loading = loading(&self.denoiser, options.weights);
        let example = bytes(tokens * trained.channels, ComputeType::F32) + bytes(trained.prompt, compute);
        let cached = example.saturating_mul(examples as u64 + 1);
        let encoding = bytes(ENCODER_TENSORS * self.vae_encoder_channels * resolution * resolution, ComputeType::F32);
        // The encoders leave before the denoiser is read.
        let before = (encoders + encoding + cached).saturating_sub(weights);

        let factors = bytes(FACTOR_TENSORS * rank * trained.factors, ComputeType::F32);
        let stream = batch * (text + tokens) * width;
        let scores = batch.saturating_mul(heads * (text + tokens)).saturating_mul(text + tokens);
        let blocks = trained.double_blocks + trained.single_blocks;
        let (kept, kept_scores) = if recompute {
            // The input of each block, and all of one block.
            (blocks + KEPT_IN_DOUBLE, KEPT_SCORES)
        } else {
            (trained.double_blocks * KEPT_IN_DOUBLE + trained.single_blocks * KEPT_IN_SINGLE, blocks * KEPT_SCORES)
        };
        // A quarter of the tensors are f32 on every device: those of norms, rotary embeddings and the loss.
        let mixed = |values: usize| (bytes(values, ComputeType::F32) + 3 * bytes(values, compute)) / 4;
        let activations = mixed((kept + IN_PASSING).saturating_mul(stream));
        let scores = bytes((kept_scores + SCORES_IN_PASSING).saturating_mul(scores), ComputeType::F32);
        // The backward pass of a block keeps its weights as they were multiplied.
        let unpacked = if options.weights == WeightStorage::Full { 0 } else { self.largest_block(ComputeType::F32) };
        let step = cached + factors + unpacked + activations.saturating_add(scores);
        Some(Needs { weights, working: before.max(step).max(cached + loading) + GRAPH + PROCESS, host: 0 })
    }
}
