//! T5's encoder under the names of transformers, which ComfyUI stores below a prefix, and under those of llama.cpp
//! (`MODEL_ARCH.T5ENCODER` in <https://github.com/ggml-org/llama.cpp/tree/master/gguf-py>), which quantised files use.

use serde_json::Value;

use super::{Below, Mapped};
use crate::view::Source;

/// The decoder of a complete T5.
const IGNORED: [&str; 3] = ["decoder.", "lm_head.weight", "logit_scale"];
/// The same under llama.cpp's names.
const LLAMA_IGNORED: [&str; 2] = ["dec.", "output.weight"];
const LLAMA_BLOCKS: &str = "enc.blk.";

pub(super) fn map(file: &Below, mut config: Value) -> Result<Mapped, String> {
    let (layers, sources, ignored) = if file.has(LLAMA_BLOCKS) {
        let layers = file.count(LLAMA_BLOCKS);
        (layers, llama(layers), LLAMA_IGNORED.map(str::to_owned).to_vec())
    } else {
        let sources = file.names(&IGNORED).map(|name| Source::whole(name, name)).collect();
        (file.count("encoder.block."), sources, IGNORED.map(str::to_owned).to_vec())
    };
    let size = |ours: &str, axis| {
        let source = sources.iter().find(|source: &&Source| source.ours == ours);
        file.size(source.map_or(ours, |source| &source.theirs), axis)
    };
    // [buckets, heads]
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    let shared = sources.iter().any(|source| source.ours == "shared.weight");
    let embedding = if shared { "shared.weight" } else { "encoder.embed_tokens.weight" };
    let heads = size(bias, 1)?;
    config["relative_attention_num_buckets"] = size(bias, 0)?.into();
    config["num_heads"] = heads.into();
    config["d_kv"] = (size("encoder.block.0.layer.0.SelfAttention.q.weight", 0)? / heads).into();
    config["d_model"] = size(embedding, 1)?.into();
    config["vocab_size"] = size(embedding, 0)?.into();
    config["d_ff"] = size("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0)?.into();
    config["num_layers"] = layers.into();
    Ok(Mapped { config, sources, ignored })
}

fn llama(layers: usize) -> Vec<Source> {
    let source = |ours: &str, theirs: &str| Source::whole(format!("{ours}.weight"), format!("{theirs}.weight"));
    let mut all = vec![
        source("shared", "token_embd"),
        source("encoder.final_layer_norm", "enc.output_norm"),
        source("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", "enc.blk.0.attn_rel_b"),
    ];
    for number in 0..layers {
        all.extend(
            [
                ("layer.0.layer_norm", "attn_norm"),
                ("layer.0.SelfAttention.q", "attn_q"),
                ("layer.0.SelfAttention.k", "attn_k"),
                ("layer.0.SelfAttention.v", "attn_v"),
                ("layer.0.SelfAttention.o", "attn_o"),
                ("layer.1.layer_norm", "ffn_norm"),
                ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
                ("layer.1.DenseReluDense.wi_1", "ffn_up"),
                ("layer.1.DenseReluDense.wo", "ffn_down"),
            ]
            .map(|(ours, theirs)| {
                source(&format!("encoder.block.{number}.{ours}"), &format!("{LLAMA_BLOCKS}{number}.{theirs}"))
            }),
        );
    }
    all
}
