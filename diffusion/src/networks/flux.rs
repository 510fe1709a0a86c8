//! The FLUX.1 transformer. Image and text tokens first pass through two separate streams ("double" blocks), then
//! through one joint stream ("single" blocks). All blocks are modulated by the timestep, the pooled text and, in
//! guidance-distilled models, the guidance scale.
//!
//! Black Forest Labs, FLUX.1 (<https://github.com/black-forest-labs/flux>), after Esser et al., "Scaling Rectified Flow
//! Transformers", <https://arxiv.org/abs/2403.03206>, and Peebles and Xie, "Scalable Diffusion Models with
//! Transformers", <https://arxiv.org/abs/2212.09748>. Keys are those of diffusers' `FluxTransformer2DModel`.
//! `pipelines::flux` packs latents into tokens.

use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::silu;
pub use formats::networks::flux::Config;
use formats::networks::flux::{DOUBLE_BLOCKS, SINGLE_BLOCKS, TIME_CHANNELS, is_trained};

use crate::layers::{
    self, LayerNorm, Linear, NamedLayers, RmsNorm, attention, gelu_tanh, join_heads, sinusoidal, split_heads,
};

/// The base of the rotary frequencies.
const ROTARY_BASE: f64 = 10_000.0;
/// The epsilon of all norms.
const EPSILON: f64 = 1e-6;

/// The whole denoiser: predicts the velocity `noise − image` of noisy latent tokens.
///
/// References:
/// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/transformers/transformer_flux.py#L529-L821>
/// - <https://github.com/black-forest-labs/flux/blob/802fb4713906133fcbd0d8dc5351620ca4773036/src/flux/model.py#L34-L119>
#[derive(Module, Debug)]
pub struct FluxTransformer {
    time_text_embed: TimeTextEmbedding,
    context_embedder: Linear,
    x_embedder: Linear,
    transformer_blocks: Vec<DoubleBlock>,
    single_transformer_blocks: Vec<SingleBlock>,
    norm_out: ContinuousNorm,
    proj_out: Linear,
    axes: [usize; 3],
}

/// The inputs of one denoiser call.
#[derive(Debug, Clone)]
pub struct FluxInput {
    /// Noisy latents, `[batch, tokens, in_channels]`
    pub hidden: Tensor<3>,
    /// T5 states, `[batch, length, joint_attention_dim]`
    pub encoder_hidden: Tensor<3>,
    /// CLIP's pooled state, `[batch, pooled_projection_dim]`
    pub pooled: Tensor<2>,
    /// Sigma from 1 (noise) to 0 (image), one per batch element
    pub timestep: Vec<f32>,
    /// The guidance scale, one per batch element; ignored by models that do not embed it
    pub guidance: Option<Vec<f32>>,
}

/// The inputs of the first block.
pub(crate) struct Embedded {
    /// `[batch, tokens, width]`
    pub image: Tensor<3>,
    /// `[batch, text, width]`
    pub context: Tensor<3>,
    /// `[batch, width]`: silu is applied once here, since every modulation starts with it
    pub condition: Tensor<2>,
}

/// Rotary angles of all tokens of a sequence, text first. See [`FluxTransformer::rotary`].
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/transformers/transformer_flux.py#L500-L526>
#[derive(Debug, Clone)]
pub struct Rotary {
    /// `[tokens, head_dim]`, each value repeated twice
    cos: Tensor<2>,
    /// `[tokens, head_dim]`, each value repeated twice
    sin: Tensor<2>,
    /// `[head_dim, head_dim]`: rotates each pair of channels by 90°, `(a, b) → (−b, a)`
    quarter_turn: Tensor<2>,
}

impl FluxTransformer {
    /// A transformer to load weights into or to train.
    pub fn new(config: &Config, device: &Device) -> Self {
        let width = config.width();
        Self {
            time_text_embed: TimeTextEmbedding {
                timestep_embedder: TwoLayers::new(TIME_CHANNELS, width, device),
                guidance_embedder: config.guidance_embeds.then(|| TwoLayers::new(TIME_CHANNELS, width, device)),
                text_embedder: TwoLayers::new(config.pooled_projection_dim, width, device),
            },
            context_embedder: Linear::new(config.joint_attention_dim, width, device),
            x_embedder: Linear::new(config.in_channels, width, device),
            transformer_blocks: (0..config.num_layers).map(|_| DoubleBlock::new(config, device)).collect(),
            single_transformer_blocks: (0..config.num_single_layers)
                .map(|_| SingleBlock::new(config, device))
                .collect(),
            norm_out: ContinuousNorm { linear: Linear::new(width, 2 * width, device), norm: LayerNorm::plain(EPSILON) },
            proj_out: Linear::new(width, config.outputs(), device),
            axes: config.axes_dims_rope,
        }
    }

