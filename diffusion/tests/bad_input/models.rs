//! Checkpoints with one fault each. Loading reports it with the names of the file and the tensor.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{golden, load};

/// A copy of a tiny pipeline.
pub(super) fn copied(name: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() { copy(&from, &to) } else { std::fs::copy(from, to).map(drop).unwrap() }
        }
    }
    let folder = TempDir::new().unwrap();
    copy(&golden(name), folder.path());
    folder
}

/// The header of a file and the offset of its data.
fn header(file: &[u8]) -> (BTreeMap<String, Value>, usize) {
    let end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..end]).unwrap(), end)
}

/// A file with the same data and a different header.
fn with_header(header: &BTreeMap<String, Value>, data: &[u8]) -> Vec<u8> {
    let text = serde_json::to_vec(header).unwrap();
    [&(text.len() as u64).to_le_bytes()[..], &text, data].concat()
}

/// The error of a pipeline after one file was changed.
fn refused(pipeline: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
    let folder = copied(pipeline);
    let path = folder.path().join(file);
    std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
    load(folder.path()).map_or_else(|error| error.to_string(), |_| "loaded".to_owned())
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

#[test]
fn a_shard_that_is_cut_off_is_named() {
    let shards = std::fs::read_dir(golden("flux-tiny/transformer")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut shards: Vec<String> = shards.map(|name| name.to_str().unwrap().to_owned()).collect();
    shards.retain(|name| name.ends_with(".safetensors"));
    assert!(shards.len() > 1, "{shards:?}");
    for shard in shards {
        let file = format!("transformer/{shard}");
        let data = refused("flux-tiny", &file, |bytes| bytes[..bytes.len() - 1].to_vec());
        assert!(data.contains(&file) && data.contains("cut off"), "{data}");
        let header = refused("flux-tiny", &file, |bytes| bytes[..100].to_vec());
        assert!(header.contains(&file) && header.contains("ends within its header"), "{header}");
        let empty = refused("flux-tiny", &file, |_| Vec::new());
        assert!(empty.contains(&file) && empty.contains("0 bytes"), "{empty}");
    }
}

#[test]
fn values_that_are_no_numbers_are_named_and_make_no_black_picture() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (file, name) in [
            (UNET, "mid_block.resnets.0.conv1.weight"),
            ("text_encoder/model.safetensors", "text_model.final_layer_norm.bias"),
        ] {
            let error = refused("sd15-tiny", file, |mut bytes| {
                let (header, data) = header(&bytes);
                let end = data + header[name]["data_offsets"][1].as_u64().unwrap() as usize;
                bytes[end - 4..end].copy_from_slice(&value.to_le_bytes());
                bytes
            });
            assert!(error.contains(&format!("{name} has values that are NaN or infinite")), "{error}");
            assert!(error.contains(file.split('/').next().unwrap()), "{error}");
        }
    }
}

#[test]
fn a_dtype_that_weights_do_not_have_is_named() {
    let name = "conv_in.bias";
    for dtype in ["I32", "U32"] {
        let error = refused("sd15-tiny", UNET, |bytes| {
            let (mut header, data) = header(&bytes);
            header.get_mut(name).unwrap()["dtype"] = json!(dtype);
            with_header(&header, &bytes[data..])
        });
        assert!(error.contains(name) && error.contains(dtype), "{error}");
    }
    let lies = refused("sd15-tiny", UNET, |bytes| {
        let (mut header, data) = header(&bytes);
        header.get_mut(name).unwrap()["dtype"] = json!("F16");
        with_header(&header, &bytes[data..])
    });
    assert!(lies.contains(name) && lies.contains("claims the bytes"), "{lies}");
}

#[test]
fn a_config_that_contradicts_the_tensors_is_refused_by_what_differs() {
    let changed = |pipeline: &str, file: &str, field: &str, value: Value| {
        refused(pipeline, file, |bytes| {
            let mut config: Value = serde_json::from_slice(&bytes).unwrap();
            config[field] = value.clone();
            serde_json::to_vec(&config).unwrap()
        })
    };
    for (pipeline, file, field, value, told) in [
        ("sd15-tiny", "unet/config.json", "layers_per_block", json!(1), "unused"),
        ("sd15-tiny", "unet/config.json", "layers_per_block", json!(3), "missing"),
        ("sd15-tiny", "unet/config.json", "block_out_channels", json!([4, 6, 12]), "of the wrong shape"),
        ("sd15-tiny", "unet/config.json", "cross_attention_dim", json!(14), "of the wrong shape"),
        ("sd15-tiny", "unet/config.json", "in_channels", json!(5), "5 to 4 channels"),
        ("sd15-tiny", "unet/config.json", "in_channels", json!(-4), "invalid value"),
        ("sd15-tiny", "unet/config.json", "norm_num_groups", json!(0), "norm_num_groups"),
        ("sd15-tiny", "text_encoder/config.json", "num_hidden_layers", json!(2), "unused"),
        ("sd15-tiny", "text_encoder/config.json", "vocab_size", json!(10), "knows"),
        ("sd15-tiny", "vae/config.json", "latent_channels", json!(8), "channels for 8 latents"),
        ("sd15-tiny", "vae/config.json", "latents_std", json!([1.0]), "no autoencoder has this shape"),
        (
            "sdxl-tiny",
            "unet/config.json",
            "projection_class_embeddings_input_dim",
            json!(80),
            "[16, 74] instead of [16, 80]",
        ),
        ("flux-tiny", "transformer/config.json", "pooled_projection_dim", json!(9), "do not agree"),
        ("flux-tiny", "transformer/config.json", "num_layers", json!(5), "missing"),
        ("flux-tiny", "transformer/config.json", "guidance_embeds", json!(false), "unused"),
        ("flux-tiny", "text_encoder_2/config.json", "num_layers", json!(1), "unused"),
    ] {
        let error = changed(pipeline, file, field, value);
        assert!(error.contains(told), "{pipeline} {file} {field}: {error}");
    }
}
