//! The measured memory of pipelines against the estimate before loading. Each measurement runs this program again as
//! a separate process, since an allocator does not return memory.
//!
//! The networks are zeros: memory does not depend on values. They are large enough that the rest of the process is
//! negligible, and small enough to take seconds. The estimate may exceed the peak by a factor of 2, since it holds
//! for every device and size. It must not be below nine tenths of it, or a GPU would run out of memory.

#![expect(clippy::print_stdout, reason = "tests print what they measure")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{Reading, save};
use diffusion::networks::flux::FluxTransformer;
use diffusion::networks::unet::UNet2DConditionModel;
use diffusion::networks::vae::Autoencoder;
use diffusion::pipelines::footprint;
use diffusion::training::{LoraTrainer, TrainingExample, TrainingParams};
use diffusion::{LoadOptions, PictureRequest, Pipeline, WeightStorage};
use memory::{ComputeType, Picture};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A copy of a tiny pipeline whose `parts` are enlarged.
fn enlarged(tiny: &str, parts: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&goldens(tiny), folder.path());
    for (part, changes) in parts {
        let place = folder.path().join(part);
        let mut config: Value = serde_json::from_slice(&std::fs::read(place.join("config.json")).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        std::fs::remove_dir_all(&place).unwrap();
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("config.json"), config.to_string()).unwrap();
        let (device, config) = (Device::flex(), config.to_string());
        let file = place.join("diffusion_pytorch_model.safetensors");
        match *part {
            "transformer" => write(FluxTransformer::new(&serde_json::from_str(&config).unwrap(), &device), &file),
            "unet" => write(UNet2DConditionModel::new(&serde_json::from_str(&config).unwrap(), &device), &file),
            _ => write(Autoencoder::new(&serde_json::from_str(&config).unwrap(), &device), &file),
        }
    }
    folder
}

fn write(network: impl Module, file: &Path) {
    save(&network, file, DType::BF16, &BTreeMap::new()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// The current and the peak memory of this process in bytes.
fn memory() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    })
}

/// The variable that selects the measurement in the child process.
const TASK: &str = "MEMORY_TASK";

/// A pipeline, its load options, and a picture size; or a training on it.
#[derive(Serialize, Deserialize)]
struct Task {
    folder: PathBuf,
    options: LoadOptions,
    side: usize,
    training: Option<Training>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Training {
    params: TrainingParams,
    examples: Vec<PathBuf>,
    recompute: bool,
}

impl Training {
    fn run(&self, folder: &Path, options: LoadOptions) {
        let example = |image: &PathBuf| TrainingExample { image: image.clone(), caption: "a fox".into() };
        let examples: Vec<_> = self.examples.iter().map(example).collect();
        let mut trainer =
            LoraTrainer::load(folder, &examples, self.params.clone(), &Device::flex(), options, &Reading::default())
                .unwrap();
        trainer.set_gradient_checkpointing(self.recompute);
        assert_eq!(trainer.map(Result::unwrap).count(), self.params.steps as usize);
    }
}

impl Task {
    /// Peak bytes of loading and of making the picture.
    fn measured(&self) -> [u64; 2] {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--ignored", "--exact", "--nocapture", "measure"]).env(TASK, serde_json::to_string(self).unwrap());
        let output = again.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.split_once("measured "));
        let (_, line) = line.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_str(line).unwrap()
    }
}

/// Runs only as a child of [`Task::measured`].
#[test]
#[ignore = "a part of the other test"]
fn measure() {
    let task: Task = serde_json::from_str(&std::env::var(TASK).unwrap()).unwrap();
    let [before, _] = memory();
    if let Some(training) = &task.training {
        training.run(&task.folder, task.options);
        let [_, peak] = memory();
        return println!("\nmeasured {:?}", [0, peak - before]);
    }
    let pipeline = Pipeline::load_with(&task.folder, &Device::flex(), task.options).unwrap();
    let [_, loaded] = memory();
    let request = request(&pipeline, task.side);
    pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    let [_, peak] = memory();
    println!("\nmeasured {:?}", [loaded - before, peak - before]);
}

fn request(pipeline: &Pipeline, side: usize) -> PictureRequest {
    PictureRequest { width: side, height: side, num_inference_steps: 1, ..pipeline.request("a fox", 1) }
}

fn check(folder: &Path, options: LoadOptions, side: usize) {
    let folder = folder.to_owned();
    let task = Task { folder: folder.clone(), options, side, training: None };
    let folder = folder.as_path();
    let pipeline = Pipeline::load(folder, &Device::flex()).unwrap();
    let picture = Picture::from(&request(&pipeline, side));
    let needs = footprint(folder).unwrap().needs(&picture, task.options, ComputeType::F32, 0);
    let [loading, peak] = task.measured();
    let [shown_loading, shown_peak, weights, working] =
        [loading, peak, needs.weights, needs.working].map(|bytes| bytes >> 20);
    let ratio = needs.total() as f64 / peak as f64;
    let told = format!(
        "{side}² {options:?}: loading {shown_loading} MiB, peak {shown_peak}, estimate {weights} + {working}, ratio \
         {ratio:.2}"
    );
    println!("{told}");
    assert!((0.9..=2.0).contains(&ratio), "{told}");
}

