//! Writes an adapter so that diffusers, PEFT and ComfyUI can load it: PEFT's names, with alpha multiplied into B, since
//! some readers do not support alpha and others ignore the header.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;

use crate::Result;
use crate::checkpoint::{self, Stored};

/// The two factors of one module.
#[derive(Debug, Clone)]
pub struct Factors {
    /// The module's path in the transformer, such as `transformer_blocks.0.attn.to_q`.
    pub path: String,
    /// A, `[rank, in]`
    pub down: Tensor<2>,
    /// B, `[out, rank]`
    pub up: Tensor<2>,
    /// alpha / rank
    pub scale: f64,
}

/// Writes `transformer.{path}.lora_A.weight` and `lora_B.weight` in `dtype` (bf16 or f32). The file is written
/// completely or not at all. `metadata` goes into the header; structured values are JSON strings.
pub fn save(path: &Path, factors: &[Factors], dtype: DType, metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut tensors = Vec::with_capacity(2 * factors.len());
    for Factors { path, down, up, scale } in factors {
        tensors.push(Stored::new(format!("transformer.{path}.lora_A.weight"), down.clone(), dtype)?);
        tensors.push(Stored::new(format!("transformer.{path}.lora_B.weight"), up.clone() * *scale, dtype)?);
    }
    checkpoint::write(path, tensors, metadata)
}
