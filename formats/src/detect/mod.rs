//! Detects what a model's files contain: the family of a denoiser from the names and shapes of its tensors, or the
//! family of a folder in diffusers' layout from its configs. Unsupported files are rejected here, with the name of what
//! they contain.

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::unsupported::Unsupported;
use crate::place::DENOISERS;
use crate::{Family, Header, Traits};

mod unsupported;

/// Width of the pooled text and the size conditions that the UNet of Kolors reads; that of XL reads 2816.
const KOLORS_CONDITIONS: usize = 5632;

/// The small JSON files of a checkpoint, by path.
pub type Configs = BTreeMap<String, Value>;

/// The denoiser of a file, alone or in a complete model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denoiser {
    pub family: Family,
    /// Whether a FLUX.1 takes the guidance scale as an input: dev does, schnell does not.
    pub guidance_embedded: bool,
}

/// The denoiser of a file; `None` if the file has none. Errors: what the file is, if its denoiser is not supported.
pub fn denoiser(header: &Header) -> Result<Option<Denoiser>, Unsupported> {
    // Looks for the complete name of the first layer, because names in adapters start with the names of their layers.
    let prefix =
        |first: &str| DENOISERS.into_iter().find(|prefix| header.tensors.contains_key(&format!("{prefix}{first}")));
    let flux = prefix("img_in.weight").filter(|prefix| header.has(&format!("{prefix}double_blocks.")));
    let unet = prefix("input_blocks.0.0.weight");
    if flux.is_none() && unet.is_none() {
        return Ok(None);
    }
    if let Some(other) = unsupported::other_model(header) {
        return Err(other);
    }
    if let Some(prefix) = flux {
        check_flux(header, prefix)?;
        let guidance_embedded = header.has(&format!("{prefix}guidance_in."));
        return Ok(Some(Denoiser { family: Family::Flux, guidance_embedded }));
    }
    let family = unet.map(|prefix| stable_diffusion(header, prefix)).transpose()?;
    Ok(family.map(|family| Denoiser { family, guidance_embedded: false }))
}

/// The denoiser of a file that holds a whole model or some part of one; `None` for a part without one. Errors: what the
/// file is instead.
pub fn contents(header: &Header) -> Result<Option<Denoiser>, Unsupported> {
    match denoiser(header)? {
        None => unsupported::other_file(header).map_or(Ok(None), Err),
        found => Ok(found),
    }
}

/// Whether a file contains an adapter, of any family.
pub fn is_adapter(header: &Header) -> bool {
    unsupported::is_adapter(header)
}

/// What a file is that contains neither a denoiser nor an adapter.
pub fn other_file(header: &Header) -> Unsupported {
    let part = || unsupported::lone_part(header);
    unsupported::other_file(header).or_else(part).unwrap_or_else(|| Unsupported::model("no model that is known here"))
}

/// What weights are quantised with, if their format is not read.
pub fn quantised(header: &Header) -> Option<Unsupported> {
    unsupported::quantised(header)
}

/// FLUX.1 for other tasks reads more than its own latents.
fn check_flux(header: &Header, prefix: &str) -> Result<(), Unsupported> {
    let size = |name: &str, axis: usize| header.shape(&format!("{prefix}{name}")).and_then(|shape| shape.get(axis));
    let (Some(inputs), Some(outputs)) = (size("img_in.weight", 1), size("final_layer.linear.weight", 0)) else {
        return Ok(());
    };
    match inputs.checked_div(*outputs) {
        Some(6) => Err(Unsupported::model("FLUX.1 Fill, which repaints pictures")),
        Some(2) => Err(Unsupported::model("FLUX.1 Canny or Depth, which follows a control picture")),
        _ => Ok(()),
    }
}

