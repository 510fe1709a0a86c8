//! CLIP's text encoder under the names of transformers, which ldm and ComfyUI store below a prefix.

use serde_json::Value;

use super::{Below, Mapped};
use crate::view::Source;

/// Width of an attention head in every published CLIP text encoder.
pub(super) const HEAD: usize = 64;

/// Tensors to ignore: the image encoder of a complete CLIP, constants, and tensors that only some text encoders use.
const IGNORED: [&str; 5] =
    ["position_ids", "logit_scale", "vision_model.", "visual_projection.weight", "text_projection.weight"];

pub(super) fn map(file: &Below, mut config: Value) -> Result<Mapped, String> {
    // transformers before 2022 omitted `text_model.`
    let inner = if file.has("text_model.") { "text_model." } else { "" };
    let ignored = if projects(&config) { &IGNORED[..4] } else { &IGNORED[..] };
    let width = file.size(&format!("{inner}embeddings.token_embedding.weight"), 1)?;
    config["vocab_size"] = file.size(&format!("{inner}embeddings.token_embedding.weight"), 0)?.into();
    config["max_position_embeddings"] = file.size(&format!("{inner}embeddings.position_embedding.weight"), 0)?.into();
    config["hidden_size"] = width.into();
    config["num_attention_heads"] = (width / HEAD).max(1).into();
    config["num_hidden_layers"] = file.count(&format!("{inner}encoder.layers.")).into();
    config["intermediate_size"] = file.size(&format!("{inner}encoder.layers.0.mlp.fc1.weight"), 0)?.into();
    if projects(&config) {
        config["projection_dim"] = file.size("text_projection.weight", 0)?.into();
    }
    let ours = |name: &str| if inner.is_empty() { format!("text_model.{name}") } else { name.to_owned() };
    let sources = file.names(ignored).map(|name| Source::whole(ours(name), name)).collect();
    Ok(Mapped { config, sources, ignored: ignored.iter().map(|mark| (*mark).to_owned()).collect() })
}

/// Whether the encoder's output is projected to the embedding space that it shares with images.
pub(super) fn projects(config: &Value) -> bool {
    config["architectures"][0] == "CLIPTextModelWithProjection"
}
