//! Trains a LoRA adapter of a FLUX.1 model: low-rank branches on every attention and feed-forward layer of the blocks
//! learn the flow-matching objective on a few captioned pictures. The base model is frozen and outside of autodiff.
//!
//! Hu et al., "LoRA", <https://arxiv.org/abs/2106.09685>.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::DType;
use memory::{Keep, LoadOptions, MOST_KEPT};
use requests::TrainingParams;

use super::checkpointing;
use super::data::Cache;
use super::{
    AdamW, AdamWConfig, Batch, Gradients, Moments, Random, TrainingExample, draw_level, flow_batch, flow_loss,
};
use crate::checkpoint::{self, Checkpoint, Reading, Stored};
use crate::layers::Branch;
use crate::lora::{self, Factors};
use crate::networks::flux::{FluxInput, FluxTransformer};
use crate::pipelines::flux::FluxPipeline;
use crate::{Error, Result};

/// The guidance scale of a distilled model during training: the value that means "no guidance".
const GUIDANCE: f32 = 1.0;
/// Share of examples whose caption is dropped, for models with classifier-free guidance.
const WITHOUT_CAPTION: f64 = 0.1;
/// Identifies the checkpoint of an unfinished training.
const FORMAT: &str = "pyrograph lora training 1";

/// The model to train.
#[derive(Debug)]
pub struct Subject {
    pub transformer: FluxTransformer,
    /// The dtype of its weights.
    pub dtype: DType,
    /// The shift of the noise levels towards noise.
    pub shift: f64,
    /// Whether it embeds the guidance scale.
    pub guided: bool,
}

/// One completed step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainStep {
    /// From 1.
    pub step: usize,
    pub total_steps: usize,
    /// Mean squared error of the predicted velocity on this step's batch.
    pub loss: f64,
}

/// A running training: an iterator of its steps. After an error it ends.
#[derive(Debug)]
pub struct LoraTrainer {
    params: TrainingParams,
    transformer: FluxTransformer,
    cache: Cache,
    examples: usize,
    optimizer: AdamW,
    random: Random,
    step: usize,
    shift: f64,
    guided: bool,
    dtype: DType,
    gradient_checkpointing: bool,
    failed: bool,
}

/// The caption with the trigger word before it, unless it contains the word.
fn with_trigger_word(caption: &str, trigger_word: Option<&str>) -> String {
    match trigger_word.map(str::trim).filter(|word| !word.is_empty()) {
        Some(word) if !caption.contains(word) => format!("{word} {}", caption.trim()).trim().to_owned(),
        _ => caption.trim().to_owned(),
    }
}

impl LoraTrainer {
    /// Like [`Self::load`], with the base model in full.
    pub fn new(base: &Path, examples: &[TrainingExample], params: TrainingParams, device: &Device) -> Result<Self> {
        Self::load(base, examples, params, device, LoadOptions::default(), &Reading::default())
    }

    /// Encodes the examples once, then loads the transformer, whose weights may be packed since they are not trained,
    /// and attaches new branches to it: A uniform within ±1/√in, B zero, so that the first step sees the base model
    /// unchanged. `reading` follows the reading of the weights, and is asked before each example.
    ///
    /// # Errors
    /// [`Error::Canceled`] if `reading` ends it.
    pub fn load(
        base: &Path,
        examples: &[TrainingExample],
        params: TrainingParams,
        device: &Device,
        options: LoadOptions,
        reading: &Reading,
    ) -> Result<Self> {
        params.check().map_err(|error| Error::Invalid(error.to_string()))?;
        let options = LoadOptions { keep: Keep::One, resident_blocks: None, ..options };
        let pipeline = FluxPipeline::load_followed(base, device, options, reading)?;
        let word = params.trigger_word.as_deref();
        let captioned: Vec<_> =
            examples.iter().map(|example| (example.image.clone(), with_trigger_word(&example.caption, word))).collect();
        let cache = Cache::new(&pipeline, &captioned, params.resolution as usize)?;
        let subject = Subject {
            shift: pipeline.training_shift(),
            guided: pipeline.is_guided(),
            dtype: pipeline.dtype,
            transformer: pipeline.into_transformer()?,
        };
        Ok(Self::of(subject, cache, examples.len(), params, device))
    }