    /// The angles for a prompt of `text` tokens and a picture of `rows` × `columns` tokens. All text tokens have
    /// position 0. The axes are (unused, row, column).
    pub fn rotary(&self, text: usize, rows: usize, columns: usize, device: &Device) -> Rotary {
        Rotary::new(&self.axes, text, rows, columns, device)
    }

    /// Every layer that adapters can be attached to.
    pub fn layers(&mut self) -> NamedLayers<'_> {
        let mut all = NamedLayers::default();
        for (name, linear) in [
            ("x_embedder", &mut self.x_embedder),
            ("context_embedder", &mut self.context_embedder),
            ("norm_out.linear", &mut self.norm_out.linear),
            ("proj_out", &mut self.proj_out),
        ] {
            all.linears.push((name.to_owned(), linear));
        }
        let embed = &mut self.time_text_embed;
        let guidance = embed.guidance_embedder.as_mut().map(|layers| ("guidance_embedder", layers));
        let others = [("timestep_embedder", &mut embed.timestep_embedder), ("text_embedder", &mut embed.text_embedder)];
        for (name, layers) in others.into_iter().chain(guidance) {
            let path = format!("time_text_embed.{name}");
            all.linear(&path, "linear_1", &mut layers.linear_1);
            all.linear(&path, "linear_2", &mut layers.linear_2);
        }
        for (number, block) in self.transformer_blocks.iter_mut().enumerate() {
            block.name_layers(&format!("{DOUBLE_BLOCKS}.{number}"), &mut all);
        }
        for (number, block) in self.single_transformer_blocks.iter_mut().enumerate() {
            block.name_layers(&format!("{SINGLE_BLOCKS}.{number}"), &mut all);
        }
        all
    }

    /// The linear layers of the blocks with their paths, except those that modulate norms: the layers that a LoRA is
    /// trained on.
    pub(crate) fn block_linears(&mut self) -> Vec<(String, &mut Linear)> {
        self.linears().into_iter().filter(|(path, _)| is_trained(path)).collect()
    }

    /// Every linear layer with its path.
    pub fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        self.layers().linears
    }

    /// The velocity of each token, `[batch, tokens, out_channels]`.
    pub fn forward(&self, input: FluxInput, rotary: &Rotary) -> Tensor<3> {
        let Embedded { mut image, mut context, condition } = self.embed(input);
        let [_, text, _] = context.dims();
        for block in &self.transformer_blocks {
            (image, context) = block.forward(image, context, condition.clone(), rotary);
        }
        // [batch, text + tokens, width]
        let mut joint = Tensor::cat(vec![context, image], 1);
        for block in &self.single_transformer_blocks {
            joint = block.forward(joint, condition.clone(), rotary);
        }
        self.project(joint, text, condition)
    }

    /// Computes the inputs of the first block.
    pub(crate) fn embed(&self, input: FluxInput) -> Embedded {
        Embedded {
            condition: silu(self.time_text_embed.forward(&input)),
            image: self.x_embedder.forward(input.hidden),
            context: self.context_embedder.forward(input.encoder_hidden),
        }
    }

    pub(crate) fn double_blocks(&self) -> &[DoubleBlock] {
        &self.transformer_blocks
    }

    pub(crate) fn single_blocks(&self) -> &[SingleBlock] {
        &self.single_transformer_blocks
    }

    /// Applies the layers after the blocks: `[batch, text + tokens, width]` → `[batch, tokens, out_channels]`.
    pub(crate) fn project(&self, joint: Tensor<3>, text: usize, condition: Tensor<2>) -> Tensor<3> {
        let [_, all, _] = joint.dims();
        let image = joint.narrow(1, text, all - text);
        self.proj_out.forward(self.norm_out.forward(image, condition))
    }
}

