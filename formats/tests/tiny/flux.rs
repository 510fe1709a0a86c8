//! A complete FLUX.1 in diffusers' layout, a few kilobytes of zeros: for tests that add checkpoints and run none. Test
//! crates include this file.

use formats::networks::Parameters;
use formats::{Family, Part};
use serde_json::{Map, Value, json};

/// Its files by path. `pyrograph_json` states its defaults.
pub(crate) fn files(pyrograph_json: &'static str) -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let clip = json!({"hidden_size": 2, "intermediate_size": 2, "num_attention_heads": 1, "num_hidden_layers": 1,
                      "vocab_size": 1});
    let t5 = json!({"d_model": 2, "d_kv": 2, "d_ff": 2, "num_heads": 1, "num_layers": 1, "vocab_size": 1});
    let transformer = json!({"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 2,
                             "num_attention_heads": 1, "joint_attention_dim": 2, "pooled_projection_dim": 2,
                             "axes_dims_rope": [2, 0, 0]});
    let vae = json!({"block_out_channels": [1, 1, 1], "layers_per_block": 1, "latent_channels": 1,
                     "norm_num_groups": 1});
    vec![
        ("model_index.json", text(r#"{"_class_name": "FluxPipeline"}"#)),
        ("pyrograph.json", text(pyrograph_json)),
        ("scheduler/scheduler_config.json", text("{}")),
        ("text_encoder/config.json", text(&clip.to_string())),
        ("text_encoder/model.safetensors", weights(Part::TextEncoder, &clip)),
        ("text_encoder_2/config.json", text(&t5.to_string())),
        ("text_encoder_2/model.safetensors", weights(Part::TextEncoder2, &t5)),
        ("tokenizer/merges.txt", text("#version: 0.2\n")),
        ("tokenizer/tokenizer_config.json", text("{}")),
        ("tokenizer/vocab.json", text("{}")),
        ("tokenizer_2/tokenizer.json", text("{}")),
        ("tokenizer_2/tokenizer_config.json", text("{}")),
        ("transformer/config.json", text(&transformer.to_string())),
        ("transformer/model.safetensors", weights(Part::Transformer, &transformer)),
        ("vae/config.json", text(&vae.to_string())),
        ("vae/model.safetensors", weights(Part::Vae, &vae)),
    ]
}

/// A file with every parameter of a network.
pub(crate) fn weights(part: Part, config: &Value) -> Vec<u8> {
    let (mut header, mut at) = (Map::new(), 0);
    for (key, shape) in Parameters::of(Family::Flux, part, config).expect("a config").iter() {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(key.to_owned(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; at]].concat()
}