    /// The same for a loaded model and `examples` encoded examples.
    pub fn of(subject: Subject, cache: Cache, examples: usize, params: TrainingParams, device: &Device) -> Self {
        let Subject { mut transformer, dtype, shift, guided } = subject;
        let mut random = Random::new(params.seed.unsigned_abs());
        let gradient_checkpointing = transformer.num_params() > MOST_KEPT;
        add_branches(&mut transformer, params.rank as usize, params.alpha, device, &mut random);
        let optimizer = AdamW::new(AdamWConfig { beta2: 0.999, weight_decay: 1e-2, ..AdamWConfig::default() });
        Self {
            params,
            transformer,
            cache,
            examples,
            optimizer,
            random,
            step: 0,
            shift,
            guided,
            dtype,
            gradient_checkpointing,
            failed: false,
        }
    }

    /// Sets whether activations are recomputed instead of kept. The default depends on the size of the model.
    /// Gradients are the same either way.
    pub fn set_gradient_checkpointing(&mut self, on: bool) {
        self.gradient_checkpointing = on;
    }

    /// Steps completed.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Resumes the training that wrote `checkpoint`, which must have had the same config and number of examples. The
    /// following steps are the same as without the interruption.
    pub fn resume(&mut self, checkpoint: &Path) -> Result<()> {
        let file = Checkpoint::open(checkpoint)?;
        let broken = |reason: &str| Error::malformed(checkpoint, reason);
        let said = |key: &str| file.metadata().get(key).ok_or_else(|| broken("it is no checkpoint of a LoRA training"));
        if said("format")? != FORMAT {
            return Err(broken("it is no checkpoint of a LoRA training"));
        }
        if *said("config")? != self.config_text()? || *said("examples")? != self.examples.to_string() {
            return Err(broken("it belongs to a training with another config or other examples"));
        }
        let number = |key: &str| said(key)?.parse::<u64>().map_err(|_| broken("its step or random state is no number"));
        let (step, random) = (number("step")?, number("random")?);

        let mut moments = BTreeMap::new();
        let mut restored = Vec::new();
        for (path, linear) in self.transformer.block_linears() {
            let Some(branch) = linear.branches.first() else { continue };
            for (part, shape) in [("down", branch.down.dims()), ("up", branch.up.dims())] {
                let key = format!("{path}.branches.0.{part}");
                let read = |prefix: &str| {
                    let name = format!("{prefix}.{key}");
                    if file.shape(&name)? != shape {
                        return Err(broken("its adapter has another shape"));
                    }
                    file.read_f32(&name)
                };
                restored.push((read("adapter")?, shape));
                if step > 0 {
                    let device = branch.down.val().inner().device();
                    let flat = |values: Vec<f32>| {
                        let count = values.len();
                        Tensor::from_data(TensorData::new(values, [count]), &device)
                    };
                    let both = Moments { first: flat(read("first")?), second: flat(read("second")?) };
                    moments.insert(key, both);
                }
            }
        }
        let mut restored = restored.into_iter();
        for (_, linear) in self.transformer.block_linears() {
            let Some(branch) = linear.branches.first_mut() else { continue };
            let device = branch.down.val().inner().device();
            if let (Some(down), Some(up)) = (restored.next(), restored.next()) {
                branch.down = trainable(down.0, down.1, &device);
                branch.up = trainable(up.0, up.1, &device);
            }
        }
        self.optimizer.restore(step, moments);
        self.random = Random::new(random);
        self.step = step as usize;
        Ok(())
    }