impl Rotary {
    fn new(axes: &[usize; 3], text: usize, rows: usize, columns: usize, device: &Device) -> Self {
        let head: usize = axes.iter().sum();
        // (axis, frequency) of each pair of channels
        let frequencies: Vec<(usize, f64)> = (0..3)
            .flat_map(|axis| (0..axes[axis]).step_by(2).map(move |channel| (axis, channel)))
            .map(|(axis, channel)| (axis, ROTARY_BASE.powf(-(channel as f64) / axes[axis] as f64)))
            .collect();
        let image = (0..rows).flat_map(|row| (0..columns).map(move |column| [0, row, column]));
        let angles: Vec<f64> = std::iter::repeat_n([0; 3], text)
            .chain(image)
            .flat_map(|position| frequencies.iter().map(move |(axis, frequency)| position[*axis] as f64 * frequency))
            .collect();
        let table = |of: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().flat_map(|&angle| [of(angle) as f32; 2]).collect();
            Tensor::from_data(TensorData::new(values, [text + rows * columns, head]), device)
        };
        let turn = (0..head * head).map(|at| match (at / head, at % head) {
            (from, to) if from % 2 == 1 && to + 1 == from => -1.0,
            (from, to) if from % 2 == 0 && to == from + 1 => 1.0,
            _ => 0.0f32,
        });
        let turn = TensorData::new(turn.collect::<Vec<_>>(), [head, head]);
        Self { cos: table(f64::cos), sin: table(f64::sin), quarter_turn: Tensor::from_data(turn, device) }
    }

    /// Rotates each pair of channels of `[batch, heads, tokens, head_dim]` by the token's angles, in f32.
    ///
    /// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/embeddings.py#L1187-L1241>
    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        if let Some(y) = layers::cpu_kernels::rotate(&x, &self.cos, &self.sin) {
            return y;
        }
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        // Each product has one non-zero term, so the rotation is exact. A matmul is faster than slicing and stacking
        // pairs.
        let turned = x.clone().matmul(self.quarter_turn.clone().unsqueeze());
        (x * self.cos.clone().unsqueeze() + turned * self.sin.clone().unsqueeze()).cast(dtype)
    }
}

/// Embeds timestep, pooled text and guidance as one vector.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/embeddings.py#L1604-L1625>
#[derive(Module, Debug)]
struct TimeTextEmbedding {
    timestep_embedder: TwoLayers,
    guidance_embedder: Option<TwoLayers>,
    text_embedder: TwoLayers,
}

impl TimeTextEmbedding {
    /// `[batch, width]`
    fn forward(&self, input: &FluxInput) -> Tensor<2> {
        let sinusoids = |values: &[f32]| {
            let values: Vec<f32> = values.iter().map(|value| value * 1000.0).collect();
            sinusoidal(&values, TIME_CHANNELS, true, 0, &input.hidden.device()).cast(input.hidden.dtype())
        };
        let mut sum = self.timestep_embedder.forward(sinusoids(&input.timestep));
        if let (Some(embedder), Some(guidance)) = (&self.guidance_embedder, &input.guidance) {
            sum = sum + embedder.forward(sinusoids(guidance));
        }
        sum + self.text_embedder.forward(input.pooled.clone())
    }
}

/// linear · silu · linear
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/embeddings.py#L1262-L1307>
#[derive(Module, Debug)]
struct TwoLayers {
    linear_1: Linear,
    linear_2: Linear,
}

impl TwoLayers {
    fn new(inputs: usize, width: usize, device: &Device) -> Self {
        Self { linear_1: Linear::new(inputs, width, device), linear_2: Linear::new(width, width, device) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(silu(self.linear_1.forward(x)))
    }
}

/// adaLN: a linear layer that computes shifts, scales and gates from the condition.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/normalization.py#L130-L170>
#[derive(Module, Debug)]
struct Modulation {
    linear: Linear,
    parts: usize,
}

impl Modulation {
    fn new(width: usize, parts: usize, device: &Device) -> Self {
        Self { linear: Linear::new(width, parts * width, device), parts }
    }

