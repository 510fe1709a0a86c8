//! What a client may ask for, and what becomes of it: [`GenerationParams`], which cannot be built with a wrong value.

use formats::{Guidance, Scheduler};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::input::SourceImage;
use crate::limits::{SIDES, in_range};
use crate::model::{Model, ModelKind};
use crate::{Error, InputId, Result, integer};

/// Most characters of a prompt.
pub const MAX_PROMPT_CHARS: usize = 10_000;
/// Most pictures of one generation.
pub const MAX_IMAGES: u32 = 4;
/// Most LoRAs of one generation.
pub const MAX_LORAS: usize = 8;
/// Sides are multiples of this many pixels, whatever the model; its own grid is a power of two as well.
const GRID: u32 = 8;
/// Most characters of a picture that a request carries itself.
pub const MAX_PICTURE_CHARS: usize = 12_000_000;
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
    /// What not to show; FLUX.1 hears it when `true_cfg_scale` is above 1, the others when `guidance_scale` is.
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
    /// A picture to begin with: the id of an input or of an earlier picture, or a `data:` URI with the picture itself.
    #[schema(min_length = 1, max_length = 12000000, pattern = r"^[A-Za-z0-9:/;,+=.-]+$")]
    #[serde(default)]
    pub image: Option<String>,
    /// Where `image` is to be painted anew: white there, black elsewhere. Given as `image` is; stretched to the size of the pictures.
    #[schema(min_length = 1, max_length = 12000000, pattern = r"^[A-Za-z0-9:/;,+=.-]+$")]
    #[serde(default)]
    pub mask: Option<String>,
    /// How much of `image` is given up: the share of the steps that are taken, at least one; 1 keeps nothing of it. Left out it is
    /// the model's, with a mask 1.
    #[schema(minimum = 0, maximum = 1)]
    #[serde(default)]
    pub strength: Option<f64>,
    /// Solver of the denoising; left out, that of the model. Names of diffusers' classes and of A1111 are understood, too.
    #[schema(min_length = 1, max_length = 64, pattern = r"^[A-Za-z0-9+ _-]+$", example = "dpmpp_2m_karras")]
    #[serde(default)]
    pub scheduler: Option<String>,
    /// How many of the last layers of the CLIP text encoders are left out.
    #[schema(minimum = 0, maximum = 11)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub clip_skip: Option<u32>,
    /// Denoising steps.
    #[schema(minimum = 1, maximum = 200)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub num_inference_steps: Option<u32>,
    /// Strength of the guidance: classifier-free, or what is built into a guidance-distilled model such as FLUX.1-dev.
    #[schema(minimum = 0, maximum = 30)]
    #[serde(default)]
    pub guidance_scale: Option<f64>,
    /// Strength of classifier-free guidance for a guidance-distilled model, against the negative prompt; 1 is none.
    #[schema(minimum = 0, maximum = 30)]
    #[serde(default)]
    pub true_cfg_scale: Option<f64>,
    /// Pixels; a multiple of the model's `size_multiple`.
    #[schema(minimum = 16, maximum = 2048, multiple_of = 8)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub width: Option<u32>,
    /// Pixels; a multiple of the model's `size_multiple`.
    #[schema(minimum = 16, maximum = 2048, multiple_of = 8)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub height: Option<u32>,
    /// The same seed gives the same picture; absent or -1 draws one.
    #[schema(minimum = -1, maximum = 9223372036854775807_i64)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub seed: Option<i64>,
    /// Show the picture at work after each so many steps: as `preview` events, rough, at most two a second, and not so many that the
    /// pictures take more than about a tenth longer.
    #[schema(minimum = 1, maximum = 200)]
    #[serde(default, deserialize_with = "integer::optional")]
    pub preview_every: Option<u32>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<SourceImage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<SourceImage>,
    /// There exactly if there is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// Steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview_every: Option<u32>,
}

