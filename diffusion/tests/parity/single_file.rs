//! Single files against diffusers: the published layouts by name and shape at full size, and by value at tiny size.
//! Files of full size are sparse: a header, and as many unwritten bytes as it declares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{Checkpoint, SingleFile, load_strict};
use diffusion::networks::{clip, t5, vae};
use formats::{Family, Part};
use serde_json::{Value, json};
use tempfile::TempDir;

const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;

/// Name → shape, and digest if there is one, of a list in `goldens/keys`.
pub(crate) type List = BTreeMap<String, (Vec<usize>, Option<u64>)>;

pub(crate) fn list(name: &str) -> List {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/keys").join(format!("{name}.txt"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let sides = words[1].split('x').filter(|side| *side != "-").map(|side| side.parse().unwrap());
            let digest = words.get(2).map(|digits| u64::from_str_radix(digits, 16).unwrap());
            (words[0].to_owned(), (sides.collect(), digest))
        })
        .collect()
}

fn header(list: &List, dtype: &str, bytes: usize, metadata: &str) -> (String, usize) {
    let mut at = 0;
    let mut text = format!(r#"{{"__metadata__":{{{metadata}}}"#);
    for (name, (shape, _)) in list {
        let from = at;
        at += bytes * shape.iter().product::<usize>();
        write!(text, r#","{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{at}]}}"#).unwrap();
    }
    (text + "}", at)
}

/// A file that takes no disk space, regardless of its size.
fn sparse(folder: &TempDir, name: &str, list: &List) -> PathBuf {
    sparse_with(folder, name, list, "")
}

fn sparse_with(folder: &TempDir, name: &str, list: &List, metadata: &str) -> PathBuf {
    let (header, data) = header(list, "BF16", 2, metadata);
    let path = folder.path().join(name);
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + data) as u64).unwrap();
    path
}

