//! CLIP's text encoder under the names of OpenCLIP: fused projections, and a transposed projection to the shared space.

use serde_json::Value;

use super::clip::{HEAD, projects};
use super::{Below, Mapped, layer};
use crate::view::{Cut, Source};

const BLOCKS: &str = "transformer.resblocks.";
/// The projection to the shared space, if it is stored as a linear layer.
const PROJECTION: &str = "text_projection.weight";

pub(super) fn map(file: &Below, mut config: Value) -> Result<Mapped, String> {
    let width = file.size("token_embedding.weight", 1)?;
    let all = file.count(BLOCKS);
    // Stable Diffusion 2 uses the second to last layer. Its original files also contain the last layer and the
    // projection after it; files that were converted from diffusers have neither.
    let unused = !projects(&config) && file.has("text_projection");
    let layers = if unused { all.saturating_sub(1) } else { all };
    config["vocab_size"] = file.size("token_embedding.weight", 0)?.into();
    config["max_position_embeddings"] = file.size("positional_embedding", 0)?.into();
    config["hidden_size"] = width.into();
    config["num_attention_heads"] = (width / HEAD).max(1).into();
    config["num_hidden_layers"] = layers.into();
    config["intermediate_size"] = file.size("transformer.resblocks.0.mlp.c_fc.weight", 0)?.into();
    if projects(&config) {
        let turned = file.size(PROJECTION, 0);
        config["projection_dim"] = turned.or_else(|_| file.size("text_projection", 1))?.into();
    }
    let mut sources = sources(layers, width);
    let mut ignored = ["logit_scale", "attn_mask"].map(str::to_owned).to_vec();
    if !projects(&config) {
        sources.retain(|source| source.ours != PROJECTION);
        ignored.push("text_projection".to_owned());
    }
    if unused {
        ignored.push(format!("{BLOCKS}{layers}."));
    }
    Ok(Mapped { config, sources, ignored })
}

fn sources(layers: usize, width: usize) -> Vec<Source> {
    let mut all = vec![
        Source::whole("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        Source::whole("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        Source { cut: Cut::Transposed, ..Source::whole(PROJECTION, "text_projection") },
        // as user interfaces save it
        Source::whole(PROJECTION, PROJECTION),
    ];
    all.extend(layer("text_model.final_layer_norm", "ln_final"));
    for number in 0..layers {
        let (ours, theirs) = (format!("text_model.encoder.layers.{number}"), format!("{BLOCKS}{number}"));
        for (our, their) in [
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            ("self_attn.out_proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ] {
            all.extend(layer(&format!("{ours}.{our}"), &format!("{theirs}.{their}")));
        }
        for (at, our) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
            let to = if at == 2 { None } else { Some((at + 1) * width) };
            all.extend(["weight", "bias"].map(|leaf| Source {
                ours: format!("{ours}.self_attn.{our}.{leaf}"),
                theirs: format!("{theirs}.attn.in_proj_{leaf}"),
                cut: Cut::Rows { from: at * width, to },
            }));
        }
    }
    all
}
