//! Merges adapters into the weights, for many pictures with the same adapters: a step then costs as much as without
//! them. The original weights are kept, so that the model can be restored bit for bit. In bf16, merging rounds small
//! updates away; an attached branch does not.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;
use memory::WeightStorage;

use super::attach::{self, Layer, MatchReport, Target};
use super::update::Update;
use super::{LoraFile, Network, dora};
use crate::layers::Weight;
use crate::{Error, Result};

/// The original weights. Dropping them makes the change permanent.
#[derive(Debug)]
#[must_use = "the original weights are in it"]
pub struct Merged(BTreeMap<(Network, String), Original>);

/// Weight and bias of one layer.
#[derive(Debug)]
enum Original {
    /// A norm keeps its parameters: its changes cost nothing.
    Norm,
    Linear(Weight<2>, Option<Param<Tensor<1>>>),
    Convolution(Weight<4>, Option<Param<Tensor<1>>>),
}

/// Like [`attach`](super::attach()), but changes the weights. Packed weights are rejected: packing them again would
/// lose precision that an attached adapter does not lose.
pub fn merge(targets: &mut [Target], loras: &[(&LoraFile, f64)]) -> Result<(Vec<MatchReport>, Merged)> {
    let packed = |layer: &Layer| match layer {
        Layer::Linear(linear) => linear.weight.storage() != WeightStorage::Full,
        Layer::Convolution(convolution) => convolution.weight.storage() != WeightStorage::Full,
        Layer::Norm(_) => false,
    };
    if targets.iter_mut().any(|target| target.layers().any(|(_, layer)| packed(&layer))) {
        return Err(Error::Invalid("adapters are merged into full weights only; attach them to packed ones".into()));
    }
    let device = Device::flex();
    let (reports, mut updates) = attach::fitting(targets, loras, &device)?;
    let mut originals = BTreeMap::new();
    for target in targets {
        let network = target.network;
        for (path, mut layer) in target.layers() {
            layer.clear();
            let key = (network, path.to_owned());
            if let Some(updates) = updates.remove(&key) {
                originals.insert(key, change(&mut layer, &updates, &device)?);
            }
        }
    }
    Ok((reports, Merged(originals)))
}

impl Merged {
    /// Restores the original weights.
    pub fn restore(mut self, targets: &mut [Target]) {
        for target in targets {
            let network = target.network;
            for (path, layer) in target.layers() {
                match (self.0.remove(&(network, path.to_owned())), layer) {
                    (Some(Original::Linear(weight, bias)), Layer::Linear(linear)) => {
                        (linear.weight, linear.bias) = (weight, bias);
                    }
                    (Some(Original::Convolution(weight, bias)), Layer::Convolution(convolution)) => {
                        (convolution.weight, convolution.bias) = (weight, bias);
                    }
                    (Some(Original::Norm), mut layer) => layer.clear(),
                    _ => {}
                }
            }
        }
    }
}

/// Changes weight and bias of a layer in their own dtypes, and returns the originals.
fn change(layer: &mut Layer, updates: &[(Update, f64)], device: &Device) -> Result<Original> {
    let Some(weight) = layer.weight() else {
        layer.set_updates(updates, None, device)?;
        return Ok(Original::Norm);
    };
    let (weight, shift) = changed(&weight, updates);
    let biased = |bias: &Option<Param<Tensor<1>>>| {
        let Some(shift) = &shift else { return bias.clone() };
        let sum = match bias {
            Some(bias) => bias.val() + shift.clone().cast(bias.val().dtype()),
            None => shift.clone(),
        };
        Some(Param::from_tensor(sum))
    };
    Ok(match layer {
        Layer::Norm(_) => Original::Norm,
        Layer::Linear(linear) => {
            let old = linear.weight.value(DType::F32);
            let weight = Weight::Full(Param::from_tensor(weight.reshape(old.dims()).cast(old.dtype())));
            let bias = biased(&linear.bias);
            Original::Linear(std::mem::replace(&mut linear.weight, weight), std::mem::replace(&mut linear.bias, bias))
        }
        Layer::Convolution(convolution) => {
            let dtype = convolution.weight.value(DType::F32).dtype();
            let weight = Weight::Full(Param::from_tensor(weight.cast(dtype)));
            let bias = biased(&convolution.bias);
            Original::Convolution(
                std::mem::replace(&mut convolution.weight, weight),
                std::mem::replace(&mut convolution.bias, bias),
            )
        }
    })
}

/// The weight with all updates, each computed from the original weight, and the change of the bias.
fn changed(weight: &Tensor<4>, updates: &[(Update, f64)]) -> (Tensor<4>, Option<Tensor<1>>) {
    let device = &weight.device();
    let (mut sum, mut shift) = (weight.clone(), None);
    for (update, strength) in updates {
        if let Some(bias) = &update.bias {
            attach::accumulate(&mut shift, bias.tensor(device) * *strength);
        }
        let Some(delta) = &update.delta else { continue };
        let delta = delta.dense(device) * (update.scale * strength);
        sum = sum
            + match &update.magnitude {
                None => delta,
                Some(magnitude) => {
                    let moved = weight.clone() + delta;
                    dora::gain(magnitude, moved.clone(), device).of_weight(moved) - weight.clone()
                }
            };
    }
    (sum, shift)
}
