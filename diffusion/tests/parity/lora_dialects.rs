//! LoRA files in every dialect and algorithm: what they make of a tiny FLUX.1 with its text encoders, and of single layers
//! that are called as in a UNet, against weights that were changed densely by the papers' formulas (and against diffusers,
//! peft and lycoris where they can read the file; see the script).
//!
//! Tolerance 1e-5, relative L2: a sum beside the layer and a sum inside its weight round differently.

use diffusion::LoraFile;
use diffusion::layers::{Conv2d, Linear};
use diffusion::lora::{Network, Target, attach, merge};
use diffusion::networks::clip::ClipTextModel;
use diffusion::networks::flux::{FluxInput, FluxTransformer};
use diffusion::networks::t5::T5Encoder;

use burn::module::Param;
use burn::prelude::*;

use crate::golden::{self, Golden, device, path, values};

const TOLERANCE: f64 = 1e-5;
const SCALES: [f64; 3] = [0.0, 0.5, 1.0];

fn file(folder: &str, name: &str) -> LoraFile {
    LoraFile::open(&path("lora-dialects").join(folder).join(format!("{name}.safetensors"))).unwrap()
}

/// The networks of FLUX.1 that adapters hang on.
struct Flux {
    transformer: FluxTransformer,
    clip: ClipTextModel,
    t5: T5Encoder,
}

impl Flux {
    fn load() -> Self {
        let (name, device) = ("flux-tiny", device());
        Self {
            transformer: golden::transformer(name, &device),
            clip: golden::clip(name, &device),
            t5: golden::t5(name, &device),
        }
    }

    fn targets(&mut self) -> [Target<'_>; 3] {
        [
            Target::from(&mut self.transformer),
            Target::new(Network::TextEncoder, self.clip.linears()),
            Target::new(Network::TextEncoder2, self.t5.linears()),
        ]
    }

    fn call(&self, inputs: &Golden, ids: &Golden, network: &str) -> Tensor<3> {
        let device = device();
        match network {
            "text_encoder" => self.clip.forward(&ids.ids("in.clip_ids")).last_hidden_state,
            "text_encoder_2" => self.t5.forward(&ids.ids("in.t5_ids")),
            _ => {
                let input = FluxInput {
                    hidden: inputs.tensor("transformer.in.hidden_states", &device),
                    encoder_hidden: inputs.tensor("transformer.in.encoder_hidden_states", &device),
                    pooled: inputs.tensor("transformer.in.pooled_projections", &device),
                    timestep: inputs.values("transformer.in.timestep").to_vec(),
                    guidance: Some(inputs.values("transformer.in.guidance").to_vec()),
                };
                self.transformer.forward(input, &self.transformer.rotary(6, 3, 4, &device))
            }
        }
    }
}

/// The names of the files in a folder.
fn cases(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(path("lora-dialects").join(folder)).unwrap();
    let stems = entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    let mut names: Vec<_> = stems.filter(|name| name != "reference").collect();
    names.sort();
    assert!(names.len() > 10);
    names
}

#[test]
fn every_dialect_on_flux() {
    let (inputs, golden) = (Golden::open("lora/reference"), Golden::open("lora-dialects/flux/reference"));
    let mut flux = Flux::load();
    let networks = ["transformer", "text_encoder", "text_encoder_2"];
    let base: Vec<_> = networks.iter().map(|network| values(flux.call(&inputs, &golden, network))).collect();
    for name in cases("flux") {
        let file = file("flux", &name);
        for scale in SCALES {
            let reports = attach(&mut flux.targets(), &[(&file, scale)], &device()).unwrap();
            assert_eq!(reports[0].unmatched, Vec::<String>::new(), "{name}");
            for network in networks {
                let key = format!("{name}.{scale:.1}.{network}");
                if golden.has(&key) {
                    golden.check(&key, flux.call(&inputs, &golden, network), TOLERANCE);
                }
            }
        }
        attach(&mut flux.targets(), &[], &device()).unwrap();
        for (network, base) in networks.iter().zip(&base) {
            assert_eq!(&values(flux.call(&inputs, &golden, network)), base, "{name} leaves the base bit by bit");
        }
    }
}

#[test]
fn merged_is_the_same_as_beside() {
    let (inputs, golden) = (Golden::open("lora/reference"), Golden::open("lora-dialects/flux/reference"));
    let mut flux = Flux::load();
    let base = values(flux.call(&inputs, &golden, "transformer"));
    for name in cases("flux") {
        let file = file("flux", &name);
        let (reports, merged) = merge(&mut flux.targets(), &[(&file, 0.5)]).unwrap();
        assert!(reports[0].matched > 0);
        golden.check(&format!("{name}.0.5.transformer"), flux.call(&inputs, &golden, "transformer"), TOLERANCE);
        merged.restore(&mut flux.targets());
        assert_eq!(values(flux.call(&inputs, &golden, "transformer")), base, "{name} is gone bit by bit");
    }
}

