//! Families of models: which pipelines run here, what a folder of each holds, what its requests may leave out, and to which family
//! a LoRA belongs. All told from configs and headers; whether the weights fit is the engine's to judge when it loads them.

use std::collections::BTreeMap;

use formats::adapter::Network;
use serde_json::Value;

use super::Defaults;
use crate::limits::SIDES;
use crate::safetensors_gate::{Header, MAX_RANK, invalid};
use crate::{Error, Result};

/// An architecture. A LoRA runs on checkpoints of its own family only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// FLUX.1 dev and schnell.
    Flux,
    /// Stable Diffusion 1.x.
    Sd15,
    /// Stable Diffusion 2.x.
    Sd21,
    /// Stable Diffusion XL.
    Sdxl,
}

use Family::*;

/// Where the denoiser of a whole model is, and that of a file without other parts.
const DENOISERS: [&str; 3] = ["model.diffusion_model.", "", "diffusion_model."];

/// The small JSON files of a checkpoint, by path.
pub(crate) type Configs = BTreeMap<String, Value>;

impl Family {
    /// As rows and answers call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Flux => "flux",
            Sd15 => "sd15",
            Sd21 => "sd21",
            Sdxl => "sdxl",
        }
    }

    /// What a checkpoint's `model_index.json` names. Errors: `Invalid` for a pipeline that does not run here.
    pub fn of_checkpoint(configs: &Configs, index: &Value) -> Result<Self> {
        let class = index.get("_class_name").and_then(Value::as_str);
        let class = class.ok_or_else(|| Error::invalid("file", "model_index.json has no `_class_name`."))?;
        let base = class.replace("Img2Img", "").replace("Inpaint", "");
        match base.as_str() {
            "FluxPipeline" => Ok(Flux),
            // Stable Diffusion 1 whose UNet is told the guidance scale.
            "LatentConsistencyModelPipeline" => Ok(Sd15),
            "StableDiffusionXLPipeline" => Ok(Sdxl),
            // Both are the same pipeline; 2.x reads OpenCLIP's wider text states, by linear projections.
            "StableDiffusionPipeline" if flag(configs, "unet/config.json", "use_linear_projection") => Ok(Sd21),
            "StableDiffusionPipeline" => Ok(Sd15),
            _ => Err(Error::invalid(
                "file",
                format!(
                    "model_index.json speaks of a `{class}`; `FluxPipeline`, `StableDiffusionPipeline` and `StableDiffusionXLPipeline` run here."
                ),
            )),
        }
    }

    /// The family of the denoiser in a file, whole model or not, by the names and shapes of its tensors.
    pub fn of_denoiser(header: &Header) -> Option<Self> {
        // The first layer, by its whole name: adapters' names begin as those of their layers do.
        let prefix =
            |first: &str| DENOISERS.into_iter().find(|prefix| header.tensors.contains_key(&format!("{prefix}{first}")));
        if prefix("img_in.weight").is_some_and(|prefix| header.has(&format!("{prefix}double_blocks."))) {
            return Some(Flux);
        }
        let prefix = prefix("input_blocks.0.0.weight")?;
        if header.has(&format!("{prefix}label_emb.")) {
            return Some(Sdxl);
        }
        // Projections around attention are convolutions in 1.x and linear in 2.x.
        let projection = header.tensors.get(&format!("{prefix}middle_block.1.proj_in.weight"));
        let linear = projection.is_some_and(|tensor| tensor.shape.len() == 2);
        let two = header.has("cond_stage_model.model.") || linear && !header.has("cond_stage_model.transformer.");
        Some(if two { Sd21 } else { Sd15 })
    }

    /// As people call it.
    pub const fn title(self) -> &'static str {
        match self {
            Flux => "FLUX.1",
            Sd15 => "Stable Diffusion 1.5",
            Sd21 => "Stable Diffusion 2.1",
            Sdxl => "Stable Diffusion XL",
        }
    }

    /// The folders with weights that a checkpoint cannot do without.
    pub fn components(self) -> &'static [&'static str] {
        match self {
            Flux => &["text_encoder", "text_encoder_2", "transformer", "vae"],
            Sd15 | Sd21 => &["text_encoder", "unet", "vae"],
            Sdxl => &["text_encoder", "text_encoder_2", "unet", "vae"],
        }
    }

    /// From `pyrograph.json` where the checkpoint has one, else what the family's models were made for; the grid of sizes follows
    /// from the VAE, which halves the picture once between each two of its levels, and from FLUX's patches of 2 × 2.
    pub fn defaults(self, configs: &Configs) -> Result<Defaults> {
        let vae = configs.get("vae/config.json").and_then(|vae| vae.get("block_out_channels"));
        let levels = vae.and_then(Value::as_array).map_or(4, Vec::len).clamp(1, 8);
        let factor = 1 << (levels - 1);
        let of_family = match self {
            Flux if flag(configs, "transformer/config.json", "guidance_embeds") => Defaults::default(),
            // FLUX.1-schnell was distilled to a few steps, and hears of no guidance.
            Flux => Defaults { num_inference_steps: 4, ..Defaults::default() },
            Sd15 | Sd21 | Sdxl => {
                let sample = configs.get("unet/config.json").and_then(|unet| unet.get("sample_size"));
                let usual = match self {
                    Sdxl => 128,
                    Sd21 => 96,
                    _ => 64,
                };
                let side = sample.and_then(Value::as_u64).unwrap_or(usual).clamp(1, 256) as u32 * factor;
                let told = configs.get("unet/config.json").and_then(|unet| unet.get("time_cond_proj_dim"));
                // A UNet that is told the guidance scale was distilled to a few steps.
                let (num_inference_steps, guidance_scale) = match (told.and_then(Value::as_u64), self) {
                    (Some(_), _) => (4, 8.5),
                    (None, Sdxl) => (30, 5.0),
                    (None, _) => (30, 7.5),
                };
                Defaults {
                    num_inference_steps,
                    guidance_scale,
                    strength: 0.8,
                    width: side,
                    height: side,
                    ..Defaults::default()
                }
            }
        };
        let mut defaults = match configs.get("pyrograph.json") {
            None => of_family,
            Some(stated) => over(of_family, stated.get("defaults").unwrap_or(stated))
                .map_err(|error| Error::invalid("file", format!("pyrograph.json: {error}.")))?,
        };
        let multiple = if self == Flux { 2 * factor } else { factor };
        defaults.size_multiple = multiple;
        if !(0.0..=1.0).contains(&defaults.strength) {
            let message = format!("The model's own strength is {}; it must be from 0 to 1.", defaults.strength);
            return Err(Error::invalid("file", message));
        }
        let sides = [defaults.width, defaults.height];
        if sides.iter().any(|side| !SIDES.contains(side) || !side.is_multiple_of(multiple)) {
            let message = format!(
                "The model's own width and height are {} and {}; they must be multiples of {multiple}, from {} to {}.",
                defaults.width,
                defaults.height,
                SIDES.start(),
                SIDES.end()
            );
            return Err(Error::invalid("file", message));
        }
        Ok(defaults)
    }

    /// The family that a LoRA was made for, by the names and shapes of its tensors, whatever trainer and algorithm made it.
    ///
    /// Errors: `Invalid` when it holds no adapter, a rank outside 1..=512, or when the family is not known.
    pub fn of_lora(header: &Header) -> Result<Self> {
        let about = header.adapter()?;
        let largest = about.ranks.map_or(1, |ranks| ranks.largest);
        if largest as u64 > MAX_RANK {
            return Err(invalid(format!("its rank is {largest}; 1 to {MAX_RANK} are allowed")));
        }
        Ok(match about.family {
            formats::adapter::Family::Flux1 => Flux,
            formats::adapter::Family::StableDiffusion2 => Sd21,
            formats::adapter::Family::StableDiffusionXl => Sdxl,
            formats::adapter::Family::TextEncoder if about.modules.contains_key(&Network::TextEncoder2) => Sdxl,
            // What nothing tells apart is of the family that most are of.
            formats::adapter::Family::StableDiffusion1
            | formats::adapter::Family::StableDiffusion
            | formats::adapter::Family::TextEncoder => Sd15,
        })
    }
}

