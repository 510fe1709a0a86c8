//! Memory options: packed weights, unloaded networks and streamed blocks. Packing changes a model slightly, within
//! stated bounds, and nothing else. Unloading and streaming change nothing, bit for bit.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ::image::RgbImage;
use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use diffusion::checkpoint::{Checkpoint, load_strict, save};
use diffusion::layers::NamedLayers;
use diffusion::lora::{self, Factors, Network, Target};
use diffusion::networks::flux::{FluxInput, FluxTransformer};
use diffusion::networks::unet::UNet2DConditionModel;
use diffusion::{Error, Keep, LoadOptions, LoraFile, PictureRequest, Pipeline, WeightStorage};

use crate::golden::{device, path, relative_error, values};

/// Largest effect of packing on a denoiser's output. The error of a weight (5e-3 in 8 bits, 8e-2 in 4) accumulates
/// over the layers: 1.2e-2 and 1.6e-1 were measured for FLUX with ember's trained weights, 1.2e-2 and 1.9e-1 for a
/// random UNet.
const BOUNDS: [(WeightStorage, f64); 2] = [(WeightStorage::Int8, 2e-2), (WeightStorage::Int4, 2.5e-1)];
/// The same for f32 weights in bf16, whose relative error is at most 4e-3 each.
const HALF: (WeightStorage, f64) = (WeightStorage::Half, 8e-3);

fn normal<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    device().seed(7);
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device())
}

/// Packs the layers inside of a denoiser's blocks, as pipelines do.
fn store(layers: NamedLayers<'_>, storage: WeightStorage) {
    let inside = |path: &String| path.contains("block");
    for (_, linear) in layers.linears.into_iter().filter(|(path, _)| inside(path)) {
        linear.store(storage, &device());
    }
    for (_, convolution) in layers.convolutions.into_iter().filter(|(path, _)| inside(path)) {
        convolution.store(storage.of_convolution(), &device());
    }
}

/// Unpacks the weights: the same values at full width. Returns the number of linear layers and of convolutions.
fn widen(layers: NamedLayers<'_>) -> [usize; 2] {
    let NamedLayers { linears, convolutions, .. } = layers;
    let linears = linears.into_iter().filter(|(_, linear)| linear.weight.storage() != WeightStorage::Full);
    let convolutions = convolutions.into_iter().filter(|(_, layer)| layer.weight.storage() != WeightStorage::Full);
    [
        linears.map(|(_, layer)| layer.weight = Param::from_tensor(layer.weight.value(DType::F32)).into()).count(),
        convolutions.map(|(_, layer)| layer.weight = Param::from_tensor(layer.weight.value(DType::F32)).into()).count(),
    ]
}

fn ember() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ember")
}

