//! The UNet against diffusers' `UNet2DConditionModel`, in each published shape.
//!
//! Tolerance: relative L2 error 2e-6; f32 summed in a different order gives about 7e-7. An epsilon of 1e-5 instead of
//! 1e-6 would cause an error of 3e-6 to 1e-5 and must be detected.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{Checkpoint, load_strict};
use diffusion::networks::unet::{self, AddedConditions, UNet2DConditionModel};

use crate::golden::{self, Golden, device, path, values};

const TOLERANCE: f64 = 2e-6;

/// One call with the inputs named `unet.{name}.in.…`.
pub(crate) fn call(unet: &UNet2DConditionModel, golden: &Golden, name: &str) -> Tensor<4> {
    let name = |input: &str| format!("unet.{name}.in.{input}");
    let timestep: Vec<f64> = golden.values(&name("timestep")).iter().map(|time| f64::from(*time)).collect();
    let added = golden.has(&name("text_embeds")).then(|| AddedConditions {
        text_embeds: golden.tensor(&name("text_embeds"), &device()),
        time_ids: golden.values(&name("time_ids")).chunks(6).map(<[f32]>::to_vec).collect(),
    });
    let guidance = name("timestep_cond");
    let guidance = golden.has(&guidance).then(|| golden.tensor(&guidance, &device()));
    let text = golden.tensor(&name("encoder_hidden_states"), &device());
    unet.forward(golden.tensor(&name("sample"), &device()), &timestep, text, added, guidance)
}

fn check(pipeline: &str) {
    let golden = Golden::open(&format!("{pipeline}/reference"));
    let unet = golden::unet(pipeline, &device());
    for name in ["even", "odd"] {
        golden.check(&format!("unet.{name}.out"), call(&unet, &golden, name), TOLERANCE);
    }
}

#[test]
fn stable_diffusion_1() {
    check("sd15-tiny");
}

#[test]
fn nine_channels_for_inpainting() {
    check("sd15-inpaint-tiny");
}

#[test]
fn stable_diffusion_2_with_heads_by_level() {
    check("sd21-tiny");
}

#[test]
fn stable_diffusion_xl_has_size_conditions() {
    check("sdxl-tiny");
}

#[test]
fn an_embedded_guidance_scale_and_settings_by_level() {
    check("lcm-tiny");
}

#[test]
fn one_time_for_all_is_the_same_time_for_each() {
    let golden = Golden::open("sd15-tiny/reference");
    let unet = golden::unet("sd15-tiny", &device());
    let sample = golden.tensor::<4>("unet.odd.in.sample", &device());
    let text = golden.tensor::<3>("unet.odd.in.encoder_hidden_states", &device());
    let forward = |times: &[f64]| values(unet.forward(sample.clone(), times, text.clone(), None, None));
    assert_eq!(forward(&[500.0]), forward(&[500.0, 500.0]));
    assert_ne!(forward(&[500.0]), forward(&[501.0]));
}

#[test]
fn adapters_find_every_layer_by_its_key() {
    for pipeline in ["sd15-tiny", "sdxl-tiny", "lcm-tiny"] {
        let keys = Checkpoint::open(&path(pipeline).join("unet")).unwrap();
        let layers = |convolution: bool| {
            let matrix = |shape: &[usize]| shape.len() == 2 || shape.ends_with(&[1, 1]);
            keys.names()
                .filter_map(|key| Some((key.strip_suffix(".weight")?, keys.shape(key).unwrap())))
                .filter(|(path, shape)| {
                    // A 1×1 shortcut is a convolution here too; the projections around transformers are matrices.
                    shape.len() > 1 && convolution == (!matrix(shape) || path.ends_with("conv_shortcut"))
                })
                .map(|(path, _)| path.to_owned())
                .collect::<BTreeSet<_>>()
        };
        let mut unet = golden::unet(pipeline, &device());
        let linears: BTreeSet<_> = unet.linears().into_iter().map(|(path, _)| path).collect();
        let convolutions: BTreeSet<_> = unet.convolutions().into_iter().map(|(path, _)| path).collect();
        assert_eq!(linears, layers(false), "{pipeline}");
        assert_eq!(convolutions, layers(true), "{pipeline}");
    }
}

/// Counts parameters without allocating them.
#[derive(Default)]
struct Count {
    tensors: usize,
    values: usize,
}

impl ModuleVisitor for Count {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.tensors += 1;
        self.values += param.lazy_shape().num_elements();
    }
}

/// The counts of diffusers 0.42.1 for the published configs.
#[test]
fn full_size_has_as_many_parameters_as_published() {
    let stable_diffusion_1 = r#"{"cross_attention_dim": 768}"#;
    let inpainting = r#"{"cross_attention_dim": 768, "in_channels": 9}"#;
    let stable_diffusion_2 =
        r#"{"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true}"#;
    let xl = r#"{
        "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "use_linear_projection": true,
        "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}"#;
    for (config, tensors, values) in [
        (stable_diffusion_1, 686, 859_520_964),
        (inpainting, 686, 859_535_364),
        (stable_diffusion_2, 686, 865_910_724),
        (xl, 1680, 2_567_463_684),
    ] {
        let config: unet::Config = serde_json::from_str(config).unwrap();
        config.check().unwrap();
        let mut count = Count::default();
        UNet2DConditionModel::new(&config, &device()).visit(&mut count);
        assert_eq!((count.tensors, count.values), (tensors, values), "{config:?}");
    }
}

#[test]
fn a_unet_of_another_shape_is_refused_by_its_first_keys() {
    let network = UNet2DConditionModel::new(&golden::config("sdxl-tiny", "unet/config.json"), &device());
    let keys = Checkpoint::open(&path("sd15-tiny").join("unet")).unwrap();
    let error = load_strict(network, &keys, DType::F32).unwrap_err().to_string();
    assert!(error.contains("missing (add_embedding.linear_1.bias, add_embedding.linear_1.weight"), "{error}");
}
