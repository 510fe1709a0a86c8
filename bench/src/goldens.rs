//! Every network against diffusers' goldens at tiny size, in f32 and in bf16, and one picture by ember against the same
//! picture from the CPU.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::Pipeline;
use diffusion::checkpoint::{Checkpoint, load_strict};
use diffusion::networks::{autoencoder_tiny, clip, flux, t5, unet, vae};
use image::RgbImage;
use serde::de::DeserializeOwned;

use crate::figure::{Figure, Figures};

/// Relative L2 errors that rounding explains: f32 with products in tf32, and bf16.
const LIMITS: [(DType, &str, f64); 2] = [(DType::F32, "f32", 1e-3), (DType::BF16, "bf16", 2e-2)];
/// Mean difference of two pictures by ember, of 255: in bf16 a few pixels at edges differ.
const PICTURE: f64 = 4.0;
/// Tokens of the golden latents.
const GRID: (usize, usize) = (5, 3);

/// Families with a UNet, and their folders.
const UNETS: [(&str, &str); 4] =
    [("sd15", "sd15-tiny"), ("sd15 inpainting", "sd15-inpaint-tiny"), ("sd21", "sd21-tiny"), ("sdxl", "sdxl-tiny")];

/// `goldens` is `diffusion/tests/goldens`, `ember` is `models/ember`.
pub(crate) fn measure(goldens: &Path, ember: &Path, device: &Device, figures: &mut Figures) -> Result<()> {
    let golden = Golden { folder: goldens.join("flux-tiny"), device };
    for (dtype, name, limit) in LIMITS {
        let mut put =
            |part: &str, error: f64| figures.put(Figure::ours(format!("{part} in {name}"), error, "").at_most(limit));
        put("clip", golden.clip(dtype)?)?;
        put("t5", golden.t5(dtype)?)?;
        put("transformer", golden.transformer(dtype)?)?;
        let (mean, decoded) = golden.vae(dtype)?;
        put("vae encoder", mean)?;
        put("vae decoder", decoded)?;
        let (encoded, decoded) = Golden { folder: goldens.join("taesd-tiny"), device }.tiny_vae(dtype)?;
        put("tiny autoencoder, encoding", encoded)?;
        put("tiny autoencoder, decoding", decoded)?;
        put("openclip of sdxl", Golden { folder: goldens.join("sdxl-tiny"), device }.openclip(dtype)?)?;
        for (family, folder) in UNETS {
            let golden = Golden { folder: goldens.join(folder), device };
            // PyTorch's own bf16 differs by 1.9e-2 from its f32 for the deepest of them, which leaves no margin below
            // the limit.
            let limit = if dtype == DType::BF16 { 1.5 * limit } else { limit };
            let figure = Figure::ours(format!("unet of {family} in {name}"), golden.unet(dtype)?, "");
            figures.put(figure.at_most(limit))?;
        }
    }
    let (here, there) = (picture(ember, device)?, picture(ember, &Device::flex())?);
    let differences = here.iter().zip(there.iter()).map(|(a, b)| f64::from(a.abs_diff(*b)));
    let mean = differences.sum::<f64>() / here.len() as f64;
    figures.put(Figure::ours("ember's picture against the CPU's", mean, "of 255").at_most(PICTURE))
}

/// One of the tiny pipelines with its goldens.
struct Golden<'a> {
    folder: std::path::PathBuf,
    device: &'a Device,
}