    /// `[batch, width]` → `parts` times `[batch, 1, width]`
    fn forward<const N: usize>(&self, condition: Tensor<2>) -> [Tensor<3>; N] {
        debug_assert_eq!(N, self.parts);
        let all = self.linear.forward(condition).unsqueeze_dim::<3>(1);
        let [_, _, wide] = all.dims();
        let width = wide / N;
        std::array::from_fn(|part| all.clone().narrow(2, part * width, width))
    }
}

/// `norm(x)·(1 + scale) + shift`
fn modulate(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>) -> Tensor<3> {
    layers::modulate(x, shift, scale, EPSILON)
}

/// A block with separate weights for image and text tokens, which attend to each other.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/transformers/transformer_flux.py#L416-L497>
#[derive(Module, Debug)]
pub(crate) struct DoubleBlock {
    norm1: Modulation,
    norm1_context: Modulation,
    attn: JointAttention,
    ff: FeedForward,
    ff_context: FeedForward,
}

/// The attention of a double block.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/transformers/transformer_flux.py#L76-L142>
#[derive(Module, Debug)]
struct JointAttention {
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: [Linear; 1],
    norm_added_q: RmsNorm,
    norm_added_k: RmsNorm,
    add_q_proj: Linear,
    add_k_proj: Linear,
    add_v_proj: Linear,
    to_add_out: Linear,
    heads: usize,
}

/// linear · gelu · linear. `net.1` is a dropout without weights.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/attention.py#L1682-L1742>
#[derive(Module, Debug)]
struct FeedForward {
    net: (Projection, Dropout, Linear),
}

#[derive(Module, Debug)]
struct Projection {
    proj: Linear,
}

#[derive(Module, Debug)]
struct Dropout;

impl FeedForward {
    fn new(width: usize, device: &Device) -> Self {
        let up = Projection { proj: Linear::new(width, 4 * width, device) };
        Self { net: (up, Dropout, Linear::new(4 * width, width, device)) }
    }

    /// `[batch, tokens, width]` → the same shape
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (up, _, down) = &self.net;
        down.forward(gelu_tanh(up.proj.forward(x)))
    }
}

impl DoubleBlock {
    pub(crate) fn new(config: &Config, device: &Device) -> Self {
        let (width, head) = (config.width(), config.attention_head_dim);
        let square = || Linear::new(width, width, device);
        let head_norm = || RmsNorm::new(head, EPSILON, device);
        Self {
            norm1: Modulation::new(width, 6, device),
            norm1_context: Modulation::new(width, 6, device),
            attn: JointAttention {
                norm_q: head_norm(),
                norm_k: head_norm(),
                to_q: square(),
                to_k: square(),
                to_v: square(),
                to_out: [square()],
                norm_added_q: head_norm(),
                norm_added_k: head_norm(),
                add_q_proj: square(),
                add_k_proj: square(),
                add_v_proj: square(),
                to_add_out: square(),
                heads: config.num_attention_heads,
            },
            ff: FeedForward::new(width, device),
            ff_context: FeedForward::new(width, device),
        }
    }

    /// Every layer that adapters can be attached to.
    pub(crate) fn layers(&mut self) -> NamedLayers<'_> {
        let mut all = NamedLayers::default();
        self.name_layers(DOUBLE_BLOCKS, &mut all);
        all
    }

    fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        let Self { norm1, norm1_context, attn, ff, ff_context } = self;
        let [to_out] = &mut attn.to_out;
        for (name, linear) in [
            ("norm1.linear", &mut norm1.linear),
            ("norm1_context.linear", &mut norm1_context.linear),
            ("attn.to_q", &mut attn.to_q),
            ("attn.to_k", &mut attn.to_k),
            ("attn.to_v", &mut attn.to_v),
            ("attn.to_out.0", to_out),
            ("attn.add_q_proj", &mut attn.add_q_proj),
            ("attn.add_k_proj", &mut attn.add_k_proj),
            ("attn.add_v_proj", &mut attn.add_v_proj),
            ("attn.to_add_out", &mut attn.to_add_out),
            ("ff.net.0.proj", &mut ff.net.0.proj),
            ("ff.net.2", &mut ff.net.2),
            ("ff_context.net.0.proj", &mut ff_context.net.0.proj),
            ("ff_context.net.2", &mut ff_context.net.2),
        ] {
            all.linear(path, name, linear);
        }
        for (name, norm) in [
            ("attn.norm_q", &mut attn.norm_q),
            ("attn.norm_k", &mut attn.norm_k),
            ("attn.norm_added_q", &mut attn.norm_added_q),
            ("attn.norm_added_k", &mut attn.norm_added_k),
        ] {
            all.norm(path, name, norm.slot());
        }
    }

    /// image `[batch, tokens, width]`, context `[batch, text, width]`, condition `[batch, width]`
    pub(crate) fn forward(
        &self,
        image: Tensor<3>,
        context: Tensor<3>,
        condition: Tensor<2>,
        rotary: &Rotary,
    ) -> (Tensor<3>, Tensor<3>) {
        let [shift, scale, gate, shift_mlp, scale_mlp, gate_mlp] = self.norm1.forward(condition.clone());
        let [c_shift, c_scale, c_gate, c_shift_mlp, c_scale_mlp, c_gate_mlp] = self.norm1_context.forward(condition);

        let (mixed, c_mixed) = self.attn.forward(
            modulate(image.clone(), shift, scale),
            modulate(context.clone(), c_shift, c_scale),
            rotary,
        );
        let image = image + mixed * gate;
        let context = context + c_mixed * c_gate;

        let inner = self.ff.forward(modulate(image.clone(), shift_mlp, scale_mlp));
        let c_inner = self.ff_context.forward(modulate(context.clone(), c_shift_mlp, c_scale_mlp));
        (image + inner * gate_mlp, context + c_inner * c_gate_mlp)
    }
}

