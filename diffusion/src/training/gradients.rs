//! Gradients of named parameters, from one or several backward passes.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::Gradients as Pass;

use crate::checkpoint::is_choice;

/// Flattened, without autodiff, by parameter path.
#[derive(Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor<1>>);

impl Gradients {
    /// Takes the gradients of the parameters of `network` out of one pass (`loss.backward()`), which may also hold
    /// those of other networks.
    pub fn of<M: Module>(network: &M, pass: &mut Pass) -> Self {
        let mut gradients = Self::default();
        gradients.collect(network, &[], pass);
        gradients
    }

    /// Each gradient with its path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<1>)> {
        self.0.iter().map(|(path, gradient)| (path.as_str(), gradient))
    }

    /// The mean over equal parts of a batch.
    pub fn mean(parts: Vec<Self>) -> Self {
        let share = 1.0 / parts.len().max(1) as f64;
        let mut sums: BTreeMap<String, Tensor<1>> = BTreeMap::new();
        for (path, gradient) in parts.into_iter().flat_map(|part| part.0) {
            let sum = match sums.remove(&path) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            sums.insert(path, sum);
        }
        Self(sums.into_iter().map(|(path, sum)| (path, sum * share)).collect())
    }

    /// Adds the gradients of a part of the network. `path` is the path of that part.
    pub(super) fn collect<M: Module>(&mut self, part: &M, path: &[&str], pass: &mut Pass) {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        part.visit(&mut Collector { gradients: &mut self.0, pass, path });
    }

    /// The global L2 norm; 0 if there are no gradients.
    pub fn norm(&self) -> f64 {
        // Summed on the device: reading a thousand sums one by one would wait a thousand times.
        let squares = self.0.values().map(|gradient| gradient.clone().square().sum());
        squares.reduce(|sum, next| sum + next).map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()).sqrt())
    }

    pub(super) fn remove(&mut self, path: &str) -> Option<Tensor<1>> {
        self.0.remove(path)
    }
}

struct Collector<'a> {
    gradients: &'a mut BTreeMap<String, Tensor<1>>,
    pass: &'a mut Pass,
    path: Vec<String>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !is_choice(container) {
            self.path.push(name.to_string());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if !is_choice(container) {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(self.pass) {
            let count = gradient.dims().iter().product::<usize>();
            self.gradients.insert(self.path.join("."), gradient.reshape([count]));
        }
    }
}
