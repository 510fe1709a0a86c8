//! What the row of a checkpoint takes from its family: the defaults of its requests, checked.

use formats::{Configs, Defaults, Family, Header, Traits, adapter};

use crate::weights_gate::invalid;
use crate::{Error, Result};
use requests::generation_limits::SIDES;

/// The defaults of a checkpoint: those of its family, overridden by its `pyrograph.json`. Errors: `Invalid` for values
/// that no request could have.
pub(super) fn defaults(family: Family, traits: Traits, configs: &Configs) -> Result<Defaults> {
    let refused = |message: String| Err(Error::invalid("file", message));
    let mut defaults = family.defaults(traits);
    if let Some(stated) = configs.get("pyrograph.json") {
        let stated = defaults.stated_in(stated);
        defaults = stated.map_err(|error| Error::invalid("file", format!("pyrograph.json: {error}.")))?;
    }
    if !(0.0..=1.0).contains(&defaults.strength) {
        return refused(format!("The model's own strength is {}; it must be from 0 to 1.", defaults.strength));
    }
    let multiple = defaults.size_multiple;
    if [defaults.width, defaults.height].iter().any(|side| !SIDES.contains(side) || !side.is_multiple_of(multiple)) {
        return refused(format!(
            "The model's own width and height are {} and {}; they must be multiples of {multiple}, from {} to {}.",
            defaults.width,
            defaults.height,
            SIDES.start(),
            SIDES.end()
        ));
    }
    Ok(defaults)
}

/// Number of tokens that the second text encoder of a FLUX.1 reads; 0 for other families. As the engine does: what its
/// tokenizer's config states, up to what the model was trained with.
pub(super) fn text_tokens(family: Family, traits: Traits, configs: &Configs) -> usize {
    if family != Family::Flux {
        return 0;
    }
    let stated = configs.get("tokenizer_2/tokenizer_config.json").map(|config| config.get("model_max_length"));
    let longest = if stated.is_some() || traits.guidance_embedded { 512 } else { 256 };
    let stated = stated.flatten().and_then(serde_json::Value::as_u64).and_then(|length| usize::try_from(length).ok());
    stated.map_or(longest, |length| length.min(longest))
}

/// A LoRA as its header and PEFT's config beside it describe it, for every trainer and algorithm. Errors: `Invalid` if
/// the engine could not load it.
pub(super) fn of_lora(header: &Header, configs: &Configs) -> Result<adapter::Inspection> {
    let config = configs.get(adapter::CONFIG_FILE).map(ToString::to_string);
    adapter::inspect(header, config.as_deref()).map_err(invalid)
}

#[cfg(test)]
pub(super) mod tests {
    use formats::{Tensor, TensorType};
    use serde_json::{Value, json};

    use super::*;
    use Family::{Flux, Sd15, Sd21, Sdxl};

    /// A header with tensors of these names and shapes.
    pub(crate) fn header(tensors: &[(&str, &[usize])]) -> Header {
        let tensor = |shape: &[usize]| Tensor { kind: TensorType::F32, shape: shape.to_vec(), start: 0, length: 0 };
        let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), tensor(shape)));
        Header { tensors: tensors.collect(), ..Header::default() }
    }

    /// The same, each tensor with one value.
    pub(crate) fn headed(names: &[&str]) -> Header {
        header(&names.iter().map(|name| (*name, &[1][..])).collect::<Vec<_>>())
    }

    #[test]
    fn a_lora_tells_its_family() {
        let attention = "attentions.0.transformer_blocks.0.attn2.to_k";
        for (name, parts, inputs, family) in [
            ("transformer.transformer_blocks.0.attn.to_q", ["lora_A.weight", "lora_B.weight"], 8, Flux),
            ("lora_unet_single_blocks_0_linear1", ["lora_down.weight", "lora_up.weight"], 8, Flux),
            (
                "diffusion_model.double_blocks.0.img_attn.qkv",
                ["lora_A.default.weight", "lora_B.default.weight"],
                8,
                Flux,
            ),
            ("double_blocks.0.processor.qkv_lora1", ["down.weight", "up.weight"], 8, Flux),
            ("lycoris_transformer_blocks_0_attn_to_q", ["lokr_w1", "lokr_w2"], 8, Flux),
            (&format!("unet.down_blocks.1.{attention}"), ["lora_A.weight", "lora_B.weight"], 768, Sd15),
            (&format!("unet.down_blocks.1.{attention}"), ["lora_A.weight", "lora_B.weight"], 1024, Sd21),
            (&format!("unet.down_blocks.1.{attention}"), ["lora_A.weight", "lora_B.weight"], 2048, Sdxl),
            (
                "lora_unet_input_blocks_4_1_transformer_blocks_2_attn1_to_q",
                ["lora_down.weight", "lora_up.weight"],
                640,
                Sdxl,
            ),
            ("lora_unet_down_blocks_0_attentions_0_proj_in", ["lora_down.weight", "lora_up.weight"], 320, Sd15),
            ("lora_te_text_model_encoder_layers_0_mlp_fc1", ["lora_down.weight", "lora_up.weight"], 768, Sd15),
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1", ["lokr_w1", "lokr_w2"], 4, Sdxl),
        ] {
            // The outputs of a fused layer are those of 3 or 7 equal parts.
            let [down, up] = parts.map(|part| format!("{name}.{part}"));
            let header = header(&[(&down, &[4, inputs]), (&up, &[84, 4])]);
            let about = of_lora(&header, &Configs::new()).unwrap();
            assert_eq!(about.base_family(), family, "{name}");
            let alpha = about.warnings.iter().filter(|warning| warning.contains("alpha is not in the file")).count();
            let needs_none = name.contains("processor") || parts[0] == "lokr_w1";
            assert_eq!(alpha, usize::from(!needs_none), "{name}: {:?}", about.warnings);
        }
        for tensors in [
            &[("something.else.lora_A.weight", &[4, 8][..]), ("something.else.lora_B.weight", &[8, 4])][..],
            &[("model.diffusion_model.input_blocks.0.0.weight", &[4, 4])],
        ] {
            assert!(of_lora(&header(tensors), &Configs::new()).is_err(), "{tensors:?}");
        }
    }

    #[test]
    fn the_config_beside_a_lora_states_its_alpha() {
        let module = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0";
        let [down, up] = ["lora_A.weight", "lora_B.weight"].map(|part| format!("{module}.{part}"));
        let header = header(&[(&down, &[4, 10]), (&up, &[10, 4])]);
        let configs = Configs::from([(adapter::CONFIG_FILE.to_owned(), json!({"r": 4, "lora_alpha": 16}))]);
        let about = of_lora(&header, &configs).unwrap();
        assert_eq!((about.alpha_source.as_str(), about.warnings.len()), ("adapter_config.json", 0));
        assert_eq!(
            of_lora(&header, &Configs::new()).unwrap().warnings,
            ["alpha is not in the file; taken as the rank"]
        );
    }

    #[test]
    fn a_stated_default_wins_alone() {
        let stated = json!({"defaults": {"num_inference_steps": 20, "width": 640}});
        let of = |stated: Value| {
            let configs = Configs::from([("pyrograph.json".into(), stated)]);
            defaults(Sd15, Traits::default(), &configs)
        };
        let stated = of(stated).unwrap();
        assert_eq!((stated.num_inference_steps, stated.width, stated.height), (20, 640, 512));
        for wrong in [json!({"width": 645}), json!({"strength": 2}), json!({"width": 8})] {
            assert!(of(wrong).is_err());
        }
    }
}