impl JointAttention {
    fn forward(&self, image: Tensor<3>, context: Tensor<3>, rotary: &Rotary) -> (Tensor<3>, Tensor<3>) {
        let [_, tokens, _] = image.dims();
        let [_, text, _] = context.dims();
        // each [batch, heads, text + tokens, head_dim], text first
        let heads =
            |context: Tensor<3>, image: Tensor<3>| (split_heads(context, self.heads), split_heads(image, self.heads));
        let (c, i) = heads(self.add_q_proj.forward(context.clone()), self.to_q.forward(image.clone()));
        let q = Tensor::cat(vec![self.norm_added_q.forward(c), self.norm_q.forward(i)], 2);
        let (c, i) = heads(self.add_k_proj.forward(context.clone()), self.to_k.forward(image.clone()));
        let k = Tensor::cat(vec![self.norm_added_k.forward(c), self.norm_k.forward(i)], 2);
        let (c, i) = heads(self.add_v_proj.forward(context), self.to_v.forward(image));
        let v = Tensor::cat(vec![c, i], 2);

        // [batch, text + tokens, width]
        let mixed = join_heads(attention(rotary.turn(q), rotary.turn(k), v, None, None));
        let context = self.to_add_out.forward(mixed.clone().narrow(1, 0, text));
        let image = self.to_out[0].forward(mixed.narrow(1, text, tokens));
        (image, context)
    }
}

/// A block on the joined streams, with attention and feed-forward in parallel.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/transformers/transformer_flux.py#L359-L412>
#[derive(Module, Debug)]
pub(crate) struct SingleBlock {
    norm: Modulation,
    proj_mlp: Linear,
    proj_out: Linear,
    attn: SelfAttention,
}

/// The attention of a single block. Its output projection is the block's `proj_out`.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/transformers/transformer_flux.py#L76-L142>
#[derive(Module, Debug)]
struct SelfAttention {
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    heads: usize,
}

impl SingleBlock {
    pub(crate) fn new(config: &Config, device: &Device) -> Self {
        let (width, head) = (config.width(), config.attention_head_dim);
        Self {
            norm: Modulation::new(width, 3, device),
            proj_mlp: Linear::new(width, 4 * width, device),
            proj_out: Linear::new(5 * width, width, device),
            attn: SelfAttention {
                norm_q: RmsNorm::new(head, EPSILON, device),
                norm_k: RmsNorm::new(head, EPSILON, device),
                to_q: Linear::new(width, width, device),
                to_k: Linear::new(width, width, device),
                to_v: Linear::new(width, width, device),
                heads: config.num_attention_heads,
            },
        }
    }

    /// Every layer that adapters can be attached to.
    pub(crate) fn layers(&mut self) -> NamedLayers<'_> {
        let mut all = NamedLayers::default();
        self.name_layers(SINGLE_BLOCKS, &mut all);
        all
    }

    fn name_layers<'a>(&'a mut self, path: &str, all: &mut NamedLayers<'a>) {
        let Self { norm, proj_mlp, proj_out, attn } = self;
        for (name, linear) in [
            ("norm.linear", &mut norm.linear),
            ("attn.to_q", &mut attn.to_q),
            ("attn.to_k", &mut attn.to_k),
            ("attn.to_v", &mut attn.to_v),
            ("proj_mlp", proj_mlp),
            ("proj_out", proj_out),
        ] {
            all.linear(path, name, linear);
        }
        all.norm(path, "attn.norm_q", attn.norm_q.slot());
        all.norm(path, "attn.norm_k", attn.norm_k.slot());
    }

    /// `[batch, text + tokens, width]` → the same shape
    pub(crate) fn forward(&self, joint: Tensor<3>, condition: Tensor<2>, rotary: &Rotary) -> Tensor<3> {
        let [shift, scale, gate] = self.norm.forward(condition);
        let normed = modulate(joint.clone(), shift, scale);
        let inner = gelu_tanh(self.proj_mlp.forward(normed.clone()));
        let mixed = self.attn.forward(normed, rotary);
        // [batch, text + tokens, 5 · width]
        joint + self.proj_out.forward(Tensor::cat(vec![mixed, inner], 2)) * gate
    }
}