/// Layers that are called as in a UNet.
struct Layers {
    linears: Vec<(String, Linear)>,
    convolutions: Vec<(String, Conv2d)>,
}

impl Layers {
    fn load(golden: &Golden) -> Self {
        let device = device();
        let mut layers = Self { linears: Vec::new(), convolutions: Vec::new() };
        for path in golden.names("in.") {
            let weight = format!("base.{path}.weight");
            let bias = Some(Param::from_tensor(golden.tensor(&format!("base.{path}.bias"), &device)));
            if path.contains("transformer_blocks") {
                let weight = Param::from_tensor(golden.tensor(&weight, &device));
                layers.linears.push((path.to_owned(), Linear { weight, bias, ..Linear::new(1, 1, &device) }));
            } else {
                let weight: Tensor<4> = golden.tensor(&weight, &device);
                let kernel = weight.dims()[2];
                let mut layer = Conv2d::new(1, 1, kernel, &device)
                    .with_padding(kernel / 2)
                    .with_stride(if path.contains("downsamplers") { 2 } else { 1 });
                (layer.weight, layer.bias) = (Param::from_tensor(weight), bias);
                layers.convolutions.push((path.to_owned(), layer));
            }
        }
        layers
    }

    fn target(&mut self) -> Target<'_> {
        let linears = self.linears.iter_mut().map(|(path, linear)| (path.clone(), linear)).collect();
        let convolutions = self.convolutions.iter_mut().map(|(path, layer)| (path.clone(), layer)).collect();
        Target::new(Network::Unet, linears).with_convolutions(convolutions)
    }

    fn check(&self, golden: &Golden, case: &str) {
        for (path, linear) in &self.linears {
            let x: Tensor<3> = golden.tensor(&format!("in.{path}"), &device());
            golden.check(&format!("{case}.{path}"), linear.forward(x), TOLERANCE);
        }
        for (path, convolution) in &self.convolutions {
            let x = golden.tensor(&format!("in.{path}"), &device());
            golden.check(&format!("{case}.{path}"), convolution.forward(x), TOLERANCE);
        }
    }
}

#[test]
fn every_algorithm_on_convolutions_and_linear_layers() {
    let golden = Golden::open("lora-dialects/layers/reference");
    let mut layers = Layers::load(&golden);
    for name in cases("layers") {
        let file = file("layers", &name);
        for scale in SCALES {
            let reports = attach(&mut [layers.target()], &[(&file, scale)], &device()).unwrap();
            assert_eq!((reports[0].matched, reports[0].unmatched.len()), (6, 0), "{name}");
            layers.check(&golden, &format!("{name}.{scale:.1}"));
        }
        let (_, merged) = merge(&mut [layers.target()], &[(&file, 1.0)]).unwrap();
        layers.check(&golden, &format!("{name}.1.0"));
        merged.restore(&mut [layers.target()]);
    }
}

/// Each adds what it changes, whatever its algorithm; their order does not count.
#[test]
fn adapters_of_several_algorithms_at_once() {
    let golden = Golden::open("lora-dialects/layers/reference");
    let mut layers = Layers::load(&golden);
    let names = ["locon_dora", "kron", "hada", "difference", "locon_dora_inputs"];
    let files = names.map(|name| file("layers", name));
    let outputs = |layers: &Layers| -> Vec<f32> {
        let linears = layers
            .linears
            .iter()
            .map(|(path, linear)| values(linear.forward::<3>(golden.tensor(&format!("in.{path}"), &device()))));
        let convolutions = layers
            .convolutions
            .iter()
            .map(|(path, layer)| values(layer.forward(golden.tensor(&format!("in.{path}"), &device()))));
        linears.chain(convolutions).flatten().collect()
    };
    let base = outputs(&layers);
    let mut sum = base.clone();
    for file in &files {
        attach(&mut [layers.target()], &[(file, 0.7)], &device()).unwrap();
        sum.iter_mut().zip(outputs(&layers)).zip(&base).for_each(|((sum, alone), base)| *sum += alone - base);
    }
    let mut all: Vec<_> = files.iter().map(|file| (file, 0.7)).collect();
    attach(&mut [layers.target()], &all, &device()).unwrap();
    assert!(golden::relative_error(&outputs(&layers), &sum) < TOLERANCE);
    all.reverse();
    let (_, merged) = merge(&mut [layers.target()], &all).unwrap();
    assert!(golden::relative_error(&outputs(&layers), &sum) < TOLERANCE);
    merged.restore(&mut [layers.target()]);
    assert_eq!(outputs(&layers), base);
}
