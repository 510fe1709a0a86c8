//! Gradients against torch autograd, and three steps of AdamW: the basis of the trainers.
//!
//! Tolerances, relative L2: 1e-5 for losses; 1e-4 for gradients, which pass through the whole network twice, and 1e-5
//! for the feed-forward layers of a UNet, whose reference is f64; 1e-3 for the change of the factors over three steps,
//! since Adam divides by the gradient's magnitude and amplifies the smallest ones.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use diffusion::LoraFile;
use diffusion::lora::attach;
use diffusion::networks::flux::{FluxInput, FluxTransformer};
use diffusion::pipelines::flux::pack;
use diffusion::tokenizers::{clip::ClipTokenizer, t5::T5Tokenizer};
use diffusion::training::{AdamW, AdamWConfig, FlowBatch, Gradients, flow_loss};

use crate::golden::{self, Golden, path, relative_error, values};

const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
/// Of a feed-forward layer in a UNet. An approximation of GELU would cause a larger error.
const FEED_FORWARD_GRADIENT: f64 = 1e-5;
const MOVED: f64 = 1e-3;

/// All gradients by parameter path.
fn by_path(gradients: &Gradients) -> BTreeMap<String, Vec<f32>> {
    gradients.iter().map(|(path, gradient)| (path.to_owned(), values(gradient.clone()))).collect()
}

/// Visits each parameter with its path.
#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.insert(self.path.join("."), values(param.val()));
    }
}

/// Makes only the LoRA branches trainable.
#[derive(Default)]
struct OnlyBranches(Vec<String>);

impl ModuleMapper for OnlyBranches {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.0.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.0.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.set_require_grad(self.0.iter().any(|name| name == "branches"))
    }
}

/// The loss on the golden's batch with the given text embeddings.
fn loss(
    golden: &Golden,
    transformer: &FluxTransformer,
    text: Tensor<3>,
    pooled: Tensor<2>,
    device: &Device,
) -> Tensor<1> {
    let latents = pack(golden.tensor("in.latents", device));
    let noise = pack(golden.tensor("in.noise", device));
    let levels: Vec<f64> = golden.values("in.sigmas").iter().map(|&level| f64::from(level)).collect();
    let flow = FlowBatch::mix(latents, noise, &levels);
    let length = text.dims()[1];
    let input = FluxInput {
        hidden: flow.noisy,
        encoder_hidden: text,
        pooled,
        timestep: values(flow.level),
        guidance: Some(golden.values("in.guidance").to_vec()),
    };
    let output = transformer.forward(input, &transformer.rotary(length, 3, 5, device));
    flow_loss(output, flow.velocity)
}

#[track_caller]
fn check_scalar(golden: &Golden, name: &str, actual: Tensor<1>) {
    let (actual, expected) = (f64::from(values(actual)[0]), golden.scalar(name));
    println!("{name}: {actual} against {expected}");
    assert!((actual / expected - 1.0).abs() <= LOSS, "{name}: {actual} against {expected}");
}

/// Compares the golden's values below `prefix` with the gradients of a network whose paths start with `ours`.
#[track_caller]
fn check_gradients(golden: &Golden, prefix: &str, ours: &str, found: &BTreeMap<String, Vec<f32>>) {
    for name in golden.names(prefix) {
        let path = format!("{ours}{name}");
        let gradient = found.get(&path).unwrap_or_else(|| panic!("{path} has no gradient"));
        let error = relative_error(gradient, golden.values(&format!("{prefix}{name}")));
        println!("{path}: relative error {error:.1e}");
        assert!(error <= GRADIENT, "gradient of {path}: {error:.1e}");
    }
}

#[test]
fn all_weights_text_encoders_included() {
    let device = golden::device().autodiff();
    let golden = Golden::open("gradients/reference");
    let (transformer, clip, t5) = (
        golden::transformer("flux-tiny", &device),
        golden::clip("flux-tiny", &device),
        golden::t5("flux-tiny", &device),
    );
    let prompts: Vec<String> = serde_json::from_value(golden.note["prompts"].clone()).unwrap();
    let folder = path("flux-tiny");
    let clip_tokenizer = ClipTokenizer::load(&folder.join("tokenizer")).unwrap();
    let t5_tokenizer = T5Tokenizer::load(&folder.join("tokenizer_2")).unwrap();
    let clip_ids: Vec<_> = prompts.iter().map(|prompt| clip_tokenizer.encode(prompt).unwrap()).collect();
    let t5_ids: Vec<_> = prompts.iter().map(|prompt| t5_tokenizer.encode(prompt).unwrap()).collect();

    let loss = loss(&golden, &transformer, t5.forward(&t5_ids), clip.forward(&clip_ids).pooled, &device);
    check_scalar(&golden, "loss", loss.clone());
    let mut pass = loss.backward();
    check_gradients(&golden, "gradient.transformer.", "", &by_path(&Gradients::of(&transformer, &mut pass)));
    check_gradients(&golden, "gradient.text_encoder.", "text_model.", &by_path(&Gradients::of(&clip, &mut pass)));
    check_gradients(&golden, "gradient.text_encoder_2.", "", &by_path(&Gradients::of(&t5, &mut pass)));
}

