//! Memory options: packed weights and unloaded text encoders. Packing changes a model slightly, within stated bounds,
//! and nothing else. Unloading changes nothing, bit for bit.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ::image::RgbImage;
use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use diffusion::checkpoint::{Checkpoint, load_strict, save};
use diffusion::layers::Linear;
use diffusion::lora::{self, Factors, Network, Target};
use diffusion::networks::flux::{FluxInput, FluxTransformer};
use diffusion::networks::unet::UNet2DConditionModel;
use diffusion::{Error, LoadOptions, LoraFile, PictureRequest, Pipeline, WeightStorage};

use crate::golden::{device, path, relative_error, values};

/// Largest effect of packing on a denoiser's output. The error of a weight (5e-3 in 8 bits, 8e-2 in 4) accumulates
/// over the layers: 1.2e-2 and 1.6e-1 were measured for FLUX with ember's trained weights, 1.2e-2 and 1.9e-1 for a
/// random UNet.
const BOUNDS: [(WeightStorage, f64); 2] = [(WeightStorage::Int8, 2e-2), (WeightStorage::Int4, 2.5e-1)];

fn normal<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    device().seed(7);
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device())
}

/// Packs the layers inside of a denoiser's blocks.
fn store(linears: Vec<(String, &mut Linear)>, storage: WeightStorage) {
    let inside = linears.into_iter().filter(|(path, _)| path.contains("block"));
    inside.for_each(|(_, linear)| linear.store(storage, &device()));
}

/// Unpacks the weights: the same values at full width.
fn widen(linears: Vec<(String, &mut Linear)>) -> usize {
    let packed = linears.into_iter().filter(|(_, linear)| linear.weight.storage() != WeightStorage::Full);
    packed.map(|(_, linear)| linear.weight = Param::from_tensor(linear.weight.value(DType::F32)).into()).count()
}

fn ember() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ember")
}

fn transformer(storage: WeightStorage) -> FluxTransformer {
    let folder = ember().join("transformer");
    let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let mut network = FluxTransformer::new(&config, &device());
    store(network.linears(), storage);
    load_strict(network, &Checkpoint::open(&folder).unwrap(), DType::F32).unwrap()
}

fn velocity(network: &FluxTransformer) -> Vec<f32> {
    let input = FluxInput {
        hidden: normal([1, 16, 128]),
        encoder_hidden: normal([1, 8, 128]),
        pooled: normal([1, 128]),
        timestep: vec![0.5],
        guidance: None,
    };
    values(network.forward(input, &network.rotary(8, 4, 4, &device())))
}

#[test]
fn a_packed_flux_is_near_the_full_one_and_takes_adapters() {
    let full = velocity(&transformer(WeightStorage::Full));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lora.safetensors");
    let factors = Factors {
        path: "single_transformer_blocks.1.attn.to_q".into(),
        down: normal([4, 192]),
        up: normal([192, 4]) * 0.1,
        scale: 1.0,
    };
    lora::save(&file, &[factors], DType::F32, &BTreeMap::new()).unwrap();
    let lora = LoraFile::open(&file).unwrap();
    for (storage, bound) in BOUNDS {
        let mut network = transformer(storage);
        let packed = velocity(&network);
        let error = relative_error(&packed, &full);
        println!("FLUX in {storage}: relative error {error:.1e}");
        assert!(error <= bound && error > bound / 100.0, "{storage}: {error:.1e}");

        lora::attach(&mut [Target::from(&mut network)], &[(&lora, 1.0)], &device()).unwrap();
        let adapted = velocity(&network);
        assert!(relative_error(&adapted, &packed) > 1e-3, "the adapter does something");
        let merged = lora::merge(&mut [Target::from(&mut network)], &[(&lora, 1.0)]);
        assert!(matches!(merged, Err(Error::Invalid(_))), "packed weights are not packed twice");

        assert!(widen(network.linears()) > 50);
        let error = relative_error(&adapted, &velocity(&network));
        assert!(error <= 1e-6, "{storage} against the same values in f32: {error:.1e}");
    }
}

