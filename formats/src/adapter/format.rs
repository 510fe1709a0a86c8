//! What an adapter can be written as. Which names each format gives to modules is in [`super::keys`]; the tensors are rearranged
//! in `diffusion::lora`.

use serde::{Deserialize, Serialize};

/// A dialect that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = ExportFormat))]
#[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
pub enum Format {
    /// sd-scripts' names with alpha tensors.
    Kohya,
    /// diffusers' names, alpha inside of the factors.
    Peft,
    /// ComfyUI's names: `diffusion_model.` and the original ones.
    Comfy,
}

/// Type of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = ExportDtype))]
#[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
pub enum Dtype {
    /// Nothing is lost.
    #[default]
    F32,
    F16,
    Bf16,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kohya, Self::Peft, Self::Comfy];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kohya => "kohya",
            Self::Peft => "peft",
            Self::Comfy => "comfy",
        }
    }
}

impl Dtype {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}
