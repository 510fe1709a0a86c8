//! Attaches adapters to networks as branches beside their layers. The base weights never change, so detaching restores
//! the model bit for bit.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;
use formats::adapter::Network;
use serde::Serialize;

use super::LoraFile;
use super::dora;
use super::file::Adapted;
use super::update::{Form, Magnitude, Update};
use crate::checkpoint::Checkpoint;
use crate::device::weight_dtype;
use crate::layers::{Branch, Changes, Conv2d, ConvBranch, Kronecker, Linear, NamedLayers, NormChanges, NormSlot};
use crate::networks::flux::FluxTransformer;
use crate::{Error, Result};

/// The layers of one network that adapters can be attached to, by path.
pub struct Target<'a> {
    pub network: Network,
    pub linears: Vec<(String, &'a mut Linear)>,
    pub convolutions: Vec<(String, &'a mut Conv2d)>,
    pub norms: Vec<(String, NormSlot<'a>)>,
    /// The base weights and the device, for a network that is not loaded.
    base: Option<(&'a Checkpoint, &'a Device)>,
}

/// How much of an adapter file matched the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MatchReport {
    /// Number of modules that this file is attached to.
    pub matched: usize,
    /// The same per network.
    pub networks: BTreeMap<Network, usize>,
    /// Layers that the file changes and that this model does not have.
    pub unmatched: Vec<String>,
    /// Where the alpha came from.
    pub alpha_source: String,
    /// Device memory that it takes, in bytes.
    #[serde(skip)]
    pub bytes: u64,
}

impl<'a> Target<'a> {
    /// All layers of a network.
    pub fn of(network: Network, layers: NamedLayers<'a>) -> Self {
        let NamedLayers { linears, convolutions, norms } = layers;
        Self { network, linears, convolutions, norms, base: None }
    }

    /// Reads base weights from a checkpoint, so that adapters can be attached to a network that is not loaded. They are
    /// made on its `device`.
    pub(crate) fn with_base(self, checkpoint: &'a Checkpoint, device: &'a Device) -> Self {
        Self { base: Some((checkpoint, device)), ..self }
    }

    /// The linear layers of a network.
    pub fn new(network: Network, linears: Vec<(String, &'a mut Linear)>) -> Self {
        Self { network, linears, convolutions: Vec::new(), norms: Vec::new(), base: None }
    }

    /// Adds the network's convolutions.
    pub fn with_convolutions(self, convolutions: Vec<(String, &'a mut Conv2d)>) -> Self {
        Self { convolutions, ..self }
    }

    /// Every layer by its path.
    pub(super) fn layers(&mut self) -> impl Iterator<Item = (&str, Layer<'_, 'a>)> {
        let linears = self.linears.iter_mut().map(|(path, linear)| (path.as_str(), Layer::Linear(linear)));
        let convolutions = self.convolutions.iter_mut().map(|(path, conv)| (path.as_str(), Layer::Convolution(conv)));
        let norms = self.norms.iter_mut().map(|(path, norm)| (path.as_str(), Layer::Norm(norm)));
        linears.chain(convolutions).chain(norms)
    }
}

impl<'a> From<&'a mut FluxTransformer> for Target<'a> {
    fn from(transformer: &'a mut FluxTransformer) -> Self {
        Self::of(Network::Transformer, transformer.layers())
    }
}

/// Replaces all adapters of the targets by `loras`, each with its scale. Validates everything before it changes
/// anything. On a `device` with autodiff the factors require gradients.
///
/// Scales act as in diffusers and PEFT: they multiply ΔW. DoRA applies its magnitudes at any scale, including 0:
/// `W' = m (W + s ΔW) / ‖W + s ΔW‖`.
pub fn attach(targets: &mut [Target], loras: &[(&LoraFile, f64)], device: &Device) -> Result<Vec<MatchReport>> {
    let (reports, mut updates) = fitting(targets, loras, device)?;
    for target in targets {
        let (network, base) = (target.network, target.base);
        for (path, mut layer) in target.layers() {
            layer.clear();
            if let Some(updates) = updates.remove(&(network, path.to_owned())) {
                let device = base.map_or(device, |(_, device)| device);
                let base = base.map(|(checkpoint, _)| Base { checkpoint, path });
                layer.set_updates(&updates, base, device)?;
            }
        }
    }
    Ok(reports)
}

/// The updates of each module by network and path, each with its scale.
pub(super) type Updates = BTreeMap<(Network, String), Vec<(Update, f64)>>;

/// The updates of `loras` that match these targets, and a report for each file. Changes nothing yet.
pub(super) fn fitting(
    targets: &mut [Target],
    loras: &[(&LoraFile, f64)],
    device: &Device,
) -> Result<(Vec<MatchReport>, Updates)> {
    let mut shapes = BTreeMap::new();
    for target in targets {
        let network = target.network;
        shapes.extend(target.layers().map(|(path, layer)| ((network, path.to_owned()), layer.shape())));
    }
    let mut reports = Vec::with_capacity(loras.len());
    let mut updates = Updates::new();
    for (file, scale) in loras {
        let (report, fitting) = fit(file, &shapes, weight_dtype(device))?;
        for (module, update) in fitting {
            let scale = file.scale_on(module.network, *scale);
            if !scale.is_finite() {
                return Err(Error::Invalid(format!("{scale} is no scale for an adapter")));
            }
            updates.entry((module.network, module.path.clone())).or_default().push((update, scale));
        }
        reports.push(report);
    }
    Ok((reports, updates))
}

/// The modules of a file that match these layers, and the report about them.
fn fit<'a>(
    file: &'a LoraFile,
    shapes: &BTreeMap<(Network, String), [usize; 4]>,
    dtype: DType,
) -> Result<(MatchReport, Vec<(&'a Adapted, Update)>)> {
    let mut report = MatchReport {
        matched: 0,
        networks: BTreeMap::new(),
        unmatched: Vec::new(),
        alpha_source: file.alpha_source().to_owned(),
        bytes: 0,
    };
    let mut fitting = Vec::new();
    for module in file.modules() {
        let Some(shape) = shapes.get(&(module.network, module.path.clone())) else {
            report.unmatched.push(module.path.clone());
            continue;
        };
        let mut update = module.update.clone();
        update.delta = update.delta.map(|delta| delta.with_kernel_of(*shape));
        if fits(&update, *shape) {
            *report.networks.entry(module.network).or_default() += 1;
            report.matched += 1;
            report.bytes += update.bytes(dtype);
            fitting.push((module, update));
        } else if !module.path.contains('.') {
            // The first and last layers differ among models of one family, for example for inpainting.
            report.unmatched.push(module.path.clone());
        } else {
            return Err(misfit(file, module, *shape));
        }
    }
    if report.matched == 0 {
        let blocks = file.modules().iter().any(|module| shapes.keys().any(|(network, _)| *network == module.network));
        let why =
            if blocks { "which has other blocks than this model" } else { "and this model is none of its family" };
        return Err(Error::Adapter(format!("{} looks like {}, {why}", file.name(), file.family())));
    }
    Ok((report, fitting))
}

fn fits(update: &Update, shape: [usize; 4]) -> bool {
    let [outputs, inputs, ..] = shape;
    let magnitudes = match &update.magnitude {
        None => true,
        Some(Magnitude::Outputs(magnitude)) => magnitude.rows() == outputs,
        Some(Magnitude::Inputs(magnitude)) => magnitude.rows() == inputs,
    };
    update.delta.as_ref().is_none_or(|delta| delta.shape() == shape)
        && update.bias.as_ref().is_none_or(|bias| bias.rows() == outputs)
        && magnitudes
}

/// Explains why a module of a file does not fit its layer: it was made for a model of another size.
fn misfit(file: &LoraFile, module: &Adapted, shape: [usize; 4]) -> Error {
    let size = |[outputs, inputs, height, width]: [usize; 4]| match (height, width) {
        (1, 1) => format!("{outputs}×{inputs}"),
        _ => format!("{outputs}×{inputs}×{height}×{width}"),
    };
    let theirs = module.update.delta.as_ref().map_or("other".to_owned(), |delta| size(delta.shape()));
    Error::Adapter(format!(
        "{} looks like {} for a model of another size: {} is {theirs} there and {} in this model",
        file.name(),
        file.family(),
        module.path,
        size(shape)
    ))
}

/// A layer that adapters can be attached to.
pub(super) enum Layer<'l, 'a> {
    Linear(&'l mut Linear),
    Convolution(&'l mut Conv2d),
    Norm(&'l mut NormSlot<'a>),
}

impl Layer<'_, '_> {
    /// `[out, in, kernel height, kernel width]`, of a norm `[channels, 1, 1, 1]`
    pub(super) fn shape(&self) -> [usize; 4] {
        match self {
            Self::Linear(linear) => {
                let [outputs, inputs] = linear.weight.dims();
                [outputs, inputs, 1, 1]
            }
            Self::Convolution(convolution) => convolution.weight.dims(),
            Self::Norm(norm) => [norm.width, 1, 1, 1],
        }
    }

    /// Detaches all adapters.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Linear(linear) => (linear.branches, linear.changes) = (Vec::new(), None),
            Self::Convolution(convolution) => (convolution.branches, convolution.changes) = (Vec::new(), None),
            Self::Norm(norm) => *norm.changes = None,
        }
    }

    /// Its loaded weight in f32, without autodiff, on the layer's device; `None` for a norm.
    pub(super) fn weight(&self) -> Option<Tensor<4>> {
        let weight = match self {
            Self::Linear(linear) => linear.weight.value(DType::F32).reshape(self.shape()),
            Self::Convolution(convolution) => convolution.weight.value(DType::F32),
            Self::Norm(_) => return None,
        };
        Some(weight.inner().cast(DType::F32))
    }

    /// Attaches the updates. `base` is where the layer's weight is read from if the layer is not loaded.
    pub(super) fn set_updates(
        &mut self,
        updates: &[(Update, f64)],
        base: Option<Base<'_>>,
        device: &Device,
    ) -> Result<()> {
        let (mut sum, dtype) = (Sum::default(), weight_dtype(device));
        for (update, strength) in updates {
            let weight = || match (&base, self.shape()) {
                (Some(base), shape) => base.weight(shape, device).map(Some),
                (None, _) => Ok(self.weight()),
            };
            sum.add(update, *strength, &weight, device)?;
        }
        match self {
            Self::Linear(linear) => {
                let flat = |weight: Tensor<4>| weight.flatten::<3>(2, 3).squeeze_dim::<2>(2);
                linear.branches = sum
                    .low_rank
                    .drain(..)
                    .map(|(down, _, up, scale)| Branch {
                        down: Param::from_tensor(flat(down)),
                        up: Param::from_tensor(flat(up)),
                        scale,
                    })
                    .collect();
                linear.changes = sum.changes(dtype, flat);
            }
            Self::Convolution(convolution) => {
                convolution.branches = sum
                    .low_rank
                    .drain(..)
                    .map(|(down, mid, up, scale)| ConvBranch {
                        down: Param::from_tensor(down),
                        mid: mid.map(Param::from_tensor),
                        up: Param::from_tensor(up),
                        scale,
                    })
                    .collect();
                convolution.changes = sum.changes(dtype, |weight| weight);
            }
            Self::Norm(norm) => {
                let weight = sum.delta.map(|delta| Param::from_tensor(delta.flatten::<1>(0, 3)));
                *norm.changes = Some(NormChanges { weight, bias: sum.bias.map(Param::from_tensor) });
            }
        }
        Ok(())
    }
}

/// Where the weight of a layer is stored that is not loaded.
pub(super) struct Base<'a> {
    checkpoint: &'a Checkpoint,
    path: &'a str,
}

impl Base<'_> {
    /// In f32, without autodiff.
    fn weight(&self, shape: [usize; 4], device: &Device) -> Result<Tensor<4>> {
        let key = format!("{}.weight", self.path);
        // Text encoders of `transformers` 5 omit the first name.
        let short = key.strip_prefix("text_model.").unwrap_or(&key);
        let key = if self.checkpoint.shape(&key).is_ok() { &key } else { short };
        let values = TensorData::new(self.checkpoint.read_f32(key)?, shape);
        Ok(Tensor::from_data(values, (&device.clone().without_autodiff(), DType::F32)))
    }
}

