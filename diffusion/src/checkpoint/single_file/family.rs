//! What a file is, told from its keys: a family that runs here, a part alone, or something else that at least gets its name.

use std::fmt;

use super::{DENOISERS, Part};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// A family of models that runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Stable Diffusion 1.x
    StableDiffusion1,
    /// Stable Diffusion 2.x
    StableDiffusion2,
    /// Stable Diffusion XL base
    StableDiffusionXl,
    /// FLUX.1-dev: the guidance scale is embedded
    FluxDev,
    /// FLUX.1-schnell
    FluxSchnell,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::StableDiffusion1, Self::StableDiffusion2, Self::StableDiffusionXl, Self::FluxDev, Self::FluxSchnell];

    /// Which part denoises.
    pub fn denoiser(self) -> Part {
        match self {
            Self::StableDiffusion1 | Self::StableDiffusion2 | Self::StableDiffusionXl => Part::Unet,
            Self::FluxDev | Self::FluxSchnell => Part::Transformer,
        }
    }

    /// The token that fills up the prompt of a text encoder, `pad_token` in its `tokenizer_config.json`. All CLIP and OpenCLIP
    /// encoders share one vocabulary and differ in this.
    pub fn padding(self, encoder: Part) -> &'static str {
        match (self, encoder) {
            (Self::FluxDev | Self::FluxSchnell, Part::TextEncoder2) => "<pad>",
            (Self::StableDiffusion2, _) | (Self::StableDiffusionXl, Part::TextEncoder2) => "!",
            _ => "<|endoftext|>",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StableDiffusion1 => "Stable Diffusion 1.5",
            Self::StableDiffusion2 => "Stable Diffusion 2.1",
            Self::StableDiffusionXl => "Stable Diffusion XL",
            Self::FluxDev => "FLUX.1-dev",
            Self::FluxSchnell => "FLUX.1-schnell",
        })
    }
}