impl GenerationParams {
    /// Fills in the model's defaults and checks every value. The pictures that it begins with are not looked at: [`Self::begin_with`].
    /// Errors: `Invalid`, naming the field.
    pub fn parse(request: &GenerationRequest, model: &Model) -> Result<Self> {
        if model.kind != ModelKind::Checkpoint {
            return Err(Error::invalid(
                "model",
                match model.kind {
                    ModelKind::Lora => {
                        format!("`{}` is a LoRA: name it in `loras` and a checkpoint in `model`.", model.name)
                    }
                    _ => format!("`{}` is {}; name a checkpoint.", model.name, model.kind.title()),
                },
            ));
        }
        let defaults = &model.defaults;
        check_prompt("prompt", &request.prompt, 1)?;
        if let Some(negative) = &request.negative_prompt {
            check_prompt("negative_prompt", negative, 0)?;
        }
        check_pictures(request)?;
        let family = model.family()?;
        if !family.skips_clip_layers() && request.clip_skip.is_some() {
            return Err(Error::invalid("clip_skip", format!("{family} does not read the layers of CLIP.")));
        }
        if family.guidance() != Guidance::Distilled && request.true_cfg_scale.is_some() {
            let message =
                format!("`{}` is not distilled: its classifier-free guidance is `guidance_scale`.", model.name);
            return Err(Error::invalid("true_cfg_scale", message));
        }
        let strength = match (&request.image, &request.mask) {
            (None, _) => None,
            (Some(_), None) => Some(request.strength.unwrap_or(defaults.strength)),
            (Some(_), Some(_)) => Some(request.strength.unwrap_or(1.0)),
        };
        let steps = request.num_inference_steps.unwrap_or(defaults.num_inference_steps);
        if let Some(strength) = strength {
            in_range("strength", strength, 0.0..=1.0)?;
            if family.steps_taken(steps, strength) == 0 {
                let message = format!("{strength} leaves none of {steps} steps.");
                return Err(Error::invalid("strength", message));
            }
        }
        Ok(Self {
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            num_images: in_range("num_images", request.num_images.unwrap_or(1), 1..=MAX_IMAGES)?,
            num_inference_steps: in_range("num_inference_steps", steps, 1..=200)?,
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
            image: None,
            mask: None,
            strength,
            scheduler: request.scheduler.as_deref().map(|name| scheduler(name, model)).transpose()?,
            clip_skip: request.clip_skip.map(|layers| in_range("clip_skip", layers, 0..=11)).transpose()?,
            preview_every: request.preview_every.map(|steps| in_range("preview_every", steps, 1..=200)).transpose()?,
        })
    }

    /// Takes the pictures that the request means. Where it states no size, that of `image` counts, shrunk to the largest that is
    /// taken and brought down onto the model's grid; where it states one side, the other follows in the proportions of `image`.
    pub(super) fn begin_with(
        &mut self,
        image: SourceImage,
        mask: Option<SourceImage>,
        request: &GenerationRequest,
        model: &Model,
    ) {
        let multiple = GRID.max(model.defaults.size_multiple);
        let least = multiple.max(*SIDES.start());
        let scaled = |pixels: u32, to: u32, of: u32| {
            let pixels = u64::from(pixels) * u64::from(to) / u64::from(of.max(1));
            let pixels = pixels.min(u64::from(*SIDES.end())) as u32;
            (pixels / multiple * multiple).max(least)
        };
        let largest = image.width.max(image.height).max(*SIDES.end());
        match (request.width, request.height) {
            (None, None) => {
                (self.width, self.height) =
                    (scaled(image.width, *SIDES.end(), largest), scaled(image.height, *SIDES.end(), largest));
            }
            (Some(width), None) => self.height = scaled(width, image.height, image.width),
            (None, Some(height)) => self.width = scaled(height, image.width, image.height),
            (Some(_), Some(_)) => {}
        }
        (self.image, self.mask) = (Some(image), mask);
    }

    fn pictures(&self) -> impl Iterator<Item = &SourceImage> {
        self.image.iter().chain(&self.mask)
    }

    /// The uploaded pictures that it begins with.
    pub(super) fn inputs(&self) -> impl Iterator<Item = InputId> {
        self.pictures().filter_map(|picture| picture.input)
    }

    /// Objects that belong to this generation alone.
    pub(super) fn own_objects(&self) -> Vec<String> {
        self.pictures().filter_map(SourceImage::own_object).collect()
    }
}

fn check_pictures(request: &GenerationRequest) -> Result<()> {
    if request.image.is_none() {
        for (field, given) in [("mask", request.mask.is_some()), ("strength", request.strength.is_some())] {
            if given {
                return Err(Error::invalid(field, "It says something about `image`, and there is none."));
            }
        }
    }
    for (field, text) in [("image", &request.image), ("mask", &request.mask)] {
        if text.as_ref().is_some_and(|text| text.len() > MAX_PICTURE_CHARS) {
            let message = format!(
                "A request carries at most {MAX_PICTURE_CHARS} characters of a picture; upload it to /v1/inputs."
            );
            return Err(Error::too_large(field, message));
        }
    }
    Ok(())
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

/// Errors: `Invalid` for an unknown name, and for a scheduler that the family of `model` was not trained for.
fn scheduler(name: &str, model: &Model) -> Result<Scheduler> {
    let scheduler: Scheduler = name.parse().map_err(|message| Error::invalid("scheduler", message))?;
    if model.family()?.takes(scheduler) {
        return Ok(scheduler);
    }
    let message = format!("`{}` is of the family {}, which {name} does not go with.", model.name, model.family);
    Err(Error::invalid("scheduler", message))
}

/// A size that a request states is a multiple of 8, as the contract says for every model, and of the model's own grid.
pub(crate) fn on_grid(field: &str, pixels: u32, model: &Model) -> Result<u32> {
    let multiple = GRID.max(model.defaults.size_multiple);
    let pixels = in_range(field, pixels, SIDES)?;
    if pixels.is_multiple_of(multiple) {
        return Ok(pixels);
    }
    let below = (pixels / multiple).max(1) * multiple;
    let who = if multiple == GRID { "all pictures here need" } else { &format!("`{}` needs", model.name) };
    let message =
        format!("{pixels} is not a multiple of {multiple}, as {who} it; {below} and {} are.", below + multiple);
    Err(Error::invalid(field, message))
}