/// The sum of all updates of one layer.
#[derive(Default)]
struct Sum {
    low_rank: Vec<(Tensor<4>, Option<Tensor<4>>, Tensor<4>, f64)>,
    kronecker: Vec<(Tensor<2>, Tensor<4>, usize, usize, f64)>,
    delta: Option<Tensor<4>>,
    output_gain: Option<Tensor<1>>,
    input_gain: Option<Tensor<1>>,
    bias: Option<Tensor<1>>,
}

impl Sum {
    fn add(
        &mut self,
        update: &Update,
        strength: f64,
        weight: &dyn Fn() -> Result<Option<Tensor<4>>>,
        device: &Device,
    ) -> Result<()> {
        let scale = update.scale * strength;
        if let Some(bias) = &update.bias {
            accumulate(&mut self.bias, bias.tensor(device) * strength);
        }
        let Some(delta) = &update.delta else { return Ok(()) };
        let weight = update.magnitude.as_ref().map(|_| weight()).transpose()?.flatten();
        let Some((magnitude, weight)) = update.magnitude.as_ref().zip(weight) else {
            self.push(delta.form(device), scale);
            return Ok(());
        };
        let dense = delta.dense(device);
        let gain = dora::gain(magnitude, weight.to_device(device) + dense.clone() * scale, device);
        // Scaling the rows of W + ΔW equals W plus (gain − 1) W plus the scaled ΔW.
        let form = match delta.form(device) {
            Form::Kronecker { .. } | Form::Full(_) => Form::Full(gain.of_weight(dense)),
            Form::LowRank { down, mid, up } => gain.of_factors(down, mid, up),
        };
        match gain {
            dora::Gain::Outputs(gain) => add_gain(&mut self.output_gain, gain),
            dora::Gain::Inputs(gain) => add_gain(&mut self.input_gain, gain),
        }
        self.push(form, scale);
        Ok(())
    }

