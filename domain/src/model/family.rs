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

/// The family that a LoRA was made for, detected from the names and shapes of its tensors, for every trainer and
/// algorithm.
///
/// Errors: `Invalid` if it holds no adapter, or a rank above [`adapter::MAX_RANK`].
pub(super) fn of_lora(header: &Header) -> Result<Family> {
    let about = adapter::inspect_header(header).map_err(invalid)?;
    let largest = about.ranks.map_or(1, |ranks| ranks.largest);
    if largest > adapter::MAX_RANK {
        return Err(invalid(format!("its rank is {largest}; 1 to {} are allowed", adapter::MAX_RANK)));
    }
    Ok(about.base_family())
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
        for (name, shape, family) in [
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", &[4, 8][..], Flux),
            ("lora_unet_single_blocks_0_linear1.lora_down.weight", &[4, 8], Flux),
            ("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.default.weight", &[4, 8], Flux),
            ("double_blocks.0.processor.qkv_lora1.down.weight", &[4, 8], Flux),
            ("lycoris_transformer_blocks_0_attn_to_q.lokr_w1", &[4, 4], Flux),
            (&format!("unet.down_blocks.1.{attention}.lora_A.weight"), &[4, 768], Sd15),
            (&format!("unet.down_blocks.1.{attention}.lora_A.weight"), &[4, 1024], Sd21),
            (&format!("unet.down_blocks.1.{attention}.lora_A.weight"), &[4, 2048], Sdxl),
            ("lora_unet_input_blocks_4_1_transformer_blocks_2_attn1_to_q.lora_down.weight", &[4, 640], Sdxl),
            ("lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a", &[320, 8], Sd15),
            ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", &[4, 768], Sd15),
            ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lokr_w1", &[4, 4], Sdxl),
        ] {
            assert_eq!(of_lora(&header(&[(name, shape)])).unwrap(), family, "{name} {shape:?}");
        }
        for (name, shape) in [
            ("something.else.lora_A.weight", &[4, 8][..]),
            ("model.diffusion_model.input_blocks.0.0.weight", &[4, 4]),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", &[1024, 8]),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", &[4]),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", &[0, 8]),
        ] {
            assert!(of_lora(&header(&[(name, shape)])).is_err(), "{name} {shape:?}");
        }
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
