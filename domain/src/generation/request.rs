//! What a client may ask for, and what becomes of it: [`GenerationParams`], which cannot be built with a wrong value.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{Model, ModelKind};
use crate::{Error, Result, integer};

/// Most characters of a prompt.
pub const MAX_PROMPT_CHARS: usize = 10_000;
/// Most pictures of one generation.
pub const MAX_IMAGES: u32 = 4;
/// Most LoRAs of one generation.
pub const MAX_LORAS: usize = 8;
/// Smallest and largest side, in pixels.
pub const SIDES: std::ops::RangeInclusive<u32> = 16..=2048;
/// Sides are multiples of this many pixels, whatever the model; its own grid is a power of two as well.
const GRID: u32 = 16;
/// What a client sends. Whatever is left out comes from the model's defaults.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerationRequest {
    /// What to show.
    #[schema(
        min_length = 1,
        max_length = 10000,
        pattern = r"^[^\u0000]*$",
        example = "a big fox on a blue background"
    )]
    pub prompt: String,
    /// What not to show; it has an effect when `true_cfg_scale` is above 1.
    #[schema(max_length = 10000, pattern = r"^[^\u0000]*$")]
    #[serde(default)]
    pub negative_prompt: Option<String>,
    /// Name or id of a checkpoint.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", default = "ember")]
    #[serde(default)]
    pub model: Option<String>,
    /// LoRAs to run with, at most eight.
    #[schema(max_items = 8)]
    #[serde(default)]
    pub loras: Vec<LoraRequest>,
    /// How many pictures; picture `i` uses `seed + i`.
    #[schema(minimum = 1, maximum = 4, default = 1)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub num_images: Option<u32>,
    /// Denoising steps.
    #[schema(minimum = 1, maximum = 200)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub num_inference_steps: Option<u32>,
    /// Strength of the guidance that is built into a guidance-distilled model.
    #[schema(minimum = 0, maximum = 30)]
    #[serde(default)]
    pub guidance_scale: Option<f64>,
    /// Strength of classifier-free guidance against the negative prompt; 1 is none.
    #[schema(minimum = 0, maximum = 30)]
    #[serde(default)]
    pub true_cfg_scale: Option<f64>,
    /// Pixels; a multiple of the model's `size_multiple`.
    #[schema(minimum = 16, maximum = 2048, multiple_of = 16)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub width: Option<u32>,
    /// Pixels; a multiple of the model's `size_multiple`.
    #[schema(minimum = 16, maximum = 2048, multiple_of = 16)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub height: Option<u32>,
    /// The same seed gives the same picture; absent or -1 draws one.
    #[schema(minimum = -1, maximum = 9223372036854775807_i64)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub seed: Option<i64>,
}

/// A LoRA of a request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraRequest {
    /// Name or id of a LoRA.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", example = "clay")]
    pub model: String,
    /// Factor on its effect: 1 as trained, 0 none.
    #[schema(minimum = -10, maximum = 10, default = 1.0)]
    #[serde(default)]
    pub scale: Option<f64>,
}

/// Parameters that are in range and on the model's grid, with nothing left out. Kept as JSON in the row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationParams {
    pub prompt: String,
    pub negative_prompt: Option<String>,
    pub num_images: u32,
    pub num_inference_steps: u32,
    pub guidance_scale: f64,
    pub true_cfg_scale: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl GenerationParams {
    /// Fills in the model's defaults and checks every value. Errors: `Invalid`, naming the field.
    pub fn parse(request: GenerationRequest, model: &Model) -> Result<Self> {
        if model.kind != ModelKind::Checkpoint {
            return Err(Error::invalid(
                "model",
                format!("`{}` is a LoRA: name it in `loras` and a checkpoint in `model`.", model.name),
            ));
        }
        let defaults = &model.defaults;
        check_prompt("prompt", &request.prompt, 1)?;
        if let Some(negative) = &request.negative_prompt {
            check_prompt("negative_prompt", negative, 0)?;
        }
        Ok(Self {
            prompt: request.prompt,
            negative_prompt: request.negative_prompt,
            num_images: in_range("num_images", request.num_images.unwrap_or(1), 1..=MAX_IMAGES)?,
            num_inference_steps: in_range(
                "num_inference_steps",
                request.num_inference_steps.unwrap_or(defaults.num_inference_steps),
                1..=200,
            )?,
            guidance_scale: in_range(
                "guidance_scale",
                request.guidance_scale.unwrap_or(defaults.guidance_scale),
                0.0..=30.0,
            )?,
            true_cfg_scale: in_range(
                "true_cfg_scale",
                request.true_cfg_scale.unwrap_or(defaults.true_cfg_scale),
                0.0..=30.0,
            )?,
            width: request.width.map_or(Ok(defaults.width), |pixels| on_grid("width", pixels, model))?,
            height: request.height.map_or(Ok(defaults.height), |pixels| on_grid("height", pixels, model))?,
        })
    }
}

fn check_prompt(field: &str, prompt: &str, least: usize) -> Result<()> {
    let count = prompt.chars().count();
    if !(least..=MAX_PROMPT_CHARS).contains(&count) || prompt.contains('\0') {
        return Err(Error::invalid(
            field,
            format!("It has {count} characters; {least} to {MAX_PROMPT_CHARS} are taken, none of them NUL."),
        ));
    }
    Ok(())
}

pub(crate) fn in_range<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Error::invalid(field, format!("{value} is outside the range {} to {}.", range.start(), range.end())))
}

/// A size that a request states is a multiple of 16, as the contract says for every model, and of the model's own grid.
pub(crate) fn on_grid(field: &str, pixels: u32, model: &Model) -> Result<u32> {
    let multiple = GRID.max(model.defaults.size_multiple);
    let pixels = in_range(field, pixels, SIDES)?;
    if pixels.is_multiple_of(multiple) {
        return Ok(pixels);
    }
    let below = (pixels / multiple).max(1) * multiple;
    Err(Error::invalid(
        field,
        format!(
            "{pixels} is not a multiple of {multiple}, as `{}` needs it; {below} and {} are.",
            model.name,
            below + multiple
        ),
    ))
}

/// A seed that is given, or one that is drawn. Drawn ones stay below 2³², which is what a `torch.Generator` on the CPU takes.
pub(crate) fn seed(requested: Option<i64>) -> Result<i64> {
    match requested {
        None | Some(-1) => Ok(i64::from(getrandom::u32().map_err(Error::internal)?)),
        Some(seed) => in_range("seed", seed, -1..=i64::MAX),
    }
}
