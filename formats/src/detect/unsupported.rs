//! Names files that do not run here by the names of their tensors, and says what can be done with them. People choose
//! these files by mistake on download pages; a few of their tensor names identify each.

use std::borrow::Cow;
use std::fmt;

use crate::place::DENOISERS;
use crate::{Family, Header, Part};

/// A file that does not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    what: Cow<'static, str>,
    advice: Advice,
}

/// What can be done with such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    /// A model of another family, or something that makes no pictures from a prompt.
    Family,
    /// Something that changes the pictures of another model.
    AddOn,
    /// A model that runs here with other weights.
    Weights,
    /// A part of a model in the layout of folders.
    Folder,
    /// A part of a model that is given beside the file of a denoiser.
    Part(Part),
}

impl Unsupported {
    pub(crate) fn model(what: impl Into<Cow<'static, str>>) -> Self {
        Self { what: what.into(), advice: Advice::Family }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this looks like {}; ", self.what)?;
        let known = || Family::ALL.map(Family::title).join(", ");
        match self.advice {
            Advice::Family => write!(f, "what runs here is {}", known()),
            Advice::AddOn => {
                write!(
                    f,
                    "it changes the pictures of another model and is not supported; what runs here is {}",
                    known()
                )
            }
            Advice::Weights => f.write_str("use its file in bf16, fp16, fp8 or GGUF"),
            Advice::Folder => f.write_str("import the whole folder, with its model_index.json"),
            Advice::Part(part) => write!(
                f,
                "it is one part of a model: give it as `{}` (on the command line --{}) beside the file of a denoiser",
                part.as_str(),
                part.as_str().replace('_', "-"),
            ),
        }
    }
}

/// Adapters. They also contain the names of the layers that they change, so these are looked for before models.
const ADAPTERS: [&str; 12] = [
    ".lora_down.",
    ".lora_up.",
    ".lora_A",
    ".lora_B",
    ".lora.down.",
    ".lora.up.",
    "_lora.down.",
    "_lora.up.",
    ".hada_w1_a",
    ".hada_w2_a",
    ".lokr_w1",
    ".lokr_w2",
];

/// Weights in a format that is not read, of any model.
const QUANTISED: [(&str, &str); 9] = [
    ("bitsandbytes__", "a model quantised by bitsandbytes (nf4 or fp4)"),
    (".quant_map", "a model quantised by bitsandbytes (nf4 or fp4)"),
    (".SCB", "a model quantised by bitsandbytes (int8)"),
    (".wscales", "a model quantised by SVDQuant (nunchaku)"),
    (".wtscale", "a model quantised by SVDQuant (nunchaku)"),
    (".qzeros", "a model quantised by GPTQ or AWQ"),
    (".qweight", "a model quantised by GPTQ, AWQ or SVDQuant"),
    (".weight_packed", "a model quantised by compressed-tensors"),
    (".weight_scale_2", "a model quantised to four bits (NVFP4)"),
];

