//! The latents of all pictures, encoded once, with their mean and deviation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{self, Checkpoint, Stored};
use diffusion::networks::vae::Autoencoder;
use diffusion::pipelines::flux::pack;
use image::RgbImage;

use crate::autoencoder::{self, to_tensor};
use crate::dataset::{Attributes, Concept, render};

pub(crate) fn latents_path(out: &Path) -> PathBuf {
    out.join("latents.safetensors")
}

/// Encodes every picture of every concept once; training then never sees a pixel. Writes packed latents with their
/// mean and deviation.
pub(crate) fn encode(concepts: &[Concept], out: &Path) -> Result<()> {
    let device = Device::flex();
    let network = Autoencoder::new(&autoencoder::config(), &device);
    let network = checkpoint::load_strict(network, &Checkpoint::open(&autoencoder::weights(out))?, DType::F32)?;
    let mut values: Vec<f32> = Vec::new();
    for (number, concept) in concepts.iter().enumerate() {
        let pictures: Vec<RgbImage> = Attributes::all().map(|attributes| render(&concept.art, attributes)).collect();
        let latents = pack(network.encode(to_tensor(&pictures, &device)).mean);
        values.extend(latents.into_data().try_to_vec::<f32>().context("latents are f32")?);
        if number % 50 == 0 {
            println!("{number} of {} concepts encoded", concepts.len());
        }
    }
    let count = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt();
    println!("latents: mean {mean:.4}, deviation {deviation:.4}");
    let length = values.len();
    let tensor = Tensor::<1>::from_data(TensorData::new(values, [length]), &device);
    let facts =
        BTreeMap::from([("mean".to_string(), mean.to_string()), ("deviation".to_string(), deviation.to_string())]);
    checkpoint::write(&latents_path(out), vec![Stored::new("latents", tensor, DType::F16)?], &facts)?;
    Ok(())
}

/// Mean and deviation of all latents.
pub(crate) fn latent_statistics(out: &Path) -> Result<(f64, f64)> {
    let checkpoint = Checkpoint::open(&latents_path(out))?;
    let fact = |name: &str| -> Result<f64> {
        Ok(checkpoint.metadata().get(name).with_context(|| format!("no {name}"))?.parse()?)
    };
    Ok((fact("mean")?, fact("deviation")?))
}