/// Pieces of names that only one kind of file has, for kinds that do not run here. Adapters and quantisations come first:
/// they have the names of their base models too.
const OTHERS: [(&str, &str); 53] = [
    (".lora_down.", "an adapter (LoRA), which is no model of its own"),
    (".lora_up.", "an adapter (LoRA), which is no model of its own"),
    (".lora_A.", "an adapter (LoRA), which is no model of its own"),
    (".lora.down.", "an adapter (LoRA), which is no model of its own"),
    (".hada_w1_a", "an adapter (LoHa), which is no model of its own"),
    (".lokr_w1", "an adapter (LoKr), which is no model of its own"),
    ("bitsandbytes__", "a model quantised by bitsandbytes, in a way that is not read"),
    (".quant_map", "a model quantised by bitsandbytes, in a way that is not read"),
    (".qweight", "a model quantised by GPTQ, AWQ or SVDQuant, in a way that is not read"),
    (".weight_scale_2", "a model quantised to four bits (NVFP4), in a way that is not read"),
    ("control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("ip_adapter.", "an IP-Adapter"),
    ("motion_modules.", "an AnimateDiff motion module"),
    ("emb_params", "a textual inversion"),
    ("time_stack.", "Stable Video Diffusion"),
    ("depth_model.", "Stable Diffusion 2 with depth"),
    ("cond_stage_model.roberta.", "AltDiffusion"),
    ("edm_mean", "Playground v2.5"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("clip_txt_mapper.", "Stable Cascade"),
    ("channelwise.", "Stable Cascade"),
    ("single_stream_modulation", "FLUX.2"),
    ("early_stream_modulations", "FLUX.3"),
    ("distilled_guidance_layer.", "Chroma"),
    ("individual_token_refiner.", "HunyuanVideo"),
    ("img_attn_qkv.", "HunyuanVideo"),
    ("img_mod.1.", "Qwen-Image"),
    ("double_stream_blocks.", "HiDream"),
    ("vace_blocks.", "Wan VACE"),
    ("head.modulation", "Wan"),
    ("time_projection.1.", "Wan"),
    ("middle.0.residual.0.gamma", "the autoencoder of Wan or Qwen-Image"),
    ("patchify_proj.", "LTX-Video"),
    ("attn.qkv_x.", "Mochi"),
    ("double_layers.", "AuraFlow"),
    ("cap_embedder.", "Lumina 2 or Z-Image"),
    ("cross_attn.kv_linear.", "Sana or PixArt"),
    ("adaln_single.", "PixArt"),
    ("pos_embedder.", "Cosmos"),
    ("extra_pos_embedder.", "Cosmos"),
    ("txtfusion.", "Krea 2"),
    ("attn1.Wqkv", "Hunyuan-DiT"),
    ("mlp_t5.", "Hunyuan-DiT"),
    ("autoencoder.encoder.stages.", "a deep-compression autoencoder"),
    ("stages.1.op_list.", "a deep-compression autoencoder"),
    ("model.layers.0.self_attn.q_proj.", "a language model"),
    ("RRDB_trunk.", "an upscaler (ESRGAN)"),
    ("model.1.sub.0.", "an upscaler (ESRGAN)"),
    ("conv_first.", "an upscaler"),
    ("safety_checker.", "a safety checker"),
    ("concept_embeds", "a safety checker"),
];

/// The family of a file's denoiser, none if the file has one other part alone, an error if it is something else.
pub(super) fn recognise(file: &Checkpoint) -> Result<Option<Family>> {
    let refused = |what: &str| {
        let known = Family::ALL.map(|family| family.to_string()).join(", ");
        Err(Error::malformed(file.path(), format!("this looks like {what}; what runs here is {known}")))
    };
    // Some whole models of Stable Diffusion bring these along.
    let along = |name: &str| name.starts_with("safety_checker.") && file.has_prefix("model.diffusion_model.");
    let other = OTHERS.iter().find(|(mark, _)| file.names().any(|name| name.contains(mark) && !along(name)));
    if let Some((_, what)) = other {
        return refused(what);
    }
    let below = |start: &str| DENOISERS.into_iter().find(|prefix| file.has_prefix(&format!("{prefix}{start}")));
    if let Some(prefix) = below("double_blocks.") {
        let guided = file.has_prefix(&format!("{prefix}guidance_in."));
        return Ok(Some(if guided { Family::FluxDev } else { Family::FluxSchnell }));
    }
    if let Some(prefix) = below("input_blocks.") {
        return match stable_diffusion(file, prefix) {
            Ok(family) => Ok(Some(family)),
            Err(what) => refused(what),
        };
    }
    let lone = ["decoder.mid.", "first_stage_model.", "vae.decoder.", "text_model.", "transformer.resblocks."];
    if lone.iter().any(|start| file.has_prefix(start))
        || file.has_prefix("encoder.block.") && file.has_prefix("shared.")
        || file.has_prefix("enc.blk.") && file.has_prefix("token_embd.")
        || file.has_prefix("text_encoders.")
    {
        return Ok(None);
    }
    for (start, what) in [
        ("down_blocks.", "a UNet of a diffusers folder, which has to be imported as the folder"),
        ("transformer_blocks.", "a transformer of a diffusers folder, which has to be imported as the folder"),
        ("decoder.", "an autoencoder of a diffusers folder, which has to be imported as the folder"),
        ("vision_model.", "an image encoder (CLIP)"),
        ("v.blk.", "an image encoder in llama.cpp's names"),
        ("blk.", "a language model or a text encoder other than T5 in llama.cpp's names"),
    ] {
        if file.has_prefix(start) {
            return refused(what);
        }
    }
    let first: Vec<&str> = file.names().take(3).collect();
    refused(&format!("no model that is known here, with the tensors {}, …", first.join(", ")))
}

fn stable_diffusion(file: &Checkpoint, prefix: &str) -> Result<Family, &'static str> {
    let shape = |name: &str| file.shape(&format!("{prefix}{name}")).unwrap_or_default();
    match shape("input_blocks.0.0.weight").get(1) {
        None | Some(4 | 9) => {}
        Some(5) => return Err("Stable Diffusion 2 with depth (5 input channels)"),
        Some(7) => return Err("the upscaler of Stable Diffusion (7 input channels)"),
        Some(8) => return Err("InstructPix2Pix (8 input channels)"),
        Some(_) => return Err("a Stable Diffusion of another kind (neither 4 nor 9 input channels)"),
    }
    if file.has_prefix("embedder.model.visual.") {
        return Err("Stable unCLIP");
    }
    if file.has_prefix(&format!("{prefix}label_emb.")) {
        let refiner = file.has_prefix("conditioner.embedders.0.model.")
            || shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight").get(1) == Some(&1280);
        return if refiner { Err("the refiner of Stable Diffusion XL") } else { Ok(Family::StableDiffusionXl) };
    }
    // Projections around attention are convolutions in 1.x and linear in 2.x.
    let linear = shape("middle_block.1.proj_in.weight").len() == 2;
    let two = file.has_prefix("cond_stage_model.model.") || linear && !file.has_prefix("cond_stage_model.transformer.");
    Ok(if two { Family::StableDiffusion2 } else { Family::StableDiffusion1 })
}
