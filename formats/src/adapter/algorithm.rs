//! The algorithms of adapters.

use serde::Serialize;

/// How ΔW is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Algorithm {
    /// Product of two low-rank factors.
    Lora,
    /// Product of two low-rank factors of a convolution.
    Locon,
    /// Elementwise (Hadamard) product of two products of factors.
    Loha,
    /// Kronecker product.
    Lokr,
    /// ΔW itself.
    Full,
    /// Change of the bias only.
    Bias,
    /// Change of a norm.
    Norm,
}
