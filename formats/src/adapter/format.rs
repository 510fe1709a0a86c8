//! The formats that an adapter can be exported in. [`super::keys`] defines how each format names modules;
//! `diffusion::lora` rearranges the tensors.

use serde::{Deserialize, Serialize};

/// A dialect that can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = ExportFormat))]
#[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
pub enum Format {
    /// The names of sd-scripts, with alpha tensors.
    Kohya,
    /// The names of diffusers, with alpha multiplied into the factors.
    Peft,
    /// The names of ComfyUI: `diffusion_model.` and the original module names.
    Comfy,
}

/// Data type of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = ExportDtype))]
#[cfg_attr(feature = "sql", derive(sqlx::Type), sqlx(type_name = "text", rename_all = "snake_case"))]
pub enum Dtype {
    /// Lossless.
    #[default]
    F32,
    F16,
    Bf16,
}

impl Format {
    /// All formats.
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