fn flag(configs: &Configs, file: &str, field: &str) -> bool {
    configs.get(file).and_then(|config| config.get(field)).and_then(Value::as_bool).unwrap_or(false)
}

/// `stated` wins, field by field.
fn over(defaults: Defaults, stated: &Value) -> serde_json::Result<Defaults> {
    let mut whole = serde_json::to_value(defaults)?;
    if let (Value::Object(whole), Value::Object(stated)) = (&mut whole, stated) {
        whole.extend(stated.clone());
    }
    serde_json::from_value(whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::safetensors_gate::tests::headed;

    fn header(name: &str, shape: &[u64]) -> Header {
        let bytes = 4 * shape.iter().product::<u64>();
        let json =
            serde_json::to_vec(&json!({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, bytes]}})).unwrap();
        crate::safetensors_gate::header(&json, 8 + json.len() as u64 + bytes).unwrap()
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
            assert_eq!(Family::of_lora(&header(name, shape)).unwrap(), family, "{name} {shape:?}");
        }
        for (name, shape) in [
            ("something.else.lora_A.weight", &[4, 8][..]),
            ("model.diffusion_model.input_blocks.0.0.weight", &[4, 4]),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", &[1024, 8]),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", &[4]),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", &[0, 8]),
        ] {
            assert!(Family::of_lora(&header(name, shape)).is_err(), "{name} {shape:?}");
        }
    }

    #[test]
    fn a_denoiser_tells_its_family() {
        let family = |names: &[&str]| Family::of_denoiser(&headed(names));
        let unet = "model.diffusion_model.input_blocks.0.0.weight";
        assert_eq!(family(&[unet, "cond_stage_model.transformer.text_model.x"]), Some(Sd15));
        assert_eq!(family(&[unet, "cond_stage_model.model.x"]), Some(Sd21));
        assert_eq!(family(&[unet, "model.diffusion_model.label_emb.0.0.weight"]), Some(Sdxl));
        assert_eq!(family(&["double_blocks.0.x", "img_in.weight"]), Some(Flux));
        assert_eq!(family(&["diffusion_model.double_blocks.0.x", "diffusion_model.img_in.weight"]), Some(Flux));
        assert_eq!(family(&["double_blocks.0.img_attn.qkv.diff", "img_in.diff"]), None);
        assert_eq!(family(&["double_blocks.0.processor.qkv_lora1.down.weight"]), None);
        assert_eq!(family(&["lora_unet_double_blocks_0_x.lora_down.weight"]), None);
        assert_eq!(family(&["first_stage_model.decoder.mid.x"]), None);
        let side = |family: Family| family.defaults(&Configs::new()).unwrap().width;
        assert_eq!([Sd15, Sd21, Sdxl].map(side), [512, 768, 1024]);
    }

    #[test]
    fn a_folder_tells_its_family_and_defaults() {
        let configs = |unet: Value| {
            let vae = json!({"block_out_channels": [128, 256, 512, 512]});
            Configs::from([("unet/config.json".into(), unet), ("vae/config.json".into(), vae)])
        };
        for (class, unet, family, side, guidance) in [
            ("StableDiffusionPipeline", json!({"sample_size": 64}), Sd15, 512, 7.5),
            ("StableDiffusionInpaintPipeline", json!({"sample_size": 64}), Sd15, 512, 7.5),
            ("StableDiffusionPipeline", json!({"sample_size": 96, "use_linear_projection": true}), Sd21, 768, 7.5),
            (
                "StableDiffusionXLImg2ImgPipeline",
                json!({"sample_size": 128, "use_linear_projection": true}),
                Sdxl,
                1024,
                5.0,
            ),
        ] {
            let configs = configs(unet);
            assert_eq!(Family::of_checkpoint(&configs, &json!({"_class_name": class})).unwrap(), family);
            let defaults = family.defaults(&configs).unwrap();
            assert_eq!(
                (defaults.width, defaults.height, defaults.guidance_scale, defaults.size_multiple),
                (side, side, guidance, 8)
            );
        }
        for class in ["StableDiffusion3Pipeline", "StableDiffusionControlNetPipeline", "FluxFillPipeline"] {
            assert!(Family::of_checkpoint(&Configs::new(), &json!({"_class_name": class})).is_err(), "{class}");
        }
    }

    #[test]
    fn a_stated_default_wins_alone() {
        let stated = json!({"defaults": {"num_inference_steps": 20, "width": 640}});
        let configs = Configs::from([("pyrograph.json".into(), stated)]);
        let defaults = Sd15.defaults(&configs).unwrap();
        assert_eq!((defaults.num_inference_steps, defaults.width, defaults.height), (20, 640, 512));
        let wrong = Configs::from([("pyrograph.json".into(), json!({"width": 645}))]);
        assert!(Sd15.defaults(&wrong).is_err());
    }
}