#[test]
fn a_packed_unet_is_near_the_full_one() {
    let config = r#"{"block_out_channels": [32, 64], "attention_head_dim": 4, "cross_attention_dim": 32,
        "layers_per_block": 1, "norm_num_groups": 8, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}"#;
    let network = || UNet2DConditionModel::new(&serde_json::from_str(config).unwrap(), &device());
    let mut random = network();
    let layers = random.layers();
    for (number, (_, linear)) in layers.linears.into_iter().enumerate() {
        device().seed(number as u64);
        let [outputs, inputs] = linear.weight.dims();
        let spread = Distribution::Normal(0.0, (inputs as f64).powf(-0.5));
        linear.weight = Param::from_tensor(Tensor::random([outputs, inputs], spread, &device())).into();
    }
    for (number, (_, convolution)) in layers.convolutions.into_iter().enumerate() {
        device().seed(1000 + number as u64);
        let shape: [usize; 4] = convolution.weight.lazy_shape().dims();
        let spread = Distribution::Normal(0.0, ((shape[1] * shape[2] * shape[3]) as f64).powf(-0.5));
        convolution.weight = Param::from_tensor(Tensor::random(shape, spread, &device()));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unet.safetensors");
    save(&random, &file, DType::F32, &BTreeMap::new()).unwrap();
    let load = |storage| {
        let mut network = network();
        store(network.linears(), storage);
        load_strict(network, &Checkpoint::open(&file).unwrap(), DType::F32).unwrap()
    };
    let answer = |network: &UNet2DConditionModel| {
        values(network.forward(normal([1, 4, 8, 8]), &[500.0], normal([1, 7, 32]), None, None))
    };
    let full = answer(&load(WeightStorage::Full));
    for (storage, bound) in BOUNDS {
        let mut network = load(storage);
        let packed = answer(&network);
        let error = relative_error(&packed, &full);
        println!("UNet in {storage}: relative error {error:.1e}");
        assert!(error <= bound && error > bound / 100.0, "{storage}: {error:.1e}");
        assert!(widen(network.linears()) > 20);
        let error = relative_error(&packed, &answer(&network));
        assert!(error <= 1e-6, "{storage} against the same values in f32: {error:.1e}");
    }
}

fn pictures(pipeline: &Pipeline, request: &PictureRequest) -> diffusion::Result<Vec<RgbImage>> {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(()))
}

fn request(pipeline: &Pipeline, prompt: &str) -> PictureRequest {
    PictureRequest { width: 32, height: 32, num_inference_steps: 2, ..pipeline.request(prompt, 3) }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { assert!(std::fs::copy(from, to).is_ok()) }
    }
}

const AWAY: LoadOptions = LoadOptions { weights: WeightStorage::Full, keep_text_encoders: false };

#[test]
fn unloading_text_encoders_changes_no_picture() {
    for name in ["flux-tiny", "flux-tiny-cfg", "sd15-tiny", "sdxl-tiny"] {
        let folder = tempfile::tempdir().unwrap();
        copy(&path(name), folder.path());
        let kept = Pipeline::load(folder.path(), &device()).unwrap();
        let mut away = Pipeline::load_with(folder.path(), &device(), AWAY).unwrap();
        assert!(kept.has_text_encoders() && !away.has_text_encoders(), "{name}");
        for prompt in ["a fox", "an owl", "a fox"] {
            let request = request(&kept, prompt);
            assert_eq!(pictures(&away, &request).unwrap(), pictures(&kept, &request).unwrap(), "{name}: {prompt}");
            assert!(kept.has_text_encoders() && !away.has_text_encoders(), "{name}");
        }
        // The files are gone, and the cached prompt does not need them.
        for part in
            ["text_encoder", "text_encoder_2"].map(|part| folder.path().join(part)).iter().filter(|p| p.is_dir())
        {
            let files = std::fs::read_dir(part).unwrap().map(|entry| entry.unwrap().path());
            for file in files.filter(|file| file.extension().is_some_and(|end| end == "safetensors")) {
                OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
            }
        }
        assert!(pictures(&away, &request(&kept, "an owl")).is_ok(), "{name}");
        assert!(pictures(&away, &request(&kept, "a fox, new")).is_err(), "{name}");
        assert!(pictures(&kept, &request(&kept, "a fox, new")).is_ok(), "{name}");
        away.keep_text_encoders(true);
        assert!(pictures(&away, &request(&kept, "an owl")).is_ok(), "{name}");
    }
}

#[test]
fn unloaded_text_encoders_keep_their_adapters() {
    for name in ["sd15-tiny", "sdxl-tiny"] {
        let file = LoraFile::open(&path("stable-diffusion-lora").join(format!("{name}.safetensors"))).unwrap();
        assert!(file.adapts(Network::TextEncoder));
        let mut kept = Pipeline::load(&path(name), &device()).unwrap();
        let mut away = Pipeline::load_with(&path(name), &device(), AWAY).unwrap();
        let plain = pictures(&kept, &request(&kept, "a fox")).unwrap();
        let loras: [&[(&LoraFile, f64)]; 3] = [&[(&file, 1.0)], &[(&file, 0.5)], &[]];
        for loras in loras {
            assert_eq!(kept.attach(loras).unwrap(), away.attach(loras).unwrap());
            for prompt in ["a fox", "an owl"] {
                let request = request(&kept, prompt);
                assert_eq!(pictures(&away, &request).unwrap(), pictures(&kept, &request).unwrap(), "{name}: {prompt}");
                assert!(!away.has_text_encoders());
            }
        }
        assert_eq!(pictures(&away, &request(&kept, "a fox")).unwrap(), plain);
    }
}