#[test]
fn the_estimate_is_near_the_truth() {
    let large_vae = json!({"block_out_channels": [64, 128, 128, 128], "norm_num_groups": 32, "layers_per_block": 2});
    let flux = json!({
        "attention_head_dim": 64, "axes_dims_rope": [16, 24, 24], "num_attention_heads": 12, "num_layers": 1,
        "num_single_layers": 2,
    });
    let unet = json!({"block_out_channels": [128, 256, 256], "norm_num_groups": 32, "attention_head_dim": 8});

    let folder = enlarged("flux-tiny", &[("transformer", flux)]);
    check(folder.path(), LoadOptions::default(), 512);
    check(folder.path(), LoadOptions { weights: WeightStorage::Int4, ..LoadOptions::default() }, 256);
    let folder = enlarged("flux-tiny", &[("vae", large_vae)]);
    check(folder.path(), LoadOptions::default(), 256);
    let folder = enlarged("sd15-tiny", &[("unet", unet)]);
    check(folder.path(), LoadOptions::default(), 256);
}

/// The same for a training: its batch size, resolution and rank, the number of examples, and whether it recomputes
/// activations.
fn check_training(folder: &Path, sizes: [u32; 3], examples: usize, recompute: bool) {
    check_packed_training(folder, sizes, examples, recompute, WeightStorage::Full);
}

/// The same with a base model whose weights are packed.
fn check_packed_training(
    folder: &Path,
    [batch_size, resolution, rank]: [u32; 3],
    examples: usize,
    recompute: bool,
    weights: WeightStorage,
) {
    let options = LoadOptions { weights, ..LoadOptions::default() };
    let params = TrainingParams {
        trigger_word: None,
        steps: 1,
        rank,
        alpha: 1.0,
        learning_rate: 1e-4,
        batch_size,
        resolution,
        seed: 1,
    };
    let pictures = tempfile::tempdir().unwrap();
    let picture = pictures.path().join("picture.png");
    image::RgbImage::new(resolution, resolution).save(&picture).unwrap();
    let training = Training { params: params.clone(), examples: vec![picture; examples], recompute };
    let task = Task { folder: folder.to_owned(), options, side: 0, training: Some(training) };
    let needs = footprint(folder).unwrap().training(&params, examples, ComputeType::F32, options, recompute).unwrap();
    let [_, peak] = task.measured();
    let ratio = needs.total() as f64 / peak as f64;
    let summary = format!(
        "{batch_size} × {resolution}², rank {rank}, {examples} examples, recompute {recompute}: peak {} MiB, \
         estimate {} + {}, ratio {ratio:.2}",
        peak >> 20,
        needs.weights >> 20,
        needs.working >> 20
    );
    println!("{summary}");
    assert!((0.9..=2.0).contains(&ratio), "{summary}");
}

#[test]
fn the_estimate_of_a_training_is_near_the_truth() {
    let shape = |double: usize, single: usize, heads: usize| {
        json!({
            "attention_head_dim": 64, "axes_dims_rope": [16, 24, 24], "num_attention_heads": heads,
            "num_layers": double, "num_single_layers": single,
        })
    };
    // Activations of the streams, in double blocks and in single ones.
    let folder = enlarged("flux-tiny", &[("transformer", shape(3, 0, 4))]);
    check_training(folder.path(), [12, 128, 4], 2, false);
    let folder = enlarged("flux-tiny", &[("transformer", shape(0, 6, 4))]);
    check_training(folder.path(), [12, 128, 4], 2, false);
    // Attention scores, kept and recomputed.
    let folder = enlarged("flux-tiny", &[("transformer", shape(1, 2, 4))]);
    for recompute in [false, true] {
        check_training(folder.path(), [2, 512, 4], 2, recompute);
    }
    // Factors and weights.
    let folder = enlarged("flux-tiny", &[("transformer", shape(1, 2, 12))]);
    check_training(folder.path(), [1, 64, 256], 2, true);
    // A packed base.
    let folder = enlarged("flux-tiny", &[("transformer", shape(2, 4, 16))]);
    check_packed_training(folder.path(), [1, 64, 4], 2, true, WeightStorage::Int4);
    // The autoencoder, while the examples are encoded.
    let vae = json!({"block_out_channels": [64, 128, 128, 128], "norm_num_groups": 32, "layers_per_block": 2});
    let folder = enlarged("flux-tiny", &[("vae", vae)]);
    check_training(folder.path(), [1, 256, 4], 4, false);
}

/// The model of the demo, as people train on it.
#[test]
fn the_estimate_of_a_training_of_ember_is_near_the_truth() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ember");
    for recompute in [false, true] {
        check_training(&folder, [4, 256, 16], 2, recompute);
    }
}