fn stable_diffusion(header: &Header, prefix: &str) -> Result<Family, Unsupported> {
    let shape = |name: &str| header.shape(&format!("{prefix}{name}")).unwrap_or_default();
    let refused = |what: &'static str| Err(Unsupported::model(what));
    match shape("input_blocks.0.0.weight") {
        // A matrix: a GGUF file that lost the shape of its convolutions.
        [] | [_] | [_, _] | [_, 4 | 9, ..] => {}
        [_, 5, ..] => return refused("Stable Diffusion 2 with depth (5 input channels)"),
        [_, 7, ..] => return refused("the upscaler of Stable Diffusion (7 input channels)"),
        [_, 8, ..] => return refused("InstructPix2Pix (8 input channels)"),
        _ => return refused("a Stable Diffusion of another kind (neither 4 nor 9 input channels)"),
    }
    // Width of the text states that cross-attention reads.
    let text = shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight").get(1).copied();
    let labels = shape("label_emb.0.0.weight").get(1).copied();
    if header.has(&format!("{prefix}label_emb.")) {
        if labels == Some(KOLORS_CONDITIONS) {
            return refused("Kolors");
        }
        let refiner = header.has("conditioner.embedders.0.model.") || text == Some(1280) || labels == Some(2560);
        return if refiner { refused("the refiner of Stable Diffusion XL") } else { Ok(Family::Sdxl) };
    }
    let architecture = header.metadata.get("general.architecture").map(String::as_str);
    // The projections around attention are convolutions in 1.x and linear layers in 2.x. Programs that write GGUF may
    // make matrices of both.
    let linear = shape("middle_block.1.proj_in.weight").len() == 2;
    Ok(match (architecture, text) {
        (Some("sd1"), _) => Family::Sd15,
        (Some("sd2"), _) => Family::Sd21,
        _ if header.has("cond_stage_model.model.") => Family::Sd21,
        _ if header.has("cond_stage_model.transformer.") => Family::Sd15,
        (_, Some(768)) => Family::Sd15,
        (_, Some(1024)) => Family::Sd21,
        _ if linear => Family::Sd21,
        _ => Family::Sd15,
    })
}

/// Whether a UNet also takes a mask and a masked picture as input.
fn inpaints(header: &Header) -> bool {
    let first = header.tensors.iter().find(|(name, _)| name.ends_with("input_blocks.0.0.weight"));
    first.is_some_and(|(_, tensor)| tensor.shape.get(1) == Some(&9))
}

/// What the denoiser of a file in the original layout predicts, under diffusers' name, if that differs from
/// [`Family::prediction_type`]: from the header; from an empty tensor, which marks fine-tunes of XL to velocity; or
/// because the file is an inpainting model of 2.x, which predicts noise.
pub fn prediction_type(family: Family, header: &Header) -> Option<&'static str> {
    if family.matches_flow() {
        return None;
    }
    match header.metadata.get("modelspec.prediction_type").map(String::as_str) {
        Some("epsilon") => Some("epsilon"),
        Some("v" | "v_prediction") => Some("v_prediction"),
        _ if header.tensors.contains_key("v_pred") => Some("v_prediction"),
        _ if family == Family::Sd21 && inpaints(header) => Some("epsilon"),
        _ => None,
    }
}

/// The family of a folder in diffusers' layout, from the class in its `model_index.json`. A class for one kind of
/// request, such as `FluxInpaintPipeline`, also names its family. Errors: a sentence about the class.
pub fn family_of_class(class: &str, linear_projection: bool) -> Result<Family, String> {
    let kinds = ["Img2ImgPipeline", "InpaintPipeline", "Pipeline"];
    match kinds.iter().find_map(|kind| class.strip_suffix(kind)) {
        Some("Flux") => Ok(Family::Flux),
        // Stable Diffusion 1 with a UNet that takes the guidance scale as an input.
        Some("LatentConsistencyModel") => Ok(Family::Sd15),
        Some("StableDiffusionXL") => Ok(Family::Sdxl),
        // Both use the same pipeline. 2.x reads OpenCLIP's wider text states, and its projections are linear layers.
        Some("StableDiffusion") if linear_projection => Ok(Family::Sd21),
        Some("StableDiffusion") => Ok(Family::Sd15),
        _ => Err(format!(
            "this is a {class}; what can be loaded is FluxPipeline, StableDiffusionPipeline, \
             StableDiffusionXLPipeline, LatentConsistencyModelPipeline"
        )),
    }
}

/// The family of a folder in diffusers' layout, from its configs. Errors: a sentence, if the pipeline is not supported.
pub fn family_of_folder(index: &Value, configs: &Configs) -> Result<Family, String> {
    let class = index.get("_class_name").and_then(Value::as_str).ok_or("it has no `_class_name`")?;
    let unet = |field: &str| configs.get("unet/config.json").and_then(|config| config.get(field));
    let linear = unet("use_linear_projection").and_then(Value::as_bool).unwrap_or(false);
    let family = family_of_class(class, linear)?;
    if index.get("requires_aesthetics_score").and_then(Value::as_bool) == Some(true) {
        return Err("this is the refiner of SDXL; only its base model makes pictures".to_owned());
    }
    if family != Family::Flux {
        let vae = configs.get("vae/config.json").and_then(|config| config.get("latent_channels"));
        let latent = vae.and_then(Value::as_u64).unwrap_or(family.latent_channels() as u64);
        let inputs = unet("in_channels").and_then(Value::as_u64);
        if let Some(inputs) = inputs.filter(|inputs| *inputs != latent && *inputs != latent.saturating_mul(2) + 1) {
            return Err(format!("no pipeline has a UNet from {inputs} channels for {latent} latents"));
        }
    }
    Ok(family)
}