impl Golden<'_> {
    fn answers(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::open(&self.folder.join("reference.safetensors"))?)
    }

    fn part(&self, name: &str) -> Result<Checkpoint> {
        Ok(Checkpoint::open(&self.folder.join(name))?)
    }

    fn config<T: DeserializeOwned>(&self, part: &str) -> Result<T> {
        let path = self.folder.join(part).join("config.json");
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }

    fn tensor<const D: usize>(&self, name: &str, dtype: DType) -> Result<Tensor<D>> {
        let answers = self.answers()?;
        let data = TensorData::new(answers.read_f32(name)?, answers.shape(name)?);
        let tensor: Tensor<D> = Tensor::from_data(data, (self.device, DType::F32));
        Ok(tensor.cast(dtype))
    }

    fn ids(&self, name: &str) -> Result<Vec<Vec<i64>>> {
        let answers = self.answers()?;
        let length = answers.shape(name)?[1];
        Ok(answers.read_f32(name)?.chunks(length).map(|row| row.iter().map(|id| *id as i64).collect()).collect())
    }

    /// ‖actual − expected‖ / ‖expected‖
    fn error<const D: usize>(&self, name: &str, actual: Tensor<D>) -> Result<f64> {
        let expected = self.answers()?.read_f32(name)?;
        let actual: Vec<f32> = actual.cast(DType::F32).into_data().try_to_vec::<f32>().context("it is no f32")?;
        ensure!(actual.len() == expected.len(), "{name} has another size");
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let apart = square(&mut actual.iter().zip(&expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        Ok(apart / square(&mut expected.iter().map(|value| f64::from(*value))))
    }

    fn clip(&self, dtype: DType) -> Result<f64> {
        let network = clip::ClipTextModel::new(&self.config("text_encoder")?, self.device);
        let network = network.load(self.part("text_encoder")?, dtype)?;
        self.error("text.0.pooled_prompt_embeds", network.forward(&self.ids("text.0.clip_ids")?).pooled)
    }

    fn t5(&self, dtype: DType) -> Result<f64> {
        let network = t5::T5Encoder::new(&self.config("text_encoder_2")?, self.device);
        let network = network.load(self.part("text_encoder_2")?, dtype)?;
        self.error("text.0.prompt_embeds", network.forward(&self.ids("text.0.t5_ids")?))
    }

    fn transformer(&self, dtype: DType) -> Result<f64> {
        let config: flux::Config = self.config("transformer")?;
        let network = flux::FluxTransformer::new(&config, self.device);
        let network = load_strict(network, &self.part("transformer")?, dtype)?;
        let input = flux::FluxInput {
            hidden: self.tensor("transformer.in.hidden_states", dtype)?,
            encoder_hidden: self.tensor("transformer.in.encoder_hidden_states", dtype)?,
            pooled: self.tensor("transformer.in.pooled_projections", dtype)?,
            timestep: self.answers()?.read_f32("transformer.in.timestep")?,
            guidance: Some(self.answers()?.read_f32("transformer.in.guidance")?),
        };
        let text = input.encoder_hidden.dims()[1];
        let rotary = network.rotary(text, GRID.0, GRID.1, self.device);
        self.error("transformer.out", network.forward(input, &rotary))
    }

    /// The second text encoder of SDXL.
    fn openclip(&self, dtype: DType) -> Result<f64> {
        let network = clip::ClipTextModel::with_projection(&self.config("text_encoder_2")?, self.device);
        let network = network.load(self.part("text_encoder_2")?, dtype)?;
        let embedded = network.forward(&self.ids("text.0.ids.2")?).text_embeds.context("it has no projection")?;
        self.error("text.0.pooled_prompt_embeds", embedded)
    }

    /// Errors of encoder and decoder.
    fn tiny_vae(&self, dtype: DType) -> Result<(f64, f64)> {
        let network = autoencoder_tiny::AutoencoderTiny::new(&self.config("")?, self.device);
        let network = load_strict(network, &self.part("")?, dtype)?;
        let encoded = network.encode(self.tensor("image", dtype)?);
        let decoded = network.decode(self.tensor("latents", dtype)?);
        Ok((self.error("encoded", encoded)?, self.error("decoded", decoded)?))
    }

    fn unet(&self, dtype: DType) -> Result<f64> {
        let config: unet::Config = self.config("unet")?;
        let network = unet::UNet2DConditionModel::new(&config, self.device);
        let network = load_strict(network, &self.part("unet")?, dtype)?;
        let answers = self.answers()?;
        let timestep: Vec<f64> = answers.read_f32("unet.even.in.timestep")?.into_iter().map(f64::from).collect();
        let added = match answers.read_f32("unet.even.in.time_ids") {
            Err(_) => None,
            Ok(ids) => Some(unet::AddedConditions {
                text_embeds: self.tensor("unet.even.in.text_embeds", dtype)?,
                time_ids: ids.chunks(6).map(<[f32]>::to_vec).collect(),
            }),
        };
        let text = self.tensor("unet.even.in.encoder_hidden_states", dtype)?;
        let sample = self.tensor("unet.even.in.sample", dtype)?;
        self.error("unet.even.out", network.forward(sample, &timestep, text, added, None))
    }

    /// Errors of encoder and decoder.
    fn vae(&self, dtype: DType) -> Result<(f64, f64)> {
        let network = vae::Autoencoder::new(&self.config("vae")?, self.device);
        let network = load_strict(network, &self.part("vae")?, dtype)?;
        let mean = network.encode(self.tensor("vae.image", dtype)?).mean;
        let decoded = network.decode(self.tensor("vae.latents", dtype)?);
        Ok((self.error("vae.mean", mean)?, self.error("vae.decoded", decoded)?))
    }
}

fn picture(ember: &Path, device: &Device) -> Result<RgbImage> {
    let pipeline = Pipeline::load(ember, device)?;
    let request = pipeline.request("owl on a blue background", 7);
    let mut pictures = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()))?;
    pictures.pop().context("no picture was made")
}