    /// Writes everything that [`LoraTrainer::resume`] needs into one safetensors file, completely or not at all.
    pub fn save_checkpoint(&self, path: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (key, factor) in self.factors() {
            let shape = factor.dims();
            tensors.push(Stored::new(format!("adapter.{key}"), factor, DType::F32)?);
            if let Some(Moments { first, second }) = self.optimizer.moments().get(&key) {
                tensors.push(Stored::new(format!("first.{key}"), first.clone().reshape(shape), DType::F32)?);
                tensors.push(Stored::new(format!("second.{key}"), second.clone().reshape(shape), DType::F32)?);
            }
        }
        let metadata = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("config".to_owned(), self.config_text()?),
            ("examples".to_owned(), self.examples.to_string()),
            ("step".to_owned(), self.step.to_string()),
            ("random".to_owned(), self.random.state().to_string()),
        ]);
        checkpoint::write(path, tensors, &metadata)
    }

    /// Writes the adapter in bf16, as other programs load it. `metadata` is added to the trainer's own and takes
    /// precedence.
    pub fn save_adapter(&self, path: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
        let mut header = self.header();
        header.extend(metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
        let scale = self.params.alpha / f64::from(self.params.rank);
        let mut factors = self.factors().into_iter();
        let mut modules = Vec::new();
        while let (Some((key, down)), Some((_, up))) = (factors.next(), factors.next()) {
            let path = key.trim_end_matches(".branches.0.down").to_owned();
            modules.push(Factors { path, down, up, scale });
        }
        lora::save(path, &modules, DType::BF16, &header)
    }

    /// Both factors of every branch, A before B, without autodiff, by the optimizer's paths.
    fn factors(&self) -> Vec<(String, Tensor<2>)> {
        let mut transformer = self.transformer.clone();
        let factors = transformer.block_linears().into_iter().filter_map(|(path, linear)| {
            let branch = linear.branches.first()?;
            Some([
                (format!("{path}.branches.0.down"), branch.down.val().inner()),
                (format!("{path}.branches.0.up"), branch.up.val().inner()),
            ])
        });
        factors.flatten().collect()
    }

    fn config_text(&self) -> Result<String> {
        serde_json::to_string(&self.params).map_err(|error| Error::Invalid(error.to_string()))
    }

    /// The header fields that other tools show. Alpha equals the rank in it, since it is multiplied into the weights.
    fn header(&self) -> BTreeMap<String, String> {
        let TrainingParams { trigger_word, rank, learning_rate, resolution, seed, .. } = &self.params;
        let mut fields = vec![
            ("ss_network_module", "networks.lora_flux".to_owned()),
            ("ss_network_dim", rank.to_string()),
            ("ss_network_alpha", rank.to_string()),
            ("ss_base_model_version", "flux1".to_owned()),
            ("ss_num_train_images", self.examples.to_string()),
            ("ss_steps", self.step.to_string()),
            ("ss_learning_rate", learning_rate.to_string()),
            ("ss_optimizer", "AdamW".to_owned()),
            ("ss_seed", seed.to_string()),
            ("modelspec.sai_model_spec", "1.0.1".to_owned()),
            ("modelspec.architecture", "flux-1-dev/lora".to_owned()),
            ("modelspec.implementation", "https://github.com/black-forest-labs/flux".to_owned()),
            ("modelspec.resolution", format!("{resolution}x{resolution}")),
            ("software", format!("{{\"name\": \"pyrograph\", \"version\": \"{}\"}}", env!("CARGO_PKG_VERSION"))),
        ];
        fields.extend(trigger_word.iter().map(|word| ("modelspec.trigger_phrase", word.clone())));
        fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn train_step(&mut self) -> Result<TrainStep> {
        let TrainingParams { batch_size, learning_rate, steps, .. } = self.params;
        let batch_size = batch_size as usize;
        let without_caption = if self.guided { 0.0 } else { WITHOUT_CAPTION };
        let batch = self.cache.draw(batch_size, without_caption, &mut self.random);
        let levels: Vec<f64> = (0..batch_size).map(|_| draw_level(&mut self.random, self.shift)).collect();
        let (loss, gradients) = self.backward(batch, &levels);
        let value = f64::from(loss.into_scalar::<f32>());
        if !value.is_finite() {
            return Err(Error::Invalid(format!(
                "the loss is {value} at step {}; a lower learning rate may help",
                self.step + 1
            )));
        }
        let (transformer, _) = self.optimizer.step(self.transformer.clone(), gradients, learning_rate);
        self.transformer = transformer;
        self.step += 1;
        Ok(TrainStep { step: self.step, total_steps: steps as usize, loss: value })
    }

    /// The loss of a batch, without autodiff, and the gradients of the factors.
    fn backward(&mut self, batch: Batch, levels: &[f64]) -> (Tensor<1>, Gradients) {
        let Batch { bucket, latents, hidden, pooled } = batch;
        let flow = flow_batch(latents, levels, &mut self.random);
        let [_, text, _] = hidden.dims();
        let rotary = self.transformer.rotary(text, bucket.rows, bucket.columns, &flow.noisy.device());
        let input = FluxInput {
            hidden: flow.noisy.cast(self.dtype),
            encoder_hidden: hidden,
            pooled,
            timestep: levels.iter().map(|level| *level as f32).collect(),
            guidance: self.guided.then(|| vec![GUIDANCE; levels.len()]),
        };
        if self.gradient_checkpointing {
            return checkpointing::backward(&self.transformer, input, &rotary, flow.velocity);
        }
        let loss = flow_loss(self.transformer.forward(input, &rotary), flow.velocity);
        (loss.clone().inner(), Gradients::of(&self.transformer, &mut loss.backward()))
    }
}

impl Iterator for LoraTrainer {
    type Item = Result<TrainStep>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.step >= self.params.steps as usize {
            return None;
        }
        let step = self.train_step();
        self.failed = step.is_err();
        Some(step)
    }
}

