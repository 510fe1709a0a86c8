//! LoRA files in every dialect and algorithm: applied to a tiny FLUX.1 with its text encoders, and to single layers
//! with UNet names, against weights merged by the papers' formulas (and against diffusers, peft and lycoris where
//! they can read the file; see the script).
//!
//! Tolerance: 1e-5, relative L2; a branch beside the layer rounds differently from a merged weight.

use diffusion::LoraFile;
use diffusion::checkpoint::{Checkpoint, Stored, write};
use diffusion::layers::{Conv2d, Linear};
use diffusion::lora::{
    AdapterFamily, Algorithm, Dialect, Dtype, Format, Network, Target, attach, export, inspect, merge,
};
use diffusion::networks::clip::ClipTextModel;
use diffusion::networks::flux::{FluxInput, FluxTransformer};
use diffusion::networks::t5::T5Encoder;
use diffusion::networks::unet::UNet2DConditionModel;
use formats::Family;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;

use crate::golden::{self, Golden, device, path, values};

const TOLERANCE: f64 = 1e-5;
const SCALES: [f64; 3] = [0.0, 0.5, 1.0];

fn file(folder: &str, name: &str) -> LoraFile {
    LoraFile::open(&path("lora-dialects").join(folder).join(format!("{name}.safetensors"))).unwrap()
}

/// The networks of FLUX.1 that adapters can be attached to.
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

/// Layers with UNet names.
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
                layers
                    .linears
                    .push((path.to_owned(), Linear { weight: weight.into(), bias, ..Linear::new(1, 1, &device) }));
            } else {
                let weight: Tensor<4> = golden.tensor(&weight, &device);
                let kernel = weight.dims()[2];
                let mut layer = Conv2d::new(1, 1, kernel, &device)
                    .with_padding(kernel / 2)
                    .with_stride(if path.contains("downsamplers") { 2 } else { 1 });
                (layer.weight, layer.bias) = (Param::from_tensor(weight).into(), bias);
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

/// Updates add up, regardless of their algorithm and order.
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

/// The networks of a Stable Diffusion that adapters can be attached to.
struct StableDiffusion {
    unet: UNet2DConditionModel,
    clip: ClipTextModel,
    clip_2: Option<ClipTextModel>,
}

impl StableDiffusion {
    fn load(pipeline: &str, xl: bool) -> Self {
        let device = device();
        Self {
            unet: golden::unet(pipeline, &device),
            clip: golden::clip(pipeline, &device),
            clip_2: xl.then(|| golden::clip_with_projection(pipeline, &device)),
        }
    }

    fn targets(&mut self) -> Vec<Target<'_>> {
        let layers = self.unet.layers();
        let unet = Target::new(Network::Unet, layers.linears).with_convolutions(layers.convolutions);
        let second = self.clip_2.as_mut().map(|clip| Target::new(Network::TextEncoder2, clip.linears()));
        [unet, Target::new(Network::TextEncoder, self.clip.linears())].into_iter().chain(second).collect()
    }
}