impl SelfAttention {
    fn forward(&self, x: Tensor<3>, rotary: &Rotary) -> Tensor<3> {
        let heads = |x: Tensor<3>| split_heads(x, self.heads);
        let q = self.norm_q.forward(heads(self.to_q.forward(x.clone())));
        let k = self.norm_k.forward(heads(self.to_k.forward(x.clone())));
        let v = heads(self.to_v.forward(x));
        join_heads(attention(rotary.turn(q), rotary.turn(k), v, None, None))
    }
}

/// The last norm. Scale comes before shift, as in diffusers.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/normalization.py#L307-L351>
#[derive(Module, Debug)]
struct ContinuousNorm {
    linear: Linear,
    norm: LayerNorm,
}

impl ContinuousNorm {
    fn forward(&self, x: Tensor<3>, condition: Tensor<2>) -> Tensor<3> {
        let both = self.linear.forward(condition).unsqueeze_dim::<3>(1);
        let [_, _, wide] = both.dims();
        let scale = both.clone().narrow(2, 0, wide / 2);
        let shift = both.narrow(2, wide / 2, wide / 2);
        self.norm.forward(x) * (scale + 1.0) + shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Config {
        Config {
            in_channels: 16,
            num_layers: 1,
            num_single_layers: 1,
            attention_head_dim: 16,
            num_attention_heads: 2,
            joint_attention_dim: 8,
            pooled_projection_dim: 8,
            axes_dims_rope: [4, 6, 6],
            ..Config::default()
        }
    }

    #[test]
    fn a_quarter_turn_keeps_lengths_and_text_stays() {
        let device = Device::flex();
        let rotary = Rotary::new(&[4, 6, 6], 1, 1, 2, &device);
        let x = Tensor::<4>::from_data(
            TensorData::new((0..48).map(|i| i as f32).collect::<Vec<_>>(), [1, 1, 3, 16]),
            &device,
        );
        let y = rotary.turn(x.clone());
        let (a, b): (Vec<f32>, Vec<f32>) = (x.into_data().try_to_vec().unwrap(), y.into_data().try_to_vec().unwrap());
        assert_eq!(a[..32], b[..32], "text and the token at the origin do not turn");
        let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>();
        assert!((length(&a[32..]) - length(&b[32..])).abs() < 1e-2);
        assert_ne!(a[42..], b[42..], "the column axis turns");
        assert_eq!(a[32..42], b[32..42], "the other axes do not");
        // The first pair of the column axis rotates by one radian: (a, b) → (a cos − b sin, a sin + b cos).
        let (sin, cos) = 1f32.sin_cos();
        assert!((b[42] - (a[42] * cos - a[43] * sin)).abs() < 1e-4);
        assert!((b[43] - (a[42] * sin + a[43] * cos)).abs() < 1e-4);
    }

    /// Angles of distant tokens differ by less than bf16 can represent.
    #[test]
    fn tokens_turn_in_f32_whatever_they_are_given() {
        let device = Device::flex();
        let rotary = Rotary::new(&[4, 6, 6], 2, 3, 40, &device);
        let values = (0..122 * 16).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>();
        let x = Tensor::<4>::from_data(TensorData::new(values, [1, 1, 122, 16]), &device).cast(DType::BF16);
        let data = |x: Tensor<4>| x.cast(DType::F32).into_data().try_to_vec::<f32>().unwrap();
        let wide = rotary.turn(x.clone().cast(DType::F32)).cast(DType::BF16);
        assert_eq!(data(rotary.turn(x)), data(wide));
    }

    #[test]
    fn shapes_follow_the_config() {
        let device = Device::flex();
        let network = FluxTransformer::new(&tiny(), &device);
        let input = FluxInput {
            hidden: Tensor::zeros([2, 6, 16], &device),
            encoder_hidden: Tensor::zeros([2, 5, 8], &device),
            pooled: Tensor::zeros([2, 8], &device),
            timestep: vec![1.0, 0.5],
            guidance: None,
        };
        let rotary = network.rotary(5, 2, 3, &device);
        assert_eq!(network.forward(input, &rotary).dims(), [2, 6, 16]);
    }
}