fn add_branches(transformer: &mut FluxTransformer, rank: usize, alpha: f64, device: &Device, random: &mut Random) {
    for (_, linear) in transformer.block_linears() {
        let [outputs, inputs] = linear.weight.dims();
        let bound = 1.0 / (inputs as f64).sqrt();
        let down = (0..rank * inputs).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect();
        linear.branches = vec![Branch {
            down: trainable(down, [rank, inputs], device),
            up: trainable(vec![0.0; outputs * rank], [outputs, rank], device),
            scale: alpha / rank as f64,
        }];
    }
}

/// A trainable factor, in f32 regardless of the dtype of the base.
fn trainable(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    let device = device.clone().autodiff();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goldens() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/flux-tiny-cfg")
    }

    fn params() -> TrainingParams {
        TrainingParams {
            trigger_word: Some("zwx".into()),
            steps: 10,
            rank: 3,
            alpha: 6.0,
            learning_rate: 1e-2,
            batch_size: 2,
            resolution: 32,
            seed: 5,
        }
    }

    /// A trainer with three pictures of two shapes.
    fn trainer(folder: &Path, params: TrainingParams) -> LoraTrainer {
        let examples: Vec<_> = [(40, 40), (80, 40), (37, 41)]
            .iter()
            .enumerate()
            .map(|(number, (width, height))| {
                let image = folder.join(format!("{number}.png"));
                let shade = 60 * number as u8;
                ::image::RgbImage::from_fn(*width, *height, |x, y| ::image::Rgb([shade, 3 * x as u8, 5 * y as u8]))
                    .save(&image)
                    .unwrap();
                TrainingExample { image, caption: format!("picture {number}") }
            })
            .collect();
        LoraTrainer::new(&goldens(), &examples, params, &Device::flex()).unwrap()
    }

    fn losses(trainer: &mut LoraTrainer, count: usize) -> Vec<f64> {
        trainer.take(count).map(|step| step.unwrap().loss).collect()
    }

    fn values(trainer: &LoraTrainer) -> Vec<Vec<f32>> {
        trainer.factors().into_iter().map(|(_, factor)| factor.into_data().try_to_vec().unwrap()).collect()
    }

    #[test]
    fn an_interrupted_training_continues_identically() {
        let folder = tempfile::tempdir().unwrap();
        let mut straight = trainer(folder.path(), params());
        let all = losses(&mut straight, 10);
        assert!(straight.next().is_none(), "ten steps were asked for");

        let mut first = trainer(folder.path(), params());
        let before = losses(&mut first, 5);
        let file = folder.path().join("checkpoint.safetensors");
        first.save_checkpoint(&file).unwrap();
        drop(first);
        let mut second = trainer(folder.path(), params());
        second.resume(&file).unwrap();
        assert_eq!(second.step(), 5);
        let after = losses(&mut second, 10);
        assert_eq!(all, [before, after].concat());
        assert_eq!(values(&straight), values(&second));
    }

    #[test]
    fn gradient_checkpointing_learns_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (mut kept, mut again) = (trainer(folder.path(), params()), trainer(folder.path(), params()));
        again.set_gradient_checkpointing(true);
        for (kept, again) in losses(&mut kept, 10).into_iter().zip(losses(&mut again, 10)) {
            assert!((kept - again).abs() < 1e-5 * kept, "{kept} and {again}");
        }
        for (kept, again) in values(&kept).into_iter().zip(values(&again)) {
            // Adam's first steps amplify rounding errors of near-zero gradients.
            let moved = kept.iter().zip(&again).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
            assert!(moved < 1e-3 * kept.iter().map(|a| a * a).sum::<f32>().sqrt(), "{moved}");
        }
    }

    #[test]
    fn a_checkpoint_of_another_training_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checkpoint.safetensors");
        trainer(folder.path(), params()).save_checkpoint(&file).unwrap();
        let mut other = trainer(folder.path(), TrainingParams { rank: 2, ..params() });
        assert!(other.resume(&file).unwrap_err().to_string().contains("another config"));
        let adapter = folder.path().join("adapter.safetensors");
        other.save_adapter(&adapter, &BTreeMap::new()).unwrap();
        assert!(other.resume(&adapter).is_err());
    }

    #[test]
    fn the_loss_falls_and_the_adapter_comes_back_as_it_was_trained() {
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = trainer(folder.path(), TrainingParams { steps: 60, batch_size: 4, ..params() });
        let losses = losses(&mut trainer, 60);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!(mean(&losses[45..]) < 0.9 * mean(&losses[..15]), "{losses:?}");

        let file = folder.path().join("adapter.safetensors");
        trainer.save_adapter(&file, &BTreeMap::from([("modelspec.title".into(), "test".into())])).unwrap();
        let mut pipeline = FluxPipeline::load(&goldens(), &Device::flex()).unwrap();
        let reports = pipeline.attach(&[(&lora::LoraFile::open(&file).unwrap(), 1.0)]).unwrap();
        assert_eq!(reports[0].unmatched, Vec::<String>::new());
        assert_eq!(2 * reports[0].matched, trainer.factors().len());

        // The loaded branches equal the trained ones within bf16.
        let input = FluxInput {
            hidden: Tensor::ones([1, 4, 24], &Device::flex()),
            encoder_hidden: Tensor::ones([1, 3, 40], &Device::flex()),
            pooled: Tensor::ones([1, 32], &Device::flex()),
            timestep: vec![0.5],
            guidance: None,
        };
        let rotary = trainer.transformer.rotary(3, 2, 2, &Device::flex());
        let run = |transformer: &FluxTransformer| -> Vec<f32> {
            transformer.forward(input.clone(), &rotary).inner().into_data().try_to_vec().unwrap()
        };
        let trained = run(&trainer.transformer);
        let loaded = run(&pipeline.into_transformer().unwrap());
        let base = run(&FluxPipeline::load(&goldens(), &Device::flex()).unwrap().into_transformer().unwrap());
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        assert!(distance(&trained, &loaded) < 0.02 * distance(&trained, &base), "the adapter changes nothing");
    }
}