/// What changes the pictures of another model.
const ADD_ONS: [(&str, &str); 33] = [
    ("lllite_", "a ControlNet-LLLite"),
    ("lora_controlnet", "a Control-LoRA"),
    ("control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("control_add_embedding.", "a ControlNet (union)"),
    ("task_embedding", "a ControlNet (union)"),
    ("control_all_x_embedder.", "a ControlNet of Z-Image"),
    ("control_layers.", "a ControlNet of Z-Image"),
    ("control_img_in.", "a ControlNet of Qwen-Image"),
    ("control_blocks.", "a ControlNet"),
    ("pos_embed_input.", "a ControlNet of Stable Diffusion 3"),
    ("ip_adapter", "an IP-Adapter"),
    ("to_k_ip.", "an IP-Adapter"),
    ("image_proj.", "an IP-Adapter"),
    ("redux_up.", "FLUX.1 Redux, an adapter for pictures as prompts"),
    ("pulid_", "PuLID, an adapter for faces"),
    ("id_encoder.", "PhotoMaker, an adapter for faces"),
    ("adapter.body.", "a T2I-Adapter"),
    ("body.0.resnets.0.block1.", "a T2I-Adapter"),
    ("body.0.block1.", "a T2I-Adapter"),
    ("motion_modules.", "an AnimateDiff motion module"),
    ("temporal_transformer.", "an AnimateDiff motion module"),
    ("emb_params", "a textual inversion (embedding)"),
    ("string_to_param", "a textual inversion (embedding)"),
    ("string_to_token", "a textual inversion (embedding)"),
    ("768.0.linear.", "a hypernetwork"),
    ("768.1.linear.", "a hypernetwork"),
    ("brushnet_", "BrushNet"),
    ("fooocus_", "the inpainting patch of Fooocus"),
    ("layer_diffuse", "LayerDiffuse"),
    ("safety_checker.", "a safety checker"),
    ("concept_embeds", "a safety checker"),
];

/// Models of other families, and what makes no pictures from a prompt. All marks of a row have to occur. The more
/// specific rows come first.
const MODELS: [(&[&str], &str); 92] = [
    // Stable Diffusion and its relatives.
    (&["time_stack."], "Stable Video Diffusion"),
    (&["temporal_transformer_blocks."], "Stable Video Diffusion"),
    (&["depth_model."], "Stable Diffusion 2 with depth"),
    (&["cond_stage_model.roberta."], "AltDiffusion"),
    (&["edm_mean"], "Playground v2.5"),
    (&["joint_blocks."], "Stable Diffusion 3"),
    (&["context_embedder.", "pos_embed.proj.", "ff_context."], "Stable Diffusion 3 in the layout of folders"),
    (&["encoder_hid_proj.", "label_emb."], "Kolors"),
    (&["encoder_hid_proj."], "Kolors or DeepFloyd IF"),
    (&["clip_txt_mapper."], "Stable Cascade"),
    (&["clip_txt_pooled_mapper."], "Stable Cascade"),
    (&["channelwise."], "Stable Cascade"),
    (&["kv_mapper."], "Stable Cascade"),
    (&["effnet_mapper."], "Stable Cascade"),
    (&["vquantizer."], "the autoencoder of Stable Cascade"),
    (&["embedder.model.visual."], "Stable unCLIP"),
    // FLUX and its relatives.
    (&["early_stream_modulations"], "FLUX.3"),
    (&["mode_blocks."], "FLUX.3"),
    (&["stream_modulation"], "FLUX.2"),
    (&["to_qkv_mlp_proj."], "FLUX.2"),
    (&["nerf_blocks."], "Chroma1-Radiance"),
    (&["distilled_guidance_layer."], "Chroma"),
    (&["bn.running_mean", "decoder."], "the autoencoder of FLUX.2"),
    (&["byt5_in.", "vision_in."], "HunyuanVideo 1.5"),
    (&["cond_type_embedding."], "HunyuanVideo 1.5"),
    (&["byt5_in."], "HunyuanImage 2.1"),
    (&["individual_token_refiner."], "HunyuanVideo"),
    (&["token_refiner.refiner_blocks."], "HunyuanVideo"),
    (&["img_attn_qkv."], "HunyuanVideo"),
    // Other image models.
    (&["txt_in.text_norm."], "Qwen-Image 2.1"),
    (&["img_mod.1."], "Qwen-Image"),
    (&["txt_norm.", "add_k_proj."], "Qwen-Image"),
    (&["double_stream_blocks."], "HiDream"),
    (&["double_layers."], "AuraFlow"),
    (&["joint_transformer_blocks."], "AuraFlow"),
    (&["ref_image_patch_embedder."], "OmniGen 2"),
    (&["ref_image_refiner."], "OmniGen 2"),
    (&["llm.layers.0.self_attn."], "OmniGen"),
    (&["txtfusion."], "Krea 2"),
    (&["text_fusion."], "Krea 2"),
    (&["attn1.Wqkv"], "Hunyuan-DiT"),
    (&["mlp_t5."], "Hunyuan-DiT"),
    (&["text_embedding_padding"], "Hunyuan-DiT"),
    (&["inverted_conv."], "Sana"),
    (&["conv_inverted."], "Sana"),
    (&["autoencoder.encoder.stages."], "a deep-compression autoencoder"),
    (&["stages.1.op_list."], "a deep-compression autoencoder (of Sana)"),
    // Video models.
    (&["vace_"], "Wan VACE"),
    (&["head.modulation"], "Wan"),
    (&["time_projection.1."], "Wan"),
    (&["condition_embedder.time_proj."], "Wan"),
    (&["cross_attn.", "self_attn.", "patch_embedding."], "Wan"),
    (&["middle.0.residual.0.gamma"], "the autoencoder of Wan or Qwen-Image"),
    (&["norm1.gamma", "decoder."], "the autoencoder of Wan or Qwen-Image"),
    (&["audio_patchify_proj."], "LTX-2"),
    (&["patchify_proj."], "LTX-Video"),
    (&["per_channel_statistics."], "the autoencoder of LTX-Video"),
    (&["caption_projection.", "time_embed.emb."], "LTX-Video in the layout of folders"),
    (&["attn.qkv_x."], "Mochi"),
    (&["patch_embed.text_proj."], "CogVideoX"),
    (&["mixins.patch_embed."], "CogVideoX"),
    (&["adaln_modulation_self_attn."], "Cosmos"),
    (&["extra_pos_embedder."], "Cosmos"),
    (&["pos_embedder."], "Cosmos"),
    (&["llm_adapter."], "Anima"),
    // These share names with models above.
    (&["cross_attn.kv_linear.", "adaln_single."], "PixArt"),
    (&["cross_attn.kv_linear."], "PixArt"),
    (&["adaln_single."], "PixArt"),
    (&["noise_refiner.", "cap_embedder."], "Z-Image or Lumina 2"),
    (&["cap_embedder."], "Z-Image or Lumina"),
    // Sound.
    (&["model.model.transformer.layers.", "pretransform."], "Stable Audio"),
    (&["speaker_embedder."], "a model that makes music (ACE-Step)"),
    // What improves pictures.
    (&["stylegan_decoder."], "a face restorer (GFPGAN)"),
    (&["fuse_convs_dict."], "a face restorer (CodeFormer)"),
    (&["RRDB_trunk."], "an upscaler (ESRGAN)"),
    (&["model.1.sub.0."], "an upscaler (ESRGAN)"),
    (&["conv_first."], "an upscaler (ESRGAN, SwinIR or the like)"),
    (&["body.0.rdb1."], "an upscaler (ESRGAN)"),
    (&["upsampler.0.", "conv_1.sk."], "an upscaler (SPAN)"),
    // Language models, and the text encoders of newer families, which are language models.
    (&["transformer.encoder.layers.0.self_attention.query_key_value."], "ChatGLM, the text encoder of Kolors"),
    (&["model.layers.0.self_attn.q_proj."], LANGUAGE),
    (&["model.layers.0.self_attn.qkv_proj."], LANGUAGE),
    (&["language_model."], LANGUAGE),
    (&["model.embed_tokens."], LANGUAGE),
    (&["tekken_model"], LANGUAGE),
    (&["layers.0.attention.wq."], LANGUAGE),
    (&["transformer.h.0.attn."], "a language model (GPT-2)"),
    (&["gpt_neox.layers."], "a language model (GPT-NeoX)"),
    (&["backbone.layers.0.mixer."], "a language model (Mamba)"),
    (&["encoder.block.1.layer.0.SelfAttention.relative_attention_bias."], "UMT5, the text encoder of Wan"),
    (&["bert."], "a text encoder (BERT)"),
    (&["embeddings.word_embeddings.", "encoder.layer.0."], "a text encoder (BERT)"),
];

const LANGUAGE: &str = "a language model, perhaps the text encoder of a newer family such as FLUX.2 or Qwen-Image";

/// Parts in the layout of folders, and other programs' files of language models.
const IN_FOLDERS: [(&[&str], &str); 6] = [
    (&["single_transformer_blocks.", "x_embedder."], "the transformer of a FLUX.1 in the layout of folders"),
    (&["down_blocks.", "mid_block.", "time_embedding."], "the UNet of a Stable Diffusion in the layout of folders"),
    (&["decoder.mid_block."], "the autoencoder of a model in the layout of folders"),
    (&["down_blocks.", "conv_in."], "the UNet of a model in the layout of folders"),
    (&["transformer_blocks."], "the transformer of a model in the layout of folders"),
    (&["decoder.up_blocks."], "the autoencoder of a model in the layout of folders"),
];

/// Whether a file contains an adapter.
pub(super) fn is_adapter(header: &Header) -> bool {
    const OTHERS: [&str; 7] = [".alpha", ".dora_scale", ".diff", ".diff_b", ".w_norm", ".b_norm", ".lora_alpha"];
    let marked = |name: &String| {
        ADAPTERS.iter().any(|mark| name.contains(mark))
            || ["lora_unet_", "lora_te", "lora_transformer_", "lycoris_", "oft_"]
                .iter()
                .any(|mark| name.starts_with(mark))
            || OTHERS.iter().any(|end| name.ends_with(end))
    };
    // IP-Adapters for faces carry a LoRA.
    header.tensors.keys().any(marked) && !header.tensors.keys().any(|name| name.starts_with("ip_adapter."))
}

/// What a file is that also contains a denoiser with a known first layer, if it is not supported.
pub(super) fn other_model(header: &Header) -> Option<Unsupported> {
    // Some complete models of Stable Diffusion also contain a safety checker.
    let whole = header.has(DENOISERS[0]);
    let of = |name: &str| !(whole && name.starts_with("safety_checker."));
    let has = |mark: &str| header.tensors.keys().any(|name| name.contains(mark) && of(name));
    let first = |table: &[(&'static str, &'static str)], advice: Advice| {
        let found = table.iter().find(|(mark, _)| has(mark));
        found.map(|(_, what)| Unsupported { what: Cow::Borrowed(what), advice })
    };
    first(&ADD_ONS, Advice::AddOn)
        .or_else(|| {
            let is_adapter = ADAPTERS.iter().any(|mark| has(mark));
            is_adapter.then(|| Unsupported::model("an adapter (LoRA, LoHa or LoKr), which is not a whole model"))
        })
        .or_else(|| first(&QUANTISED, Advice::Weights))
        .or_else(|| {
            let found = MODELS.iter().find(|(marks, _)| marks.iter().all(|mark| has(mark)));
            found.map(|(_, what)| Unsupported::model(*what))
        })
}

/// What weights are quantised with, if their format is not read.
pub(super) fn quantised(header: &Header) -> Option<Unsupported> {
    let found = QUANTISED.iter().find(|(mark, _)| header.tensors.keys().any(|name| name.contains(mark)));
    found.map(|(_, what)| Unsupported { what: Cow::Borrowed(what), advice: Advice::Weights })
}

/// What a file without a denoiser is, if it is neither an adapter nor a part of a supported model.
pub(super) fn other_file(header: &Header) -> Option<Unsupported> {
    if is_embedding(header) {
        return Some(Unsupported { what: "a textual inversion (embedding)".into(), advice: Advice::AddOn });
    }
    if let Some(architecture) = header.metadata.get("general.architecture")
        && header.has("blk.")
    {
        return Some(Unsupported::model(format!("a language model ({architecture})")));
    }
    if let Some(found) = other_model(header) {
        return Some(found);
    }
    if lone_part(header).is_some() {
        return None;
    }
    let has = |mark: &&str| header.has_anywhere(mark);
    if let Some((_, what)) = IN_FOLDERS.iter().find(|(marks, _)| marks.iter().all(has)) {
        return Some(Unsupported { what: Cow::Borrowed(what), advice: Advice::Folder });
    }
    for (start, what) in [
        ("vision_model.", "an image encoder (CLIP or SigLIP)"),
        ("visual.", "an image encoder (OpenCLIP)"),
        ("embeddings.patch_embeddings.", "an image encoder (ViT)"),
        ("v.blk.", "an image encoder in llama.cpp's names"),
        ("blk.", "a language model or a text encoder other than T5 in llama.cpp's names"),
    ] {
        if header.has(start) {
            return Some(Unsupported::model(what));
        }
    }
    if is_compact_upscaler(header) {
        return Some(Unsupported::model("an upscaler (Real-ESRGAN compact)"));
    }
    let first: Vec<&str> = header.tensors.keys().take(3).map(String::as_str).collect();
    Some(Unsupported::model(format!("no model that is known here, with the tensors {}, …", first.join(", "))))
}

/// The part of a supported model that a file contains by itself.
pub(super) fn lone_part(header: &Header) -> Option<Unsupported> {
    let starts = |starts: &[&str]| starts.iter().any(|start| header.has(start));
    let (what, part) = if starts(&["encoder.block.", "text_encoders.t5xxl."]) && !starts(&["decoder.mid."])
        || starts(&["enc.blk."]) && starts(&["token_embd."])
    {
        ("T5, the second text encoder of FLUX.1", Part::TextEncoder2)
    } else if starts(&["decoder.mid.", "first_stage_model.", "vae.decoder."]) {
        ("an autoencoder (VAE)", Part::Vae)
    } else if starts(&["text_model.encoder.layers.31.", "transformer.resblocks.31."]) {
        ("OpenCLIP bigG, the second text encoder of Stable Diffusion XL", Part::TextEncoder2)
    } else if starts(&["transformer.resblocks."]) {
        ("an OpenCLIP text encoder", Part::TextEncoder)
    } else if starts(&["text_model.", "text_encoders."]) {
        ("a CLIP text encoder", Part::TextEncoder)
    } else {
        return None;
    };
    Some(Unsupported { what: what.into(), advice: Advice::Part(part) })
}

/// A few vectors of a text encoder's width, under the name of a token or under those of ComfyUI's encoders.
fn is_embedding(header: &Header) -> bool {
    const WIDTHS: [usize; 5] = [768, 1024, 1280, 2048, 4096];
    let comfy = |name: &str| ["clip_l", "clip_g", "t5xxl"].contains(&name);
    let few = header.tensors.len() <= 4 && !header.tensors.is_empty();
    few && header.tensors.iter().all(|(name, tensor)| {
        let wide = tensor.shape.last().is_some_and(|width| WIDTHS.contains(width));
        comfy(name) || tensor.shape.len() <= 2 && wide && !name.contains('.') && !name.contains("weight")
    })
}

/// Convolutions and activations in one list, without any other name.
fn is_compact_upscaler(header: &Header) -> bool {
    header.has("body.0.") && header.has("body.2.") && header.tensors.keys().all(|name| name.starts_with("body."))
}
