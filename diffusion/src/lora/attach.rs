//! Hanging adapters on a transformer as low-rank branches. The base weights are never changed, so taking the branches away
//! leaves the model bit by bit as it was.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;

use super::LoraFile;
use super::file::Update;
use crate::layers::Branch;
use crate::networks::flux::FluxTransformer;
use crate::{Error, Result};

/// How much of a file found its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchReport {
    /// Modules of the transformer that have a branch of this file now.
    pub matched: usize,
    /// What the file holds besides, as it names it: other networks, blocks that this model does not have.
    pub unmatched: Vec<String>,
    /// Where the adapter's strength was found.
    pub alpha_source: String,
}

/// Replaces all branches by those of `loras`, each with its scale. Checks everything before it changes anything. On a
/// `device` with autodiff the factors require gradients.
pub fn attach(
    transformer: &mut FluxTransformer,
    loras: &[(&LoraFile, f64)],
    device: &Device,
) -> Result<Vec<MatchReport>> {
    let mut linears: BTreeMap<_, _> = transformer.linears().into_iter().collect();
    let sizes: BTreeMap<String, [usize; 2]> =
        linears.iter().map(|(path, linear)| (path.clone(), linear.weight.lazy_shape().dims())).collect();
    let mut reports = Vec::with_capacity(loras.len());
    let mut branches: BTreeMap<&str, Vec<Branch>> = BTreeMap::new();
    for (file, scale) in loras {
        if !scale.is_finite() {
            return Err(Error::Invalid(format!("{scale} is no scale for an adapter")));
        }
        let mut report =
            MatchReport { matched: 0, unmatched: file.others().to_vec(), alpha_source: file.alpha_source().to_owned() };
        for (path, update) in file.updates() {
            if sizes.get(path) == Some(&[update.outputs, update.inputs]) {
                branches.entry(path).or_default().push(branch(update, *scale, device));
                report.matched += 1;
            } else {
                report.unmatched.push(path.clone());
            }
        }
        if report.matched == 0 {
            return Err(misfit(file, &sizes));
        }
        reports.push(report);
    }
    for (path, linear) in &mut linears {
        linear.branches = branches.remove(path.as_str()).unwrap_or_default();
    }
    Ok(reports)
}

fn branch(update: &Update, scale: f64, device: &Device) -> Branch {
    let tensor = |values: &[f32], shape: [usize; 2]| {
        Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32)))
    };
    Branch {
        down: tensor(&update.down, [update.rank, update.inputs]),
        up: tensor(&update.up, [update.outputs, update.rank]),
        scale: update.scale * scale,
    }
}

/// Why not one module of a FLUX adapter fits this FLUX model: the first one that has a counterpart tells.
fn misfit(file: &LoraFile, sizes: &BTreeMap<String, [usize; 2]>) -> Error {
    let counterpart = file.updates().iter().find_map(|(path, update)| Some((path, update, sizes.get(path)?)));
    Error::Adapter(match counterpart {
        Some((path, update, [outputs, inputs])) => format!(
            "it was made for a FLUX model of another size: {path} is {}×{} there and {outputs}×{inputs} in this model",
            update.outputs, update.inputs
        ),
        None => "it was made for a FLUX model with other blocks than this one has".into(),
    })
}
