//! Modules of the text encoders, under the names of CLIP and T5 in transformers, which we use.

use super::flat::{consists_of, unflatten};

/// Parts of the names of CLIP's and T5's modules.
const PARTS: [&str; 27] = [
    "text_model",
    "encoder",
    "layers",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    "mlp",
    "fc1",
    "fc2",
    "text_projection",
    "block",
    "layer",
    "SelfAttention",
    "q",
    "k",
    "v",
    "o",
    "DenseReluDense",
    "wi_0",
    "wi_1",
    "wo",
    "layer_norm",
    "layer_norm1",
    "layer_norm2",
    "final_layer_norm",
];

/// diffusers' legacy names of CLIP's projections.
const LEGACY: [(&str, &str); 4] = [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")];

/// Our path of a module whose name contains only underscores.
pub(super) fn from_flat(flat: &str) -> Option<String> {
    from_dotted(&unflatten(flat, &PARTS)?)
}

/// Our path of a module.
pub(super) fn from_dotted(name: &str) -> Option<String> {
    let mut path = name.to_owned();
    if let Some((module, last)) = name.rsplit_once('.')
        && let Some((_, ours)) = LEGACY.iter().find(|(theirs, _)| *theirs == last)
    {
        path = format!("{module}.{ours}");
    }
    // transformers 5 omits CLIP's outer name.
    if path.starts_with("encoder.layers.") || path == "final_layer_norm" {
        path = format!("text_model.{path}");
    }
    let begins = ["text_model.encoder.layers.", "encoder.block."];
    let alone = ["text_projection", "text_model.final_layer_norm", "encoder.final_layer_norm"];
    let known = alone.contains(&&*path) || begins.iter().any(|begin| path.starts_with(begin));
    (known && consists_of(&path, &PARTS)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_one_layer_is_the_same_layer() {
        let wanted = Some("text_model.encoder.layers.0.self_attn.q_proj".to_owned());
        assert_eq!(from_flat("text_model_encoder_layers_0_self_attn_q_proj"), wanted);
        assert_eq!(from_dotted("text_model.encoder.layers.0.self_attn.q_proj"), wanted);
        assert_eq!(from_dotted("text_model.encoder.layers.0.self_attn.to_q"), wanted);
        assert_eq!(from_dotted("encoder.layers.0.self_attn.q_proj"), wanted);
        let wanted = Some("encoder.block.3.layer.1.DenseReluDense.wi_0".to_owned());
        assert_eq!(from_flat("encoder_block_3_layer_1_DenseReluDense_wi_0"), wanted);
        assert_eq!(from_dotted("vision_model.encoder.layers.0.mlp.fc1"), None);
    }
}