/// A file with the values that `key_lists.py` assigns to each name.
pub(crate) fn filled(folder: &TempDir, name: &str, list: &List) -> PathBuf {
    let (header, _) = header(list, "F32", 4, "");
    let path = folder.path().join(name);
    let mut file = BufWriter::new(File::create(&path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for (name, (shape, _)) in list {
        let seed = name
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        for at in 0..shape.iter().product::<usize>() as u64 {
            let bits = seed.wrapping_add(at.wrapping_mul(WEYL)) >> 40;
            file.write_all(&(bits as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()).unwrap();
        }
    }
    file.into_inner().unwrap();
    path
}

fn digest(values: &[f32]) -> u64 {
    let mut power = 1u64;
    values.iter().fold(0, |sum: u64, value| {
        power = power.wrapping_mul(WEYL);
        sum.wrapping_add(u64::from(value.to_bits()).wrapping_mul(power))
    })
}

fn assert_same_shapes(what: &str, found: &Checkpoint, wanted: &List) {
    let found: BTreeMap<&str, Vec<usize>> = found.names().map(|name| (name, found.shape(name).unwrap())).collect();
    for (name, (shape, _)) in wanted {
        assert_eq!(found.get(name.as_str()), Some(shape), "{what}: {name}");
    }
    let more: Vec<_> = found.keys().filter(|name| !wanted.contains_key(**name)).collect();
    assert!(more.is_empty(), "{what}: {more:?}");
}

fn published_config(name: &str) -> Value {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/configs");
    serde_json::from_slice(&std::fs::read(configs.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// Values below `prefix`, without those that no network reads.
fn stored(list: &List, prefix: &str, unread: &[&str]) -> usize {
    list.iter()
        .filter(|(name, _)| name.starts_with(prefix) && !unread.iter().any(|unread| name.contains(unread)))
        .map(|(_, (shape, _))| shape.iter().product::<usize>())
        .sum()
}

use Family::{Flux, Sd15, Sd21, Sdxl};
use Part::{TextEncoder, TextEncoder2, Transformer, Unet, Vae};

#[test]
fn every_published_key_has_one_source_in_the_single_file_and_each_source_is_used() {
    let folder = TempDir::new().unwrap();
    const UNET: &str = "model.diffusion_model.";
    const VAE: &str = "first_stage_model.";
    // part, list of the network, published config, prefix in the file, unused tensors of the file
    type Wanted = (Part, &'static str, &'static str, &'static str, &'static [&'static str]);
    let cases: [(&str, Family, &[Wanted]); 5] = [
        (
            "sd1",
            Sd15,
            &[
                (Unet, "sd1.unet", "sd1_unet", UNET, &[]),
                (Vae, "vae", "sd1_vae", VAE, &[]),
                (TextEncoder, "clip_l", "clip_l", "cond_stage_model.", &["position_ids"]),
            ],
        ),
        (
            "sd2",
            Sd21,
            &[
                (Unet, "sd2.unet", "sd2_unet", UNET, &[]),
                (Vae, "vae", "sd2_vae", VAE, &[]),
                (
                    TextEncoder,
                    "open_clip_h",
                    "open_clip_h",
                    "cond_stage_model.",
                    &["logit_scale", "text_projection", "resblocks.23."],
                ),
            ],
        ),
        (
            "sdxl",
            Sdxl,
            &[
                (Unet, "sdxl.unet", "sdxl_unet", UNET, &[]),
                (Vae, "vae", "sdxl_vae", VAE, &[]),
                (TextEncoder, "clip_l", "clip_l", "conditioner.embedders.0.", &["position_ids"]),
                (TextEncoder2, "open_clip_big_g", "open_clip_big_g", "conditioner.embedders.1.", &["logit_scale"]),
            ],
        ),
        ("flux_dev", Flux, &[(Transformer, "flux_dev.transformer", "flux_dev_transformer", "", &[])]),
        (
            "flux_comfy",
            Flux,
            &[
                (Transformer, "flux_schnell.transformer", "flux_schnell_transformer", UNET, &[]),
                (Vae, "flux.vae", "flux_vae", "vae.", &[]),
                (TextEncoder, "clip_l", "clip_l", "text_encoders.clip_l.", &["logit_scale"]),
                (TextEncoder2, "t5_xxl", "t5_xxl", "text_encoders.t5xxl.", &["logit_scale"]),
            ],
        ),
    ];
    for (name, family, parts) in cases {
        let single = list(&format!("{name}.single"));
        let file = SingleFile::open(&sparse(&folder, &format!("{name}.safetensors"), &single)).unwrap();
        assert_eq!(file.family(), Some(family), "{name}");
        assert_eq!(file.denoiser().unwrap().guidance_embedded, name == "flux_dev");
        assert_eq!(file.parts(), parts.iter().map(|(part, ..)| *part).collect::<Vec<_>>(), "{name}");
        assert!(!file.inpaints().unwrap());
        for (part, keys, published, prefix, unread) in parts {
            let what = format!("{part} of {name}");
            let (config, tensors) = file.part(*part).unwrap();
            let wanted = list(keys);
            assert_same_shapes(&what, &tensors, &wanted);
            assert_eq!(stored(&wanted, "", &[]), stored(&single, prefix, unread), "{what}");
            for (key, value) in published_config(published).as_object().unwrap() {
                assert_eq!(config.get(key), Some(value), "{what}: {key}");
            }
        }
    }
}

#[test]
fn separate_parts_are_found_by_their_bare_names() {
    let folder = TempDir::new().unwrap();
    let clip_whole = {
        let mut whole = list("clip_l");
        whole.insert("vision_model.embeddings.class_embedding".into(), (vec![8], None));
        whole.insert("logit_scale".into(), (vec![], None));
        whole.insert("text_projection.weight".into(), (vec![768, 768], None));
        whole.insert("text_model.embeddings.position_ids".into(), (vec![1, 77], None));
        whole
    };
    for (single, family, part, network) in [
        (list("flux_ae.single"), Flux, Vae, "flux.vae"),
        (list("clip_l"), Flux, TextEncoder, "clip_l"),
        (clip_whole, Sdxl, TextEncoder, "clip_l"),
        (list("open_clip_big_g"), Sdxl, TextEncoder2, "open_clip_big_g"),
        (list("t5_xxl"), Flux, TextEncoder2, "t5_xxl"),
        (list("t5_llama.single"), Flux, TextEncoder2, "t5_xxl"),
    ] {
        let file = SingleFile::open(&sparse(&folder, "part.safetensors", &single)).unwrap();
        assert_eq!(file.family(), None);
        assert!(file.parts().contains(&part), "{network}: {:?}", file.parts());
        assert!(file.part(part).unwrap_err().to_string().contains("no whole model"));
        assert!(file.scheduler_config().is_err());
        let (_, tensors) = file.part_for(family, part).unwrap();
        assert_same_shapes(network, &tensors, &list(network));
    }
    let ae = SingleFile::open(&sparse(&folder, "ae.safetensors", &list("flux_ae.single"))).unwrap();
    let (config, _) = ae.part_for(Flux, Vae).unwrap();
    assert_eq!((&config["scaling_factor"], &config["use_quant_conv"]), (&json!(0.3611), &json!(false)));
    let absent = ae.part_for(Flux, TextEncoder2).unwrap_err().to_string();
    assert!(absent.ends_with("there is no second text encoder of FLUX.1 in this file"), "{absent}");
}

/// The names are tested above. This tests the strictness, and that errors use the file's names.
#[test]
fn t5_of_llama_cpp_is_read_strictly() {
    let folder = TempDir::new().unwrap();
    let part = |keys: &List| SingleFile::open(&sparse(&folder, "t5.gguf", keys)).unwrap().part_for(Flux, TextEncoder2);
    let load = |keys: &List| {
        let (config, tensors) = part(keys)?;
        t5::T5Encoder::new(&serde_json::from_value(config).unwrap(), &Device::flex()).load(tensors, DType::F32)
    };
    let published = list("t5_llama.single");
    // A complete T5 has a decoder too.
    let mut whole = published.clone();
    for name in
        ["dec.blk.0.attn_q.weight", "dec.blk.0.cross_attn_rel_b.weight", "dec.output_norm.weight", "output.weight"]
    {
        whole.insert(name.into(), (vec![8], None));
    }
    let (config, tensors) = part(&whole).unwrap();
    assert_same_shapes("whole T5", &tensors, &list("t5_xxl"));
    for (key, value) in published_config("t5_xxl").as_object().unwrap() {
        assert_eq!(config.get(key), Some(value), "{key}");
    }

    let mut changed = published;
    changed.remove("enc.blk.0.ffn_up.weight").unwrap();
    changed.insert("enc.blk.0.attn_rel_b.bias".into(), (vec![2], None));
    changed.insert("enc.output_norm.weight".into(), (vec![4095], None));
    let error = load(&changed).unwrap_err().to_string();
    for wanted in [
        "1 missing (enc.blk.0.ffn_up.weight)",
        "1 unused (enc.blk.0.attn_rel_b.bias)",
        "1 of the wrong shape (enc.output_norm.weight: [4095] instead of [4096])",
        "taken for the second text encoder of FLUX.1",
    ] {
        assert!(error.contains(wanted), "{error}");
    }
    // T5 of version 1.0 has no gate.
    changed.remove("enc.blk.0.ffn_gate.weight").unwrap();
    let error = load(&changed).unwrap_err().to_string();
    assert!(error.contains("taken for FLUX.1: enc.blk.0.ffn_gate.weight is missing"), "{error}");
}

/// diffusers converted the same values in `key_lists.py`.
#[test]
fn values_are_those_that_diffusers_converts() {
    let folder = TempDir::new().unwrap();
    let cases: [(&str, &[(Part, &str)]); 4] = [
        ("tiny_sd1", &[(Unet, "unet"), (Vae, "vae"), (TextEncoder, "clip")]),
        ("tiny_sd2", &[(Unet, "unet"), (TextEncoder, "open_clip")]),
        ("tiny_sdxl", &[(Unet, "unet"), (TextEncoder, "clip"), (TextEncoder2, "open_clip")]),
        ("tiny_flux", &[(Transformer, "flux")]),
    ];
    for (name, parts) in cases {
        let path = filled(&folder, &format!("{name}.safetensors"), &list(&format!("{name}.single")));
        let file = SingleFile::open(&path).unwrap();
        assert_eq!(file.inpaints().unwrap(), name == "tiny_sd1");
        for (part, keys) in parts {
            let wanted = list(&format!("{name}.{keys}"));
            let (_, tensors) = file.part(*part).unwrap();
            assert_same_shapes(&format!("{part} of {name}"), &tensors, &wanted);
            for (key, (_, wanted)) in wanted {
                assert_eq!(Some(digest(&tensors.read_f32(&key).unwrap())), wanted, "{name}: {key}");
            }
        }
    }
}

#[test]
fn sizes_in_the_configs_are_those_of_the_tensors() {
    let folder = TempDir::new().unwrap();
    let open = |name: &str| SingleFile::open(&sparse(&folder, name, &list(&format!("{name}.single")))).unwrap();
    let xl = open("tiny_sdxl");
    let (config, _) = xl.part(Unet).unwrap();
    for (key, wanted) in [
        ("block_out_channels", json!([32, 64, 64])),
        ("down_block_types", json!(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"])),
        ("up_block_types", json!(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"])),
        ("layers_per_block", json!(1)),
        ("transformer_layers_per_block", json!([1, 2, 3])),
        ("attention_head_dim", json!([1, 1, 1])),
        ("cross_attention_dim", json!(40)),
        ("projection_class_embeddings_input_dim", json!(48)),
    ] {
        assert_eq!(config[key], wanted, "{key}");
    }
    let (config, _) = xl.part(TextEncoder2).unwrap();
    assert_eq!((&config["hidden_size"], &config["projection_dim"]), (&json!(24), &json!(12)));
    let (config, _) = open("tiny_sd1").part(Vae).unwrap();
    assert_eq!((&config["block_out_channels"], &config["layers_per_block"]), (&json!([32, 64]), &json!(1)));
    let (config, _) = open("tiny_sd2").part(TextEncoder).unwrap();
    assert_eq!(config["num_hidden_layers"], json!(23));
}

#[test]
fn older_and_remade_files_are_read_too() {
    let folder = TempDir::new().unwrap();
    // transformers wrote no `text_model.` before 2022.
    let old = list("tiny_sd1.single");
    let old = old.into_iter().map(|(name, shape)| (name.replace(".transformer.text_model.", ".transformer."), shape));
    let file = SingleFile::open(&sparse(&folder, "old.safetensors", &old.collect())).unwrap();
    assert_eq!(file.family(), Some(Sd15));
    assert_same_shapes("old CLIP", &file.part(TextEncoder).unwrap().1, &list("tiny_sd1.clip"));

    // diffusers' script for converting back to ldm omits the last layer and what follows it.
    let mut remade = list("tiny_sd2.single");
    remade.retain(|name, _| !name.contains("resblocks.23.") && !name.ends_with("text_projection"));
    let file = SingleFile::open(&sparse(&folder, "remade.safetensors", &remade)).unwrap();
    assert_same_shapes("remade CLIP", &file.part(TextEncoder).unwrap().1, &list("tiny_sd2.open_clip"));

    // Some user interfaces store the projection as a linear layer, which must not be transposed.
    let mut linear = list("tiny_sdxl.single");
    linear.remove("conditioner.embedders.1.model.text_projection").unwrap();
    linear.insert("conditioner.embedders.1.model.text_projection.weight".into(), (vec![12, 24], None));
    let file = SingleFile::open(&sparse(&folder, "linear.safetensors", &linear)).unwrap();
    let (config, tensors) = file.part(TextEncoder2).unwrap();
    assert_eq!(config["projection_dim"], 12);
    assert_same_shapes("linear projection", &tensors, &list("tiny_sdxl.open_clip"));

    // FLUX.1-Fill: latents, those of the masked picture, and the mask
    let mut fill = list("tiny_flux.single");
    fill.insert("img_in.weight".into(), (vec![3072, 24], None));
    let refused = SingleFile::open(&sparse(&folder, "fill.safetensors", &fill)).unwrap_err().to_string();
    assert!(refused.contains("FLUX.1 Fill"), "{refused}");
}

#[test]
fn scales_beside_weights_are_multiplied_in() {
    let folder = TempDir::new().unwrap();
    let plain = list("tiny_flux.single");
    let mut scaled = plain.clone();
    scaled.insert("scaled_fp8".into(), (vec![2], None));
    for (layer, leaf) in [("double_blocks.0.img_attn.qkv", "scale_weight"), ("txt_in", "weight_scale")] {
        scaled.insert(format!("{layer}.{leaf}"), (vec![], None));
        scaled.insert(format!("{layer}.scale_input"), (vec![], None));
    }
    let open = |name: &str, keys: &List| SingleFile::open(&filled(&folder, name, keys)).unwrap();
    let (_, plain) = open("plain.safetensors", &plain).part(Transformer).unwrap();
    let file = open("scaled.safetensors", &scaled);
    let (_, scaled) = file.part(Transformer).unwrap();
    assert!(plain.names().eq(scaled.names()));
    let whole = Checkpoint::open(&folder.path().join("scaled.safetensors")).unwrap();
    for (ours, scale) in [
        ("transformer_blocks.0.attn.to_k.weight", "double_blocks.0.img_attn.qkv.scale_weight"),
        ("context_embedder.weight", "txt_in.weight_scale"),
    ] {
        let scale = whole.read_f32(scale).unwrap()[0];
        let wanted: Vec<f32> = plain.read_f32(ours).unwrap().iter().map(|value| value * scale).collect();
        assert_eq!(scaled.read_f32(ours).unwrap(), wanted, "{ours}");
    }
    let bias = "transformer_blocks.0.attn.to_k.bias";
    assert_eq!(scaled.read_f32(bias).unwrap(), plain.read_f32(bias).unwrap());
}

#[test]
fn schedulers_predict_what_the_family_was_trained_for() {
    let folder = TempDir::new().unwrap();
    let prediction = |name: &str, metadata: &str, more: &[(&str, usize)]| {
        let mut keys = list(&format!("{name}.single"));
        if name == "tiny_sd1" {
            keys.retain(|name, _| !name.starts_with("cond_stage_model"));
        }
        for (name, channels) in more {
            keys.insert((*name).to_owned(), (vec![32, *channels, 3, 3], None));
        }
        let file = SingleFile::open(&sparse_with(&folder, "one.safetensors", &keys, metadata)).unwrap();
        file.scheduler_config().unwrap()["prediction_type"].clone()
    };
    let first = "model.diffusion_model.input_blocks.0.0.weight";
    assert_eq!(prediction("tiny_sd1", "", &[]), Value::Null);
    assert_eq!(prediction("tiny_sd2", "", &[]), "v_prediction");
    assert_eq!(prediction("tiny_sd2", r#""modelspec.prediction_type":"epsilon""#, &[]), "epsilon");
    assert_eq!(prediction("tiny_sd2", "", &[(first, 9)]), "epsilon");
    assert_eq!(prediction("tiny_sdxl", "", &[]), "epsilon");
    assert_eq!(prediction("tiny_sdxl", "", &[("v_pred", 0)]), "v_prediction");
    assert_eq!(prediction("tiny_flux", "", &[]), Value::Null);
}

#[test]
fn a_part_loads_strictly_and_errors_speak_the_language_of_the_file() {
    let folder = TempDir::new().unwrap();
    let load = |keys: &List| {
        let file = SingleFile::open(&filled(&folder, "one.safetensors", keys)).unwrap();
        let (config, tensors) = file.part(Vae)?;
        let config: vae::Config = serde_json::from_value(config).unwrap();
        config.check().map_err(diffusion::Error::Invalid)?;
        load_strict(vae::Autoencoder::new(&config, &Device::flex()), &tensors, DType::F32)
    };
    let whole = list("tiny_sd1.single");
    load(&whole).unwrap();

    let mut changed = whole.clone();
    changed.remove("first_stage_model.encoder.mid.attn_1.q.weight").unwrap();
    changed.insert("first_stage_model.encoder.mid.attn_1.rel_pos".into(), (vec![2], None));
    changed.insert("first_stage_model.decoder.mid.block_2.conv1.bias".into(), (vec![63], None));
    let error = load(&changed).unwrap_err().to_string();
    for wanted in [
        "1 missing (first_stage_model.encoder.mid.attn_1.q.weight)",
        "1 unused (first_stage_model.encoder.mid.attn_1.rel_pos)",
        "1 of the wrong shape (first_stage_model.decoder.mid.block_2.conv1.bias: [63] instead of [64])",
        "taken for the autoencoder of Stable Diffusion 1.5",
    ] {
        assert!(error.contains(wanted), "{error}");
    }

    let mut headless = whole;
    headless.remove("first_stage_model.encoder.conv_in.weight").unwrap();
    let error = load(&headless).unwrap_err().to_string();
    assert!(error.contains("Stable Diffusion 1.5: first_stage_model.encoder.conv_in.weight is missing"), "{error}");
}

#[test]
fn a_fused_tensor_is_missed_once() {
    let folder = TempDir::new().unwrap();
    let load = |keys: &List| {
        let file = SingleFile::open(&filled(&folder, "one.safetensors", keys)).unwrap();
        let (config, tensors) = file.part(TextEncoder).unwrap();
        let config: clip::Config = serde_json::from_value(config).unwrap();
        clip::ClipTextModel::new(&config, &Device::flex()).load(tensors, DType::F32)
    };
    let mut keys = list("tiny_sd2.single");
    load(&keys).unwrap();
    let fused = "cond_stage_model.model.transformer.resblocks.7.attn.in_proj_weight";
    keys.remove(fused).unwrap();
    let error = load(&keys).unwrap_err().to_string();
    assert!(error.contains(&format!("1 missing ({fused}); the file was taken for the text encoder of")), "{error}");
}

#[test]
fn what_does_not_run_here_is_named() {
    let folder = TempDir::new().unwrap();
    let named = |keys: &[(&str, &[usize])]| {
        let keys = keys.iter().map(|(name, shape)| ((*name).to_owned(), (shape.to_vec(), None))).collect();
        SingleFile::open(&sparse(&folder, "one.safetensors", &keys)).unwrap_err().to_string()
    };
    let first = "model.diffusion_model.input_blocks.0.0.weight";
    let label = "model.diffusion_model.label_emb.0.0.weight";
    type Keys<'a> = &'a [(&'a str, &'a [usize])];
    let cases: [(Keys, &str); 20] = [
        (&[("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", &[4, 8])], "LoRA"),
        (&[("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", &[4, 8])], "LoRA"),
        (&[("control_model.input_blocks.0.0.weight", &[4, 4])], "ControlNet"),
        (&[("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", &[4, 4])], "Stable Diffusion 3"),
        (&[("double_blocks.0.img_attn.qkv.weight", &[4]), ("single_stream_modulation.lin.weight", &[4])], "FLUX.2"),
        (&[("double_blocks.0.img_attn.qkv.weight", &[4]), ("distilled_guidance_layer.x", &[4])], "Chroma"),
        (&[("double_blocks.0.img_attn_qkv.weight", &[4]), ("img_in.proj.weight", &[4])], "HunyuanVideo"),
        (&[("blocks.0.cross_attn.q.weight", &[4]), ("head.modulation", &[4])], "Wan"),
        (&[("transformer_blocks.0.img_mod.1.weight", &[4])], "Qwen-Image"),
        (&[("blk.0.attn_q.weight", &[4]), ("token_embd.weight", &[4])], "language model"),
        (&[("v.blk.0.attn_q.weight", &[4])], "image encoder in llama.cpp's names"),
        (&[("vision_model.embeddings.class_embedding", &[4])], "image encoder"),
        (&[("double_blocks.0.img_mlp.0.weight.quant_state.bitsandbytes__nf4", &[4])], "bitsandbytes"),
        (&[("double_blocks.0.img_mlp.0.weight_scale_2", &[])], "NVFP4"),
        (&[(first, &[32, 4, 3, 3]), (label, &[4, 4]), ("conditioner.embedders.0.model.x", &[4])], "refiner"),
        (&[(first, &[32, 8, 3, 3])], "InstructPix2Pix"),
        (&[(first, &[32, 5, 3, 3])], "depth"),
        (&[(first, &[32, 6, 3, 3])], "neither 4 nor 9"),
        (&[("down_blocks.0.resnets.0.conv1.weight", &[4]), ("conv_in.weight", &[4])], "layout of folders"),
        (
            &[("some.tensor", &[4]), ("another", &[4])],
            "no model that is known here, with the tensors another, some.tensor",
        ),
    ];
    for (keys, wanted) in cases {
        let error = named(keys);
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains("; "), "{error} has no advice");
    }
}
