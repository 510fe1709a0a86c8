//! Adapters that change norms, and the strength that a file or its config states, beside the same model with densely
//! changed weights: the pictures are the same, value by value, since both compute in f32.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use diffusion::{LoraFile, PictureRequest, Pipeline};
use formats::Sniffer;
use image::RgbImage;
use tempfile::TempDir;

use crate::golden::{device, path};

/// A tensor of f32: name, shape, values.
type Values = (String, Vec<usize>, Vec<f32>);

fn written(path: &Path, tensors: &[Values], metadata: &str) {
    let (mut entries, mut data) = (vec![format!(r#""__metadata__":{metadata}"#)], Vec::new());
    for (name, shape, values) in tensors {
        let from = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        entries.push(format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{from},{}]}}"#, data.len()));
    }
    let header = format!("{{{}}}", entries.join(","));
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &target);
        } else {
            let _ = fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Changes a tensor in one of the files of a network's folder; returns its width.
fn change(folder: &Path, name: &str, change: impl Fn(usize, f32) -> f32) -> usize {
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = fs::read(&file).unwrap();
        let mut sniffer = Sniffer::default();
        if sniffer.push(&bytes).is_err() {
            continue;
        }
        let Ok(header) = sniffer.finish(bytes.len() as u64) else { continue };
        let Some(tensor) = header.tensors.get(name) else { continue };
        let mut bytes = bytes;
        let (start, count) = (tensor.start as usize, tensor.length / 4);
        for at in 0..count {
            let place = start + 4 * at..start + 4 * at + 4;
            let value = f32::from_le_bytes(bytes[place.clone()].try_into().unwrap());
            bytes[place].copy_from_slice(&change(at, value).to_le_bytes());
        }
        fs::write(&file, bytes).unwrap();
        return count;
    }
    panic!("no {name} in {}", folder.display());
}

fn picture(pipeline: &Pipeline) -> RgbImage {
    let request = PictureRequest { width: 32, height: 32, num_inference_steps: 2, ..pipeline.request("a red fox", 7) };
    pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap().remove(0)
}

fn delta(at: usize) -> f32 {
    0.25 * ((at % 5) as f32 - 2.0) + 0.125
}

