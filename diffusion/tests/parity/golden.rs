//! Reads the goldens of `tests/reference`, loads their tiny networks, and computes errors. The tests choose the
//! tolerances.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{Checkpoint, load_strict};
use diffusion::networks::clip::ClipTextModel;
use diffusion::networks::flux::FluxTransformer;
use diffusion::networks::t5::T5Encoder;
use diffusion::networks::unet::{self, UNet2DConditionModel};
use diffusion::networks::vae::Autoencoder;
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;

/// A file of named f32 tensors.
pub(crate) struct Golden {
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
    /// The JSON under `note` in the header: prompts, sizes, seeds.
    pub note: serde_json::Value,
}

/// A file or folder below `tests/goldens`.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The device for all comparisons.
pub(crate) fn device() -> Device {
    Device::flex()
}

/// The config of one part of a pipeline.
pub(crate) fn config<T: DeserializeOwned>(pipeline: &str, file: &str) -> T {
    serde_json::from_slice(&std::fs::read(path(pipeline).join(file)).unwrap()).unwrap()
}

fn checkpoint(pipeline: &str, part: &str) -> Checkpoint {
    Checkpoint::open(&path(pipeline).join(part)).unwrap()
}

/// The CLIP text encoder of a pipeline.
pub(crate) fn clip(pipeline: &str, device: &Device) -> ClipTextModel {
    let network = ClipTextModel::new(&config(pipeline, "text_encoder/config.json"), device);
    network.load(checkpoint(pipeline, "text_encoder"), DType::F32).unwrap()
}

/// The second CLIP text encoder of a pipeline, which projects.
pub(crate) fn clip_with_projection(pipeline: &str, device: &Device) -> ClipTextModel {
    let network = ClipTextModel::with_projection(&config(pipeline, "text_encoder_2/config.json"), device);
    network.load(checkpoint(pipeline, "text_encoder_2"), DType::F32).unwrap()
}

/// The T5 encoder of a pipeline.
pub(crate) fn t5(pipeline: &str, device: &Device) -> T5Encoder {
    let network = T5Encoder::new(&config(pipeline, "text_encoder_2/config.json"), device);
    network.load(checkpoint(pipeline, "text_encoder_2"), DType::F32).unwrap()
}

/// The transformer of a pipeline.
pub(crate) fn transformer(pipeline: &str, device: &Device) -> FluxTransformer {
    let network = FluxTransformer::new(&config(pipeline, "transformer/config.json"), device);
    load_strict(network, &checkpoint(pipeline, "transformer"), DType::F32).unwrap()
}

/// The UNet of a pipeline.
pub(crate) fn unet(pipeline: &str, device: &Device) -> UNet2DConditionModel {
    let config: unet::Config = config(pipeline, "unet/config.json");
    config.check().unwrap();
    load_strict(UNet2DConditionModel::new(&config, device), &checkpoint(pipeline, "unet"), DType::F32).unwrap()
}

/// The autoencoder of a pipeline.
pub(crate) fn vae(pipeline: &str, device: &Device) -> Autoencoder {
    let network = Autoencoder::new(&config(pipeline, "vae/config.json"), device);
    load_strict(network, &checkpoint(pipeline, "vae"), DType::F32).unwrap()
}

/// The values of a tensor in row-major order.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_to_vec().unwrap()
}

/// ‖actual − expected‖ / ‖expected‖, the relative L2 error.
#[track_caller]
pub(crate) fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "sizes differ");
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = square(&mut actual.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / square(&mut expected.iter().map(|value| f64::from(*value)))
}

/// The largest absolute difference.
#[track_caller]
pub(crate) fn largest_difference(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "sizes differ");
    let difference = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
    // NaN must not be ignored by the comparison.
    actual.iter().zip(expected).map(difference).fold(0.0, |a, b| if a >= b { a } else { b })
}

impl Golden {
    /// Opens `tests/goldens/{name}.safetensors`.
    pub(crate) fn open(name: &str) -> Self {
        let bytes = std::fs::read(path(&format!("{name}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let note = header.metadata().as_ref().and_then(|metadata| metadata.get("note"));
        let note = note.map_or(serde_json::Value::Null, |note| serde_json::from_str(note).unwrap());
        let read = |tensor: safetensors::tensor::TensorView| {
            let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (tensor.shape().to_vec(), values.collect())
        };
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        Self { tensors: tensors.into_iter().map(|(name, tensor)| (name, read(tensor))).collect(), note }
    }

    /// The names that start with `prefix`, without it.
    pub(crate) fn names<'a>(&'a self, prefix: &'a str) -> Vec<&'a str> {
        let mut names: Vec<_> = self.tensors.keys().filter_map(|name| name.strip_prefix(prefix)).collect();
        assert!(!names.is_empty(), "no golden is called {prefix}…");
        names.sort_unstable();
        names
    }

    /// Whether there is such a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    #[track_caller]
    fn get(&self, name: &str) -> &(Vec<usize>, Vec<f32>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("no golden is called {name}"))
    }

    /// The shape of `name`.
    #[track_caller]
    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.get(name).0
    }

    /// The values of `name` in row-major order.
    #[track_caller]
    pub(crate) fn values(&self, name: &str) -> &[f32] {
        &self.get(name).1
    }

    /// The only value of `name`.
    #[track_caller]
    pub(crate) fn scalar(&self, name: &str) -> f64 {
        assert_eq!(self.values(name).len(), 1);
        f64::from(self.values(name)[0])
    }

    /// `name` as a tensor.
    #[track_caller]
    pub(crate) fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let (shape, values) = self.get(name);
        Tensor::from_data(TensorData::new(values.clone(), shape.clone()), device)
    }

    /// The integers of `[batch, length]`.
    #[track_caller]
    pub(crate) fn ids(&self, name: &str) -> Vec<Vec<i64>> {
        let (shape, values) = self.get(name);
        values.chunks(shape[1]).map(|row| row.iter().map(|&id| id as i64).collect()).collect()
    }

    /// Checks shape and relative L2 error of `actual`, and returns the error.
    #[track_caller]
    pub(crate) fn check<const D: usize>(&self, name: &str, actual: Tensor<D>, tolerance: f64) -> f64 {
        assert_eq!(actual.dims().as_slice(), self.get(name).0, "shape of {name}");
        let error = relative_error(&values(actual), self.values(name));
        println!("{name}: relative error {error:.1e}");
        assert!(error <= tolerance, "{name}: relative error {error:.2e} is above {tolerance:.0e}");
        error
    }
}