    fn push(&mut self, form: Form, scale: f64) {
        match form {
            Form::LowRank { down, mid, up } => self.low_rank.push((down, mid, up, scale)),
            Form::Kronecker { left, right, first, outputs } => {
                self.kronecker.push((left, right, first, outputs, scale));
            }
            Form::Full(delta) => accumulate(&mut self.delta, delta * scale),
        }
    }

    fn changes<const D: usize>(self, dtype: DType, shaped: impl Fn(Tensor<4>) -> Tensor<D>) -> Option<Changes<D>> {
        let Self { kronecker, delta, output_gain, input_gain, bias, .. } = self;
        if kronecker.is_empty() && delta.is_none() && output_gain.is_none() && input_gain.is_none() && bias.is_none() {
            return None;
        }
        let kronecker = kronecker.into_iter().map(|(left, right, first, outputs, scale)| Kronecker {
            left: Param::from_tensor(left),
            right: Param::from_tensor(shaped(right)),
            first,
            outputs,
            scale,
        });
        Some(Changes {
            output_gain: output_gain.map(Param::from_tensor),
            input_gain: input_gain.map(Param::from_tensor),
            // Cast to the layer's dtype, in which it is used: f32 would only take more memory.
            delta: delta.map(|delta| Param::from_tensor(shaped(delta).cast(dtype))),
            kronecker: kronecker.collect(),
            bias: bias.map(Param::from_tensor),
        })
    }
}

/// Adds to a sum, or starts it.
pub(super) fn accumulate<const D: usize>(sum: &mut Option<Tensor<D>>, more: Tensor<D>) {
    *sum = Some(match sum.take() {
        Some(sum) => sum + more,
        None => more,
    });
}

/// Adds up the changes of several DoRAs on one layer, as PEFT does.
fn add_gain(sum: &mut Option<Tensor<1>>, gain: Tensor<1>) {
    *sum = Some(match sum.take() {
        Some(sum) => sum + (gain - 1.0),
        None => gain,
    });
}
