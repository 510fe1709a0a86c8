//! T5's encoder in the names of transformers, which ComfyUI keeps below a prefix.

use serde_json::Value;

use super::{Below, Mapped};
use crate::checkpoint::view::Source;

/// The other half of a whole T5.
const IGNORED: [&str; 3] = ["decoder.", "lm_head.weight", "logit_scale"];

pub(super) fn map(file: &Below, mut config: Value) -> Result<Mapped, String> {
    // [buckets, heads]
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    let embedding = if file.has("shared.") { "shared.weight" } else { "encoder.embed_tokens.weight" };
    let heads = file.size(bias, 1)?;
    config["relative_attention_num_buckets"] = file.size(bias, 0)?.into();
    config["num_heads"] = heads.into();
    config["d_kv"] = (file.size("encoder.block.0.layer.0.SelfAttention.q.weight", 0)? / heads).into();
    config["d_model"] = file.size(embedding, 1)?.into();
    config["vocab_size"] = file.size(embedding, 0)?.into();
    config["d_ff"] = file.size("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0)?.into();
    config["num_layers"] = file.count("encoder.block.").into();
    let sources = file.names(&IGNORED).map(|name| Source::whole(name, name)).collect();
    Ok(Mapped { config, sources, ignored: IGNORED.map(str::to_owned).to_vec() })
}
