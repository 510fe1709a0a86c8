//! AdamW over the named parameters of a network. Moments are f32 and stored by parameter path, so that they can be
//! saved with the weights and restored by another process.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::DType;

use super::Gradients;
use crate::checkpoint::is_choice;

/// The hyperparameters of AdamW ([Loshchilov and Hutter 2017](https://arxiv.org/abs/1711.05101)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// Gradients are clipped to this global L2 norm.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 }
    }
}

/// The optimizer state.
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
    /// An optimizer with no steps yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new() }
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments by parameter path, to be saved.
    pub fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    /// Restores saved moments.
    pub fn restore(&mut self, steps: u64, moments: BTreeMap<String, Moments>) {
        self.steps = steps;
        self.moments = moments;
    }

    /// Updates every parameter of `network` that has a gradient. Returns the network and the gradients' global L2
    /// norm before clipping.
    pub fn step<M: Module>(&mut self, network: M, mut gradients: Gradients, learning_rate: f64) -> (M, f64) {
        let norm = gradients.norm();
        let clip = if norm > self.config.max_grad_norm { self.config.max_grad_norm / norm } else { 1.0 };
        self.steps += 1;
        let network = network.map(&mut Step {
            optimizer: self,
            gradients: &mut gradients,
            learning_rate,
            clip,
            path: Vec::new(),
        });
        (network, norm)
    }

    /// One parameter's update, all flattened: `p − lr·(m̂ / (√v̂ + ε) + λ·p)`.
    fn update(&mut self, path: &str, weights: Tensor<1>, gradient: Tensor<1>, learning_rate: f64) -> Tensor<1> {
        let rates = self.rates(learning_rate);
        let moments = self
            .moments
            .remove(path)
            .unwrap_or_else(|| Moments { first: Tensor::zeros_like(&gradient), second: Tensor::zeros_like(&gradient) });
        let on_cpu =
            weights.device() == Device::flex() && weights.dtype() == DType::F32 && gradient.dtype() == DType::F32;
        let (weights, moments) = if on_cpu {
            rates.update_in_one_pass(weights, gradient, moments)
        } else {
            rates.update(weights, gradient, moments)
        };
        self.moments.insert(path.to_string(), moments);
        weights
    }

    /// The coefficients of the current step.
    fn rates(&self, learning_rate: f64) -> Rates {
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, .. } = self.config;
        let steps = self.steps.min(i32::MAX as u64) as i32;
        Rates {
            beta1,
            beta2,
            epsilon,
            size: learning_rate / (1.0 - beta1.powi(steps)),
            root: (1.0 - beta2.powi(steps)).sqrt(),
            kept: 1.0 - learning_rate * weight_decay,
        }
    }
}

#[derive(Clone, Copy)]
struct Rates {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    /// Learning rate divided by the bias correction of the first moment.
    size: f64,
    /// Square root of the bias correction of the second moment.
    root: f64,
    /// The factor of weight decay.
    kept: f64,
}

impl Rates {
    fn update(&self, weights: Tensor<1>, gradient: Tensor<1>, moments: Moments) -> (Tensor<1>, Moments) {
        let first = moments.first * self.beta1 + gradient.clone() * (1.0 - self.beta1);
        let second = moments.second * self.beta2 + gradient.square() * (1.0 - self.beta2);
        let moved = first.clone() / (second.clone().sqrt() / self.root + self.epsilon) * self.size;
        (weights * self.kept - moved, Moments { first, second })
    }

    /// The same on the CPU in one pass; a dozen passes over all weights would take much of the step.
    fn update_in_one_pass(&self, weights: Tensor<1>, gradient: Tensor<1>, moments: Moments) -> (Tensor<1>, Moments) {
        let device = weights.device();
        // Every tensor here is f32: the optimizer's `update` casts them.
        let values = |tensor: Tensor<1>| tensor.into_data().try_into_vec::<f32>().unwrap_or_default();
        let (mut weights, gradient) = (values(weights), values(gradient));
        let (mut first, mut second) = (values(moments.first), values(moments.second));
        let [beta1, beta2, epsilon, size, root, kept] =
            [self.beta1, self.beta2, self.epsilon, self.size, self.root.recip(), self.kept].map(|rate| rate as f32);
        let moments = first.iter_mut().zip(&mut second);
        for ((weight, gradient), (first, second)) in weights.iter_mut().zip(&gradient).zip(moments) {
            *first = *first * beta1 + gradient * (1.0 - beta1);
            *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
            *weight = *weight * kept - *first / (second.sqrt() * root + epsilon) * size;
        }
        let count = weights.len();
        let tensor = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [count]), &device);
        (tensor(weights), Moments { first: tensor(first), second: tensor(second) })
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

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let Some(gradient) = self.gradients.remove(&path) else { return param };
        param.map(|tensor| {
            let dims = tensor.dims();
            let count = dims.iter().product::<usize>();
            let weights = tensor.inner().reshape([count]);
            let moved = self.optimizer.update(&path, weights, gradient * self.clip, self.learning_rate);
            Tensor::from_inner(moved.reshape(dims)).require_grad()
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;
    use crate::training::Random;

    #[test]
    fn one_pass_moves_as_the_tensor_operations_do() {
        let (mut random, device) = (Random::new(5), Device::flex());
        let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.1, ..Default::default() });
        optimizer.steps = 3;
        let rates = optimizer.rates(0.01);
        let mut draw = || random.normal::<1>([1000], &device);
        let (weights, gradient) = (draw(), draw());
        let moments = Moments { first: draw(), second: draw().square() };
        let (slow, slow_moments) = rates.update(weights.clone(), gradient.clone(), moments.clone());
        let (fast, fast_moments) = rates.update_in_one_pass(weights, gradient, moments);
        for (fast, slow) in
            [(fast, slow), (fast_moments.first, slow_moments.first), (fast_moments.second, slow_moments.second)]
        {
            fast.into_data().assert_approx_eq::<f32>(&slow.into_data(), Tolerance::rel_abs(1e-5, 1e-6));
        }
    }
}
