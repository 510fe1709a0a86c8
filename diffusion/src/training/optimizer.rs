//! AdamW over the named parameters of a network. Moments are f32 and kept by parameter path, so that they can be written
//! next to the weights and found again by another process.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::Gradients;

/// How AdamW moves weights ([Loshchilov and Hutter 2017](https://arxiv.org/abs/1711.05101)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decay of the weights, multiplied by the learning rate.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global L2 norm if it is larger.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 }
    }
}

/// The optimizer and its moments.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

/// First and second moment of one parameter's gradient, flattened.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Tensor<1>,
    /// Running mean of its square.
    pub second: Tensor<1>,
}

impl AdamW {
    /// An optimizer that has not seen a gradient yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new() }
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments by parameter path, to be saved.
    pub fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    /// Goes on from saved moments.
    pub fn restore(&mut self, steps: u64, moments: BTreeMap<String, Moments>) {
        self.steps = steps;
        self.moments = moments;
    }

    /// Moves every parameter of `network` that has a gradient. Answers the network and the gradient's global L2 norm
    /// before clipping.
    pub fn step<M: Module>(&mut self, network: M, mut gradients: Gradients, learning_rate: f64) -> (M, f64) {
        let norm = global_norm(&network, &gradients);
        let clip = if norm > self.config.max_grad_norm { self.config.max_grad_norm / norm } else { 1.0 };
        self.steps += 1;
        let network = network.map(&mut Step { optimizer: self, gradients: &mut gradients, learning_rate, clip, path: Vec::new() });
        (network, norm)
    }

    /// One parameter's update, all flattened: `p − lr·(m̂ / (√v̂ + ε) + λ·p)`.
    fn update(&mut self, path: &str, weights: Tensor<1>, gradient: Tensor<1>, learning_rate: f64) -> Tensor<1> {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, .. } = self.config;
        let steps = self.steps as i32;
        let (first, second) = match self.moments.remove(path) {
            Some(Moments { first, second }) => (
                first * beta1 + gradient.clone() * (1.0 - beta1),
                second * beta2 + gradient.square() * (1.0 - beta2),
            ),
            None => (gradient.clone() * (1.0 - beta1), gradient.square() * (1.0 - beta2)),
        };
        let step_size = learning_rate / (1.0 - beta1.powi(steps));
        let root = (1.0 - beta2.powi(steps)).sqrt();
        let moved = first.clone() / (second.clone().sqrt() / root + epsilon) * step_size;
        let kept = if weight_decay == 0.0 { weights } else { weights * (1.0 - learning_rate * weight_decay) };
        self.moments.insert(path.to_string(), Moments { first, second });
        kept - moved
    }
}

struct Step<'a> {
    optimizer: &'a mut AdamW,
    gradients: &'a mut Gradients,
    learning_rate: f64,
    clip: f64,
    path: Vec<String>,
}

impl ModuleMapper for Step<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = param.val().grad_remove(self.gradients) else { return param };
        let path = self.path.join(".");
        param.map(|tensor| {
            let dims = tensor.dims();
            let count = dims.iter().product::<usize>();
            let weights = tensor.inner().reshape([count]);
            let gradient = gradient.reshape([count]) * self.clip;
            let moved = self.optimizer.update(&path, weights, gradient, self.learning_rate);
            Tensor::from_inner(moved.reshape(dims)).require_grad()
        })
    }
}

/// The L2 norm of all gradients of a network taken as one vector.
fn global_norm<M: Module>(network: &M, gradients: &Gradients) -> f64 {
    struct Sum<'a> {
        gradients: &'a Gradients,
        squares: f64,
    }
    impl ModuleVisitor for Sum<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                self.squares += f64::from(gradient.square().sum().into_scalar::<f32>());
            }
        }
    }
    let mut sum = Sum { gradients, squares: 0.0 };
    network.visit(&mut sum);
    sum.squares.sqrt()
}