#[test]
fn the_autoencoder() {
    let device = golden::device().autodiff();
    let golden = Golden::open("gradients/reference");
    let vae = golden::vae("flux-tiny", &device);
    let pictures = golden.tensor::<4>("vae.image", &device);
    let loss = (vae.decode(vae.encode(pictures.clone()).mean) - pictures).square().mean();
    check_scalar(&golden, "vae.loss", loss.clone());
    let mut pass = loss.backward();
    check_gradients(&golden, "gradient.vae.", "", &by_path(&Gradients::of(&vae, &mut pass)));
}

/// Through the exact GELU of the gated feed-forward layers, of which some backends have an approximate gradient.
#[test]
fn a_unet() {
    let device = golden::device().autodiff();
    let golden = Golden::open("gradients/unet");
    let unet = golden::unet("sd15-tiny", &device);
    let timesteps: Vec<f64> = golden.values("timesteps").iter().copied().map(f64::from).collect();
    let output =
        unet.forward(golden.tensor("latents", &device), &timesteps, golden.tensor("text", &device), None, None);
    let loss = (output - golden.tensor("noise", &device)).square().mean();
    check_scalar(&golden, "loss", loss.clone());
    let found = by_path(&Gradients::of(&unet, &mut loss.backward()));
    check_gradients(&golden, "gradient.", "", &found);
    // Rounding adds up on the way to the first blocks.
    let is_near = |name: &&str| name.contains(".ff.") && !name.starts_with("down_blocks.");
    let layers: Vec<_> = golden.names("gradient.").into_iter().filter(is_near).collect();
    assert!(layers.len() >= 3, "{layers:?}");
    for name in layers {
        let error = relative_error(&found[name], golden.values(&format!("gradient.{name}")));
        assert!(error <= FEED_FORWARD_GRADIENT, "gradient of {name}: {error:.1e}");
    }
}

/// `transformer.{path}.lora_A.weight` → `{path}.branches.0.down`
fn branch_path(key: &str) -> String {
    let path = key.strip_prefix("transformer.").unwrap();
    match path.strip_suffix(".lora_A.weight") {
        Some(layer) => format!("{layer}.branches.0.down"),
        None => format!("{}.branches.0.up", path.strip_suffix(".lora_B.weight").unwrap()),
    }
}

#[test]
fn factors_of_an_adapter_through_three_steps() {
    let device = golden::device().autodiff();
    let golden = Golden::open("gradients/reference");
    let mut transformer = golden::transformer("flux-tiny", &device);
    let adapter = LoraFile::open(&path("gradients/adapter.safetensors")).unwrap();
    attach(&mut [(&mut transformer).into()], &[(&adapter, 1.0)], &device).unwrap();
    let mut transformer = transformer.map(&mut OnlyBranches::default());
    let start = parameters(&transformer);

    let mut optimizer = AdamW::new(AdamWConfig {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 1e-2,
        max_grad_norm: f64::INFINITY,
    });
    let learning_rate = golden.note["learning_rate"].as_f64().unwrap();
    let (text, pooled) =
        (golden.tensor("in.prompt_embeds", &device), golden.tensor("in.pooled_prompt_embeds", &device));
    for step in 0..golden.note["steps"].as_u64().unwrap() {
        let loss = loss(&golden, &transformer, text.clone(), pooled.clone(), &device);
        check_scalar(&golden, &format!("lora.loss.{step}"), loss.clone());
        let gradients = Gradients::of(&transformer, &mut loss.backward());
        if step == 0 {
            let found = by_path(&gradients);
            let names = golden.names("lora.gradient.");
            assert_eq!(found.len(), names.len(), "exactly the factors learn");
            for name in names {
                let error = relative_error(&found[&branch_path(name)], golden.values(&format!("lora.gradient.{name}")));
                assert!(error <= GRADIENT, "gradient of {name}: {error:.1e}");
            }
        }
        (transformer, _) = optimizer.step(transformer, gradients, learning_rate);
    }

    let end = parameters(&transformer);
    let difference = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f32>>();
    let mut worst = 0.0f64;
    for name in golden.names("lora.after.") {
        let path = branch_path(name);
        let expected = difference(golden.values(&format!("lora.after.{name}")), &start[&path]);
        let error = relative_error(&difference(&end[&path], &start[&path]), &expected);
        worst = worst.max(error);
        assert!(error <= MOVED, "the way of {name}: {error:.1e}");
    }
    println!("ways of the factors: relative error at most {worst:.1e}");
}

fn parameters(network: &impl Module) -> BTreeMap<String, Vec<f32>> {
    let mut parameters = Parameters::default();
    network.visit(&mut parameters);
    parameters.found
}