/// The traits in a folder's configs that affect its defaults.
pub fn traits_of_folder(family: Family, configs: &Configs) -> Traits {
    let field = |file: &str, name: &str| configs.get(file).and_then(|config| config.get(name));
    let levels = field("vae/config.json", "block_out_channels").and_then(Value::as_array).map(Vec::len);
    Traits {
        guidance_embedded: match family {
            Family::Flux => field("transformer/config.json", "guidance_embeds").and_then(Value::as_bool) == Some(true),
            _ => field("unet/config.json", "time_cond_proj_dim").is_some_and(Value::is_u64),
        },
        sample_size: field("unet/config.json", "sample_size").and_then(Value::as_u64),
        vae_factor: levels.map(factor),
    }
}

/// Pixels per latent along each side, for the autoencoder of a file in the original layout; `None` if it has none.
pub fn vae_factor(header: &Header) -> Option<u32> {
    // Each test scans all names, so it stops at more levels than any decoder has.
    let levels = (0..8).take_while(|level| header.has_anywhere(&format!("decoder.up.{level}."))).count();
    Some(levels).filter(|levels| *levels > 0).map(factor)
}

/// An autoencoder halves the picture between consecutive levels.
fn factor(levels: usize) -> u32 {
    1 << (levels.clamp(1, 8) - 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Tensor, TensorType};
    use Family::{Flux, Sd15, Sd21, Sdxl};

    fn header(tensors: &[(&str, &[usize])]) -> Header {
        let tensor = |shape: &[usize]| Tensor { kind: TensorType::F32, shape: shape.to_vec(), start: 0, length: 0 };
        let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), tensor(shape)));
        Header { tensors: tensors.collect(), ..Header::default() }
    }

    fn headed(names: &[&str]) -> Header {
        header(&names.iter().map(|name| (*name, &[1][..])).collect::<Vec<_>>())
    }

    #[test]
    fn a_denoiser_tells_its_family() {
        let family = |names: &[&str]| denoiser(&headed(names)).unwrap().map(|found| found.family);
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
            assert_eq!(family_of_folder(&json!({"_class_name": class}), &configs).unwrap(), family);
            let defaults = family.defaults(traits_of_folder(family, &configs));
            assert_eq!(
                (defaults.width, defaults.height, defaults.guidance_scale, defaults.size_multiple),
                (side, side, guidance, 8)
            );
        }
        for class in ["StableDiffusion3Pipeline", "StableDiffusionControlNetPipeline", "FluxFillPipeline"] {
            assert!(family_of_folder(&json!({"_class_name": class}), &Configs::new()).is_err(), "{class}");
        }
    }

    #[test]
    fn a_folder_that_can_never_run_is_refused() {
        let index = |class: &str| json!({"_class_name": class});
        let unet = |channels: u64| Configs::from([("unet/config.json".to_owned(), json!({"in_channels": channels}))]);
        for channels in [4, 9] {
            assert!(family_of_folder(&index("StableDiffusionPipeline"), &unet(channels)).is_ok());
        }
        for channels in [0, 5, 7, 8] {
            let told = family_of_folder(&index("StableDiffusionPipeline"), &unet(channels)).unwrap_err();
            assert!(told.contains(&format!("from {channels} channels")), "{told}");
        }
        let refiner = json!({"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": true});
        assert!(family_of_folder(&refiner, &unet(4)).unwrap_err().contains("refiner"));
        assert!(family_of_folder(&json!({}), &unet(4)).is_err());
    }

    #[test]
    fn a_denoiser_that_does_not_run_is_named() {
        let first = "model.diffusion_model.input_blocks.0.0.weight";
        let label = ("model.diffusion_model.label_emb.0.0.weight", &[4, 4][..]);
        /// A header with these names and shapes.
        type Entries<'a> = &'a [(&'a str, &'a [usize])];
        let cases: [(Entries<'_>, &str); 7] = [
            (&[(first, &[32, 8, 3, 3])], "InstructPix2Pix"),
            (&[(first, &[32, 5, 3, 3])], "depth"),
            (&[(first, &[32, 7, 3, 3])], "upscaler"),
            (&[(first, &[32, 6, 3, 3])], "neither 4 nor 9"),
            (&[(first, &[32, 4, 3, 3]), label, ("conditioner.embedders.0.model.x", &[4])], "refiner"),
            (&[("double_blocks.0.x", &[4]), ("img_in.weight", &[4]), ("distilled_guidance_layer.x", &[4])], "Chroma"),
            (&[("double_blocks.0.x", &[4]), ("img_in.weight", &[4]), ("single_stream_modulation", &[4])], "FLUX.2"),
        ];
        for (tensors, what) in cases {
            let told = denoiser(&header(tensors)).unwrap_err().to_string();
            assert!(told.contains(what), "{what}: {told}");
        }
    }
}