fn check_stable_diffusion(folder: &str, pipeline: &str, names: &[&str]) {
    let inputs = Golden::open(&format!("{pipeline}/reference"));
    let golden = Golden::open(&format!("lora-dialects/{folder}/reference"));
    let mut model = StableDiffusion::load(pipeline, pipeline.contains("xl"));
    for name in names {
        let file = file(folder, name);
        for scale in SCALES {
            let reports = attach(&mut model.targets(), &[(&file, scale)], &device()).unwrap();
            assert_eq!(reports[0].unmatched, Vec::<String>::new(), "{name}");
            let key = |network: &str| format!("{name}.{scale:.1}.{network}");
            golden.check(&key("unet"), crate::unet::call(&model.unet, &inputs, "odd"), TOLERANCE);
            let encoders = [("text_encoder", Some(&model.clip)), ("text_encoder_2", model.clip_2.as_ref())];
            for (network, clip) in encoders {
                if let Some(clip) = clip.filter(|_| golden.has(&key(network))) {
                    let hidden = clip.forward(&golden.ids("in.clip_ids")).hidden_states.pop().unwrap();
                    golden.check(&key(network), hidden, TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn every_dialect_on_stable_diffusion_1() {
    check_stable_diffusion("sd15", "sd15-tiny", &["kohya", "peft", "legacy", "original"]);
}

#[test]
fn every_dialect_on_stable_diffusion_xl() {
    check_stable_diffusion("sdxl", "sdxl-tiny", &["kohya", "peft"]);
}

/// The combinations that a dialect cannot express.
const CANNOT: [(&str, Format); 7] = [
    ("dora_kohya", Format::Peft), // over inputs
    ("full", Format::Peft),
    ("hadamard", Format::Peft),
    ("kronecker", Format::Peft),
    ("lycoris_names", Format::Peft),
    // Separate Kronecker products of the parts are not one product for the fused layer.
    ("lycoris_names", Format::Kohya),
    ("lycoris_names", Format::Comfy),
];

#[test]
fn what_is_written_in_another_dialect_does_the_same() {
    let (inputs, golden) = (Golden::open("lora/reference"), Golden::open("lora-dialects/flux/reference"));
    let mut flux = Flux::load();
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written.safetensors");
    for name in cases("flux") {
        let file = file("flux", &name);
        for format in [Format::Kohya, Format::Peft, Format::Comfy] {
            let result = export(&file, format, Dtype::F32, &written);
            assert_eq!(result.is_err(), CANNOT.contains(&(name.as_str(), format)), "{name} as {format:?}: {result:?}");
            if result.is_err() {
                continue;
            }
            attach(&mut flux.targets(), &[(&LoraFile::open(&written).unwrap(), 0.5)], &device()).unwrap();
            for network in ["transformer", "text_encoder", "text_encoder_2"] {
                let key = format!("{name}.0.5.{network}");
                if golden.has(&key) {
                    golden.check(&key, flux.call(&inputs, &golden, network), TOLERANCE);
                }
            }
        }
    }
}

/// Fusing and splitting again gives the same tensors, bit for bit if scales are powers of two.
#[test]
fn there_and_back_is_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let [there, back] = ["there", "back"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let kohya = LoraFile::open(&path("lora/kohya.safetensors")).unwrap();
    export(&kohya, Format::Kohya, Dtype::F32, &there).unwrap();
    assert_same_tensors(&there, &path("lora/kohya.safetensors"));
    export(&kohya, Format::Peft, Dtype::F32, &there).unwrap();
    assert_same_tensors(&there, &path("lora/peft.safetensors"));
    for format in [Format::Kohya, Format::Comfy] {
        // separate factors for q, k and v: the fused layer has the sum of their ranks
        let name = path("lora-dialects/flux/onetrainer_old.safetensors");
        export(&LoraFile::open(&name).unwrap(), Format::Peft, Dtype::F32, &there).unwrap();
        export(&LoraFile::open(&there).unwrap(), format, Dtype::F32, &back).unwrap();
        let fused = Checkpoint::open(&back).unwrap();
        let wide = fused
            .names()
            .find(|name| name.contains("txt_attn") && name.contains("qkv") && !name.ends_with("alpha"))
            .unwrap();
        assert!(fused.shape(wide).unwrap().contains(&6), "{wide} is of rank 6");
        export(&LoraFile::open(&back).unwrap(), Format::Peft, Dtype::F32, &back).unwrap();
        assert_same_tensors(&back, &there);
    }
    for name in ["kohya", "peft"] {
        let name = path("lora-dialects/sdxl").join(format!("{name}.safetensors"));
        export(&LoraFile::open(&name).unwrap(), Format::Peft, Dtype::F32, &there).unwrap();
        export(&LoraFile::open(&there).unwrap(), Format::Kohya, Dtype::F32, &back).unwrap();
        export(&LoraFile::open(&back).unwrap(), Format::Peft, Dtype::F32, &back).unwrap();
        assert_same_tensors(&back, &there);
    }
}

fn assert_same_tensors(ours: &Path, theirs: &Path) {
    let (ours, theirs) = (Checkpoint::open(ours).unwrap(), Checkpoint::open(theirs).unwrap());
    let names = |checkpoint: &Checkpoint| checkpoint.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for name in ours.names() {
        assert_eq!(ours.shape(name).unwrap(), theirs.shape(name).unwrap(), "{name}");
        assert_eq!(ours.read_f32(name).unwrap(), theirs.read_f32(name).unwrap(), "{name}");
    }
}

#[test]
fn files_are_described_by_dialect_and_family() {
    let about = |name: &str| inspect(&path("lora-dialects").join(format!("{name}.safetensors"))).unwrap();
    let kohya = about("flux/kohya");
    assert_eq!((kohya.family, kohya.dialect), (AdapterFamily::Family(Family::Flux), Some(Dialect::Kohya)));
    // one double block of 14 layers, one single block of 6
    let modules = [(Network::Transformer, 20), (Network::TextEncoder, 3), (Network::TextEncoder2, 3)];
    assert_eq!(kohya.modules, BTreeMap::from(modules));
    assert_eq!(kohya.algorithms, BTreeMap::from([(Algorithm::Lora, 26)]));
    let ranks = kohya.ranks.unwrap();
    assert_eq!((ranks.smallest, ranks.most, ranks.largest), (2, 2, 2));
    assert_eq!(kohya.alpha_source, "alpha tensors");

    let full = about("flux/full");
    assert_eq!(full.algorithms[&Algorithm::Full], 10);
    assert_eq!(about("flux/dora_peft").dora, 20);
    assert_eq!(about("sdxl/kohya").family, AdapterFamily::Family(Family::Sdxl));
    assert_eq!(about("sd15/legacy").dialect, Some(Dialect::DiffusersLegacy));
    assert!(about("sd15/kohya").algorithms[&Algorithm::Locon] > 20);
    let json = serde_json::to_value(about("layers/kron_tucker")).unwrap();
    assert_eq!(json["algorithms"]["lokr"], 6);
    assert_eq!(json["modules"]["unet"], 6);
}

/// Every file that is no adapter for these layers gives an error, and nothing changes.
#[test]
fn files_that_cannot_be_used_say_why() {
    const STAND_IN: f32 = 12345.5;
    let golden = Golden::open("lora-dialects/layers/reference");
    let mut layers = Layers::load(&golden);
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("odd.safetensors");
    let layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"; // 10×12
    let mut answer = |tensors: &[(&str, &[usize], f32)]| {
        let stored = |(name, shape, value): &(&str, &[usize], f32)| {
            let name = if name.contains("lora_unet") { (*name).to_owned() } else { format!("{layer}.{name}") };
            let value = if value.is_finite() { *value } else { STAND_IN };
            let data = |shape: &[usize]| TensorData::new(vec![value; shape.iter().product()], shape.to_vec());
            match shape {
                [] => Stored::scalar(name, Tensor::from_data(data(&[1]), &device())),
                [_] => Stored::new(name, Tensor::<1>::from_data(data(shape), &device()), DType::F32),
                _ => Stored::new(name, Tensor::<2>::from_data(data(shape), &device()), DType::F32),
            }
        };
        let all: Vec<_> = tensors.iter().map(|tensor| stored(tensor).unwrap()).collect();
        write(&odd, all, &BTreeMap::new()).unwrap();
        // We write finite values only.
        for (_, _, value) in tensors.iter().filter(|(_, _, value)| !value.is_finite()) {
            let mut bytes = std::fs::read(&odd).unwrap();
            let start = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            let (words, _) = bytes[start..].as_chunks_mut();
            words
                .iter_mut()
                .filter(|word| **word == STAND_IN.to_le_bytes())
                .for_each(|word| *word = value.to_le_bytes());
            std::fs::write(&odd, bytes).unwrap();
        }
        let attached = LoraFile::open(&odd).and_then(|file| attach(&mut [layers.target()], &[(&file, 1.0)], &device()));
        attached.map(|_| ()).map_err(|error| error.to_string())
    };
    let down: (&str, &[usize], f32) = ("lora_down.weight", &[2, 12], 0.1);
    let up: (&str, &[usize], f32) = ("lora_up.weight", &[10, 2], 0.1);
    answer(&[down, up]).unwrap();
    answer(&[down, up, ("alpha", &[], 1.0)]).unwrap();
    for (tensors, sentence) in [
        (&[down][..], "its factor Up is missing"),
        (&[down, ("lora_up.weight", &[10, 3], 0.1)], "do not belong together"),
        (&[down, ("lora_up.weight", &[10], 0.1)], "do not belong together"),
        (&[("lora_down.weight", &[2, 13], 0.1), up], "for a model of another size"),
        (&[("lora_down.weight", &[513, 12], 0.1), ("lora_up.weight", &[10, 513], 0.1)], "its rank is 513"),
        (&[down, up, ("alpha", &[], f32::INFINITY)], "its alpha is not one finite number"),
        (&[down, up, ("alpha", &[], f32::NAN)], "its alpha is not one finite number"),
        (&[down, up, ("alpha", &[2], 1.0)], "its alpha is not one number"),
        (&[down, ("lora_up.weight", &[10, 2], f32::NAN)], "values that are not finite"),
        (&[down, up, ("hada_w1_a", &[10, 2], 0.1)], "several algorithms"),
        (&[down, up, ("dora_scale", &[1, 6], 0.1)], "for a model of another size"),
        (&[down, up, ("dora_scale", &[1, 7], 0.1)], "magnitudes are not one for each output or input"),
        (&[down, up, ("lora_magnitude_vector", &[7], 0.1)], "magnitudes are not one for each output"),
        (&[("diff", &[10, 12], 0.1), ("diff_b", &[9], 0.1)], "its bias is not one number for each output"),
        (&[("lokr_w1", &[2, 3], 0.1)], "its factor LokrW2A is missing"),
        (&[("diff_b", &[9], 0.1)], "for a model of another size"),
        (&[("oft_blocks", &[2, 3], 0.1)], "it is OFT or BOFT"),
        (&[("lora_unet_double_blocks_0_img_attn_proj.diff", &[4, 4], 0.1)], "a FLUX.1 LoRA, and this model"),
        (&[("lora_unet_up_blocks_9_resnets_0_conv1.diff", &[4, 4], 0.1)], "other blocks than this model"),
        (&[("lora_unet_joint_blocks_0_x_block_attn_qkv.diff", &[4, 4], 0.1)], "a Stable Diffusion 3 LoRA"),
    ] {
        let error = answer(tensors).expect_err(sentence);
        assert!(error.contains(sentence), "{error}");
    }
}