fn transformer(storage: WeightStorage) -> FluxTransformer {
    let folder = ember().join("transformer");
    let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let mut network = FluxTransformer::new(&config, &device());
    store(network.layers(), storage);
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

        assert!(widen(network.layers())[0] > 50);
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
        let shape = convolution.weight.dims();
        let spread = Distribution::Normal(0.0, ((shape[1] * shape[2] * shape[3]) as f64).powf(-0.5));
        convolution.weight = Param::from_tensor(Tensor::random(shape, spread, &device())).into();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unet.safetensors");
    save(&random, &file, DType::F32, &BTreeMap::new()).unwrap();
    let load = |storage| {
        let mut network = network();
        store(network.layers(), storage);
        load_strict(network, &Checkpoint::open(&file).unwrap(), DType::F32).unwrap()
    };
    let answer = |network: &UNet2DConditionModel| {
        values(network.forward(normal([1, 4, 8, 8]), &[500.0], normal([1, 7, 32]), None, None))
    };
    let full = answer(&load(WeightStorage::Full));
    for (storage, bound) in BOUNDS.into_iter().chain([HALF]) {
        let mut network = load(storage);
        let packed = answer(&network);
        let error = relative_error(&packed, &full);
        println!("UNet in {storage}: relative error {error:.1e}");
        assert!(error <= bound && error > bound / 100.0, "{storage}: {error:.1e}");
        assert!(widen(network.layers()).iter().all(|count| *count > 10));
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

fn keeping(keep: Keep) -> LoadOptions {
    LoadOptions { keep, ..LoadOptions::default() }
}

#[test]
fn unloading_text_encoders_changes_no_picture() {
    for name in ["flux-tiny", "flux-tiny-cfg", "sd15-tiny", "sdxl-tiny"] {
        let folder = tempfile::tempdir().unwrap();
        copy(&path(name), folder.path());
        let kept = Pipeline::load(folder.path(), &device()).unwrap();
        let mut away = Pipeline::load_with(folder.path(), &device(), keeping(Keep::Denoiser)).unwrap();
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
        away.keep(Keep::All);
        assert!(pictures(&away, &request(&kept, "an owl")).is_ok(), "{name}");
    }
}

#[test]
fn one_network_after_the_other_makes_the_same_pictures() {
    for name in ["flux-tiny", "flux-tiny-cfg", "sd15-tiny", "sdxl-tiny"] {
        let all = Pipeline::load(&path(name), &device()).unwrap();
        for keep in [Keep::One, Keep::Nothing] {
            let pipeline = Pipeline::load_with(&path(name), &device(), keeping(keep)).unwrap();
            for prompt in ["a fox", "an owl", "a fox"] {
                let request = PictureRequest { num_images: 2, ..request(&all, prompt) };
                let same = pictures(&pipeline, &request).unwrap() == pictures(&all, &request).unwrap();
                assert!(same, "{name}, {keep:?}: {prompt}");
            }
        }
    }
}

/// On the CPU, where host and device are the same.
#[test]
fn text_encoders_in_host_memory_stay_loaded_and_keep_their_adapters() {
    for name in ["flux-tiny", "flux-tiny-cfg", "sd15-tiny", "sdxl-tiny"] {
        let mut all = Pipeline::load(&path(name), &device()).unwrap();
        let lora = path("stable-diffusion-lora").join(format!("{name}.safetensors"));
        let lora = lora.is_file().then(|| LoraFile::open(&lora).unwrap());
        for keep in [Keep::Denoiser, Keep::Nothing] {
            let options = LoadOptions { text_on_host: true, ..keeping(keep) };
            let mut pipeline = Pipeline::load_with(&path(name), &device(), options).unwrap();
            for loras in [lora.as_ref().map(|lora| (lora, 1.0)), None] {
                let loras: Vec<_> = loras.into_iter().collect();
                assert_eq!(pipeline.attach(&loras).unwrap(), all.attach(&loras).unwrap());
                for prompt in ["a fox", "an owl"] {
                    let request = request(&all, prompt);
                    let same = pictures(&pipeline, &request).unwrap() == pictures(&all, &request).unwrap();
                    assert!(same && pipeline.has_text_encoders(), "{name}, {keep:?}: {prompt}");
                }
            }
        }
    }
}

/// Ember's weights are bf16, which 16 bits hold exactly.
#[test]
fn streamed_blocks_make_the_same_pictures_and_keep_their_adapters() {
    let factors =
        |path: &str| Factors { path: path.into(), down: normal([4, 192]), up: normal([192, 4]) * 0.1, scale: 1.0 };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lora.safetensors");
    let layers = ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_q"].map(factors);
    lora::save(&file, &layers, DType::F32, &BTreeMap::new()).unwrap();
    let lora = LoraFile::open(&file).unwrap();
    let mut all = Pipeline::load(&ember(), &device()).unwrap();
    let request = PictureRequest { width: 64, height: 64, ..request(&all, "a fox") };
    let plain = pictures(&all, &request).unwrap();
    all.attach(&[(&lora, 1.0)]).unwrap();
    let adapted = pictures(&all, &request).unwrap();
    assert_ne!(plain, adapted);
    for resident in [0, 1, 3] {
        let options = LoadOptions { resident_blocks: Some(resident), ..keeping(Keep::Nothing) };
        let mut streamed = Pipeline::load_with(&ember(), &device(), options).unwrap();
        assert!(pictures(&streamed, &request).unwrap() == plain, "{resident} blocks are loaded");
        streamed.attach(&[(&lora, 1.0)]).unwrap();
        assert!(pictures(&streamed, &request).unwrap() == adapted, "{resident} blocks are loaded");
        streamed.attach(&[]).unwrap();
        assert!(pictures(&streamed, &request).unwrap() == plain, "{resident} blocks are loaded");
    }
}

/// Bounds as for denoisers: the prompt passes through fewer layers.
#[test]
fn packed_text_encoders_make_nearly_the_same_picture() {
    let full = Pipeline::load(&ember(), &device()).unwrap();
    let request = PictureRequest { width: 64, height: 64, ..request(&full, "a fox") };
    let values = |pictures: Vec<RgbImage>| pictures[0].iter().map(|byte| f32::from(*byte)).collect::<Vec<_>>();
    let plain = values(pictures(&full, &request).unwrap());
    for (text_weights, bound) in BOUNDS {
        let options = LoadOptions { text_weights, ..LoadOptions::default() };
        let packed = Pipeline::load_with(&ember(), &device(), options).unwrap();
        let error = relative_error(&values(pictures(&packed, &request).unwrap()), &plain);
        println!("text encoders in {text_weights}: relative error {error:.1e}");
        assert!(error <= bound, "{text_weights}: {error:.1e}");
    }
}

#[test]
fn unloaded_text_encoders_keep_their_adapters() {
    for name in ["sd15-tiny", "sdxl-tiny"] {
        let file = LoraFile::open(&path("stable-diffusion-lora").join(format!("{name}.safetensors"))).unwrap();
        assert!(file.adapts(Network::TextEncoder));
        let mut kept = Pipeline::load(&path(name), &device()).unwrap();
        let mut away = Pipeline::load_with(&path(name), &device(), keeping(Keep::Nothing)).unwrap();
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