/// The folder and name of a norm's parameter, and the adapter's name for its difference.
type Norm = (&'static str, &'static str, &'static str);

const NORMS: [(&str, &[Norm]); 2] = [
    (
        "sd15-tiny",
        &[
            (
                "unet",
                "mid_block.attentions.0.transformer_blocks.0.norm1.weight",
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm1.w_norm",
            ),
            (
                "unet",
                "mid_block.attentions.0.transformer_blocks.0.norm1.bias",
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm1.b_norm",
            ),
            ("unet", "mid_block.attentions.0.norm.weight", "diffusion_model.middle_block.1.norm.diff"),
            ("unet", "mid_block.resnets.0.norm1.weight", "diffusion_model.middle_block.0.in_layers.0.diff"),
            ("unet", "mid_block.resnets.0.norm2.bias", "diffusion_model.middle_block.0.out_layers.0.diff_b"),
            ("unet", "conv_norm_out.weight", "diffusion_model.out.0.diff"),
            (
                "text_encoder",
                "text_model.encoder.layers.0.layer_norm1.weight",
                "text_encoders.clip_l.transformer.text_model.encoder.layers.0.layer_norm1.diff",
            ),
            ("text_encoder", "text_model.final_layer_norm.bias", "lora_te_text_model_final_layer_norm.b_norm"),
        ],
    ),
    (
        "flux-tiny",
        &[
            (
                "transformer",
                "transformer_blocks.0.attn.norm_k.weight",
                "diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale.diff",
            ),
            (
                "transformer",
                "transformer_blocks.0.attn.norm_added_q.weight",
                "diffusion_model.double_blocks.0.txt_attn.norm.query_norm.diff",
            ),
            (
                "transformer",
                "single_transformer_blocks.0.attn.norm_q.weight",
                "lora_unet_single_blocks_0_norm_query_norm.w_norm",
            ),
            (
                "text_encoder_2",
                "encoder.block.0.layer.0.layer_norm.weight",
                "lora_te3_encoder_block_0_layer_0_layer_norm.w_norm",
            ),
            ("text_encoder_2", "encoder.final_layer_norm.weight", "lora_te3_encoder_final_layer_norm.w_norm"),
        ],
    ),
];

#[test]
fn differences_of_norms_are_those_of_densely_changed_weights() {
    for (model, norms) in NORMS {
        let folder = TempDir::new().unwrap();
        let mut pipeline = Pipeline::load(&path(model), &device()).unwrap();
        let base = picture(&pipeline);
        for only in norms.iter().map(std::slice::from_ref).chain([norms]) {
            let dense = folder.path().join("dense");
            let _ = fs::remove_dir_all(&dense);
            copied(&path(model), &dense);
            let mut tensors = Vec::new();
            for (part, parameter, name) in only {
                let width = change(&dense.join(part), parameter, |at, value| value + delta(at));
                tensors.push(((*name).to_owned(), vec![width], (0..width).map(delta).collect()));
            }
            let file = folder.path().join("norms.safetensors");
            written(&file, &tensors, "{}");
            let lora = LoraFile::open(&file).unwrap();
            assert_eq!(lora.warnings(), Vec::<String>::new(), "{only:?}");
            let expected = picture(&Pipeline::load(&dense, &device()).unwrap());
            let report = pipeline.attach(&[(&lora, 1.0)]).unwrap().remove(0);
            assert_eq!(report.unmatched, Vec::<String>::new(), "{only:?}");
            assert_eq!(picture(&pipeline), expected, "{only:?}");
            assert_ne!(expected, base, "{only:?} changes something");
            let zeros: Vec<Values> = tensors
                .iter()
                .map(|(name, shape, values)| (name.clone(), shape.clone(), vec![0.0; values.len()]))
                .collect();
            written(&file, &zeros, "{}");
            pipeline.attach(&[(&LoraFile::open(&file).unwrap(), 1.0)]).unwrap();
            assert_eq!(picture(&pipeline), base, "zeros change nothing");
            pipeline.attach(&[]).unwrap();
            assert_eq!(picture(&pipeline), base, "bit by bit");
        }
    }
}

/// Rank 4 and alpha 16, wherever it is stated: four times the product of the factors.
#[test]
fn alpha_has_its_effect_wherever_it_is_stated() {
    let model = "sd15-tiny";
    let module = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0";
    let (down, up): (Vec<f32>, Vec<f32>) = (
        (0..40).map(|at| ((at * 7 % 13) as f32 - 6.0) / 8.0).collect(),
        (0..40).map(|at| ((at * 5 % 11) as f32 - 5.0) / 16.0).collect(),
    );
    let factors = |scale: f32| -> Vec<Values> {
        vec![
            (format!("base_model.model.{module}.lora_A.weight"), vec![4, 10], down.clone()),
            (
                format!("base_model.model.{module}.lora_B.weight"),
                vec![10, 4],
                up.iter().map(|value| value * scale).collect(),
            ),
        ]
    };
    let folder = TempDir::new().unwrap();
    let dense = folder.path().join("dense");
    copied(&path(model), &dense);
    change(&dense.join("unet"), &format!("{module}.weight"), |at, value| {
        let (row, column) = (at / 10, at % 10);
        value + 4.0 * (0..4).map(|rank| up[row * 4 + rank] * down[rank * 10 + column]).sum::<f32>()
    });
    let dense = picture(&Pipeline::load(&dense, &device()).unwrap());
    let mut pipeline = Pipeline::load(&path(model), &device()).unwrap();
    let base = picture(&pipeline);
    let near = |one: &RgbImage, other: &RgbImage| {
        one.as_raw().iter().zip(other.as_raw()).all(|(one, other)| one.abs_diff(*other) <= 1)
    };
    let mut with = |scale: f32, header: &str, config: Option<&str>, alpha: Option<f32>| {
        let file = folder.path().join("adapter_model.safetensors");
        let mut tensors = factors(scale);
        tensors.extend(alpha.map(|alpha| (format!("base_model.model.{module}.alpha"), vec![], vec![alpha])));
        written(&file, &tensors, header);
        let beside = file.with_file_name("adapter_config.json");
        match config {
            Some(config) => fs::write(beside, config).unwrap(),
            None => drop(fs::remove_file(beside)),
        }
        let lora = LoraFile::open(&file).unwrap();
        pipeline.attach(&[(&lora, 1.0)]).unwrap();
        (picture(&pipeline), lora.warnings().to_vec())
    };
    let (lost, warnings) = with(1.0, "{}", None, None);
    assert_eq!(warnings, ["alpha is not in the file; taken as the rank"]);
    assert!(!near(&lost, &dense) && !near(&base, &dense), "the strength matters");
    for (what, header, config, alpha) in [
        ("a tensor", "{}", None, Some(16.0)),
        ("the config beside", "{}", Some(r#"{"r": 4, "lora_alpha": 16, "alpha_pattern": {}}"#), None),
        (
            "a pattern",
            "{}",
            Some(r#"{"r": 4, "lora_alpha": 1, "alpha_pattern": {".*attn2\\.to_out\\.\\d": 16}}"#),
            None,
        ),
        ("the root of the rank", "{}", Some(r#"{"r": 4, "lora_alpha": 8, "use_rslora": true}"#), None),
        ("a field", r#"{"lora_alpha": "16"}"#, None, None),
        ("a field of its network", r#"{"unet.lora_alpha": "16", "unet.r": "4"}"#, None, None),
        ("sd-scripts", r#"{"ss_network_alpha": "16.0"}"#, None, None),
        ("another field", r#"{"network_alpha": "16"}"#, None, None),
        ("a config in the header", r#"{"config": "{\"lora_alpha\": 16}"}"#, None, None),
        ("diffusers", r#"{"lora_adapter_metadata": "{\"unet.lora_alpha\": 16}"}"#, None, None),
    ] {
        let (seen, warnings) = with(1.0, header, config, alpha);
        assert!(near(&seen, &dense), "{what}");
        assert_eq!(warnings, Vec::<String>::new(), "{what}");
    }
    let (multiplied, _) = with(4.0, "{}", None, None);
    assert!(near(&multiplied, &dense));
}
