//! Initial values of a network that is trained from scratch.

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;

use super::Random;
use crate::checkpoint::is_choice;

/// Initialises weights as PyTorch's layers do: linear and convolution weights uniformly within ±1/√(inputs),
/// embeddings normally with `embedding_deviation`, norm weights 1 and biases 0. Embeddings and norms are recognised
/// by the names of their layers in published networks.
pub fn initialise<M: Module>(network: M, embedding_deviation: f64, random: &mut Random) -> M {
    network.map(&mut Initialiser { path: Vec::new(), embedding_deviation, random })
}

struct Initialiser<'a> {
    path: Vec<String>,
    embedding_deviation: f64,
    random: &'a mut Random,
}

impl ModuleMapper for Initialiser<'_> {
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
        // One-dimensional parameters are biases and norms, whose initial values are already correct.
        if D < 2 {
            return param;
        }
        let device = param.lazy_device();
        let dims: [usize; D] = param.lazy_shape().dims();
        let layer = self.path.iter().rev().nth(1).map_or("", String::as_str);
        let is_embedding =
            ["embedding", "shared", "embed_tokens", "relative_attention_bias"].iter().any(|part| layer.contains(part));
        let values = if is_embedding {
            self.random.normal(dims, &device) * self.embedding_deviation
        } else {
            let inputs: usize = dims[1..].iter().product();
            let bound = 1.0 / (inputs as f64).sqrt();
            let count: usize = dims.iter().product();
            let values: Vec<f32> = (0..count).map(|_| ((2.0 * self.random.uniform() - 1.0) * bound) as f32).collect();
            Tensor::from_data(TensorData::new(values, dims), &device)
        };
        param.map(|old| if old.is_require_grad() { values.require_grad() } else { values })
    }
}
