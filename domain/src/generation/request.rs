//! Requests for pictures as clients send them, and the checks that turn them into [`GenerationParams`].

use std::collections::BTreeMap;

use formats::{Guidance, Scheduler};
use outgoing::Guard;
use requests::{OutputFormat, PromptSyntax, generation_limits as limits, in_range};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::delivery::request::{Plan, ResponseFormat, Stated};
use crate::delivery::webhook::JobWebhookRequest;
use crate::faults::Faults;
use crate::input::SourceImage;
use crate::limits::seed;
use crate::model::{Model, ModelKind};
use crate::{Error, InputId, Result, integer, object};

/// Most characters of a prompt.
pub const MAX_PROMPT_CHARS: usize = 10_000;
/// Most LoRAs of one generation.
pub const MAX_LORAS: usize = 8;
/// Sides are multiples of this many pixels for every model; a model's own grid is a power of two as well.
pub const GRID: u32 = 8;
/// Longest `data:` URI or id of a picture, in characters.
pub const MAX_PICTURE_CHARS: usize = 12_000_000;

/// The parameters of a generation; its pictures are objects in the bucket.
pub type GenerationParams = requests::GenerationParams<SourceImage>;

/// Parameters to create a generation. Those that are left out take the model's defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"prompt": "a big fox on a blue background", "model": "ember", "seed": 7}))]
pub struct GenerationRequest {
    /// The prompt: what to show.
    #[schema(
        min_length = 1,
        max_length = 10000,
        pattern = r"^[^\u0000]*$",
        example = "a big fox on a blue background"
    )]
    pub prompt: String,
    /// The negative prompt: what not to show. FLUX.1 uses it if `true_cfg_scale` is above 1, other families if
    /// `guidance_scale` is.
    #[schema(max_length = 10000, pattern = r"^[^\u0000]*$")]
    #[serde(default)]
    pub negative_prompt: Option<String>,
    /// How the prompts are read. `a1111`: `<lora:name:0.8>` in the prompt applies a LoRA, and Stable Diffusion reads
    /// weights such as `(word:1.3)`. `plain`: every character is text.
    #[serde(default)]
    pub prompt_syntax: Option<PromptSyntax>,
    /// Name or identifier of a checkpoint; `ember` by default.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", example = "ember")]
    #[serde(default)]
    pub model: Option<String>,
    /// LoRAs to apply, at most eight with those that the prompt names. A LoRA that is named here and in the prompt is
    /// applied once, as it is stated here.
    #[schema(value_type = Option<Vec<LoraRequest>>, max_items = 8)]
    #[serde(default, deserialize_with = "object::list")]
    pub loras: Vec<LoraRequest>,
    /// Number of pictures; 1 by default. Picture `i` uses `seed + i`.
    #[schema(minimum = 1, maximum = 4)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 1, 4>")]
    pub num_images: Option<u32>,
    /// Picture to start from: the identifier of an input or of an earlier picture, or a `data:` URI with the picture
    /// itself.
    #[schema(min_length = 1, max_length = 12000000, pattern = r"^[A-Za-z0-9:/;,+=._%\s-]+$")]
    #[serde(default)]
    pub image: Option<String>,
    /// Mask of the area of `image` to repaint: white there, black elsewhere. Given in the same way as `image`, and
    /// stretched to the size of the pictures.
    #[schema(min_length = 1, max_length = 12000000, pattern = r"^[A-Za-z0-9:/;,+=._%\s-]+$")]
    #[serde(default)]
    pub mask: Option<String>,
    /// How much of `image` may change: the share of the denoising steps that are run, at least one step. At 1 nothing
    /// of `image` is kept. The default is the model's, or 1 with a mask.
    #[schema(minimum = 0, maximum = 1)]
    #[serde(default)]
    pub strength: Option<f64>,
    /// Solver of the denoising; the default is the model's. Class names of diffusers and names of A1111 are accepted,
    /// too.
    #[schema(min_length = 1, max_length = 64, pattern = r"^[A-Za-z0-9+ _-]+$", example = "dpmpp_2m_karras")]
    #[serde(default)]
    pub scheduler: Option<String>,
    /// Number of final layers of the CLIP text encoders to skip.
    #[schema(minimum = 0, maximum = 11)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 0, 11>")]
    pub clip_skip: Option<u32>,
    /// Number of denoising steps.
    #[schema(minimum = 1, maximum = 200)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 1, 200>")]
    pub num_inference_steps: Option<u32>,
    /// Guidance scale: of classifier-free guidance, or the one built into a guidance-distilled model such as
    /// FLUX.1-dev.
    #[schema(minimum = 0, maximum = 30)]
    #[serde(default)]
    pub guidance_scale: Option<f64>,
    /// Scale of classifier-free guidance, against the negative prompt, for a guidance-distilled model; 1 turns it off.
    #[schema(minimum = 0, maximum = 30)]
    #[serde(default)]
    pub true_cfg_scale: Option<f64>,
    /// Width in pixels, a multiple of the model's `size_multiple`.
    #[schema(minimum = 16, maximum = 2048, multiple_of = 8)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 16, 2048>")]
    pub width: Option<u32>,
    /// Height in pixels, a multiple of the model's `size_multiple`.
    #[schema(minimum = 16, maximum = 2048, multiple_of = 8)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 16, 2048>")]
    pub height: Option<u32>,
    /// Seed of the first picture; that of the last is at most 2⁶³ - 1. The same seed gives the same picture; absent or
    /// -1 picks a random one.
    #[schema(minimum = -1, maximum = 9223372036854775807_i64)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, -1, { i64::MAX }>")]
    pub seed: Option<i64>,
    /// Send a rough preview as a `preview` event every this many steps: at most two a second, and no more than lengthen
    /// the generation by about a tenth.
    #[schema(minimum = 1, maximum = 200)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 1, 200>")]
    pub preview_every: Option<u32>,
    /// File format of the pictures; PNG by default.
    #[serde(default)]
    pub output_format: Option<OutputFormat>,
    /// Quality of the files; 90 by default, and 100 makes WebP lossless. PNG is always lossless and takes no quality.
    #[schema(minimum = 1, maximum = 100)]
    #[serde(default, deserialize_with = "integer::optional::<_, _, 1, 100>")]
    pub output_quality: Option<u8>,
    /// How the pictures are returned; `url` by default. With `upload`, `output_format` is JPEG by default, with a
    /// quality of 65.
    #[serde(default)]
    pub response_format: Option<ResponseFormat>,
    /// For `response_format: upload`: URLs, such as presigned ones, to which the pictures are sent with `PUT`, one for
    /// each picture.
    #[schema(min_items = 1, max_items = 4)]
    #[serde(default)]
    pub upload_urls: Option<Vec<String>>,
    /// The same for one picture.
    #[schema(min_length = 1, max_length = 8192)]
    #[serde(default)]
    pub upload_url: Option<String>,
    /// Headers to be sent with the uploads, for URLs that signed them: `content-type` and others of HTTP, and those of
    /// Amazon (`x-amz-…`), Google (`x-goog-…`) and Azure (`x-ms-…`).
    #[schema(example = json!({"x-amz-acl": "private"}))]
    #[serde(default)]
    pub upload_headers: Option<BTreeMap<String, String>>,
    /// An endpoint that is notified of this generation, beside the webhooks of the project.
    #[serde(default, deserialize_with = "object::optional")]
    pub webhook: Option<JobWebhookRequest>,
}

/// A LoRA of a request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraRequest {
    /// Name or identifier of a LoRA.
    #[schema(min_length = 1, max_length = 63, pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", example = "clay")]
    pub model: String,
    /// Factor on the LoRA's effect: 1, the default, is as trained, and 0 is no effect.
    #[schema(minimum = -10, maximum = 10)]
    #[serde(default)]
    pub scale: Option<f64>,
    /// The same factor for the text encoders; by default `scale`.
    #[schema(minimum = -10, maximum = 10)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_scale: Option<f64>,
}

/// Fills in the model's defaults and checks every value; a wrong one is added to `faults`. Does not look at
/// the pictures; [`start_from`] does. Errors: `Invalid` for a model that makes no pictures.
pub(super) fn params(
    request: &GenerationRequest,
    model: &Model,
    guard: &Guard,
    faults: &mut Faults,
) -> Result<(GenerationParams, Plan)> {
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
    let (defaults, family) = (&model.defaults, model.family()?);
    check_texts(request, faults);
    if request.clip_skip.is_some() && !family.skips_clip_layers() {
        let message = format!("{family} does not read the layers of CLIP.");
        faults.take(Err::<(), _>(Error::invalid("clip_skip", message)));
    }
    if request.true_cfg_scale.is_some() && family.guidance() != Guidance::Distilled {
        let message = format!("`{}` is not distilled: its classifier-free guidance is `guidance_scale`.", model.name);
        faults.take(Err::<(), _>(Error::invalid("true_cfg_scale", message)));
    }
    let steps = request.num_inference_steps.unwrap_or(defaults.num_inference_steps);
    let steps = faults.take(in_range("num_inference_steps", steps, limits::STEPS));
    let in_range_if_stated =
        |field, stated: Option<u32>, range| stated.map(|it| in_range(field, it, range)).transpose();
    let guidance_scale = request.guidance_scale.unwrap_or(defaults.guidance_scale);
    let true_cfg_scale = request.true_cfg_scale.unwrap_or(defaults.true_cfg_scale);
    let side = |field, stated: Option<u32>, default| stated.map_or(Ok(default), |pixels| on_grid(field, pixels, model));
    let num_images = faults.take(in_range("num_images", request.num_images.unwrap_or(1), limits::NUM_IMAGES));
    let plan = plan(request, num_images, guard, faults);
    let params = GenerationParams {
        prompt: request.prompt.clone(),
        negative_prompt: request.negative_prompt.clone(),
        prompt_syntax: request.prompt_syntax.unwrap_or_default(),
        num_images,
        num_inference_steps: steps,
        guidance_scale: faults.take(in_range("guidance_scale", guidance_scale, limits::GUIDANCE)),
        true_cfg_scale: faults.take(in_range("true_cfg_scale", true_cfg_scale, limits::GUIDANCE)),
        width: faults.take(side("width", request.width, defaults.width)),
        height: faults.take(side("height", request.height, defaults.height)),
        image: None,
        mask: None,
        strength: faults.take(strength(request, steps, model)),
        scheduler: faults.take(scheduler(request.scheduler.as_deref(), model)),
        clip_skip: faults.take(in_range_if_stated("clip_skip", request.clip_skip, limits::CLIP_SKIP)),
        preview_every: faults.take(in_range_if_stated("preview_every", request.preview_every, limits::STEPS)),
        output_format: output_format(request),
        output_quality: faults.take(output_quality(request)),
    };
    Ok((params, plan))
}

/// As [`params`], for a request whose model is not there or makes no pictures: adds the values that no model takes.
pub(super) fn check_without_model(request: &GenerationRequest, guard: &Guard, faults: &mut Faults) {
    check_texts(request, faults);
    for (field, stated, range) in [
        ("num_images", request.num_images, limits::NUM_IMAGES),
        ("num_inference_steps", request.num_inference_steps, limits::STEPS),
        ("width", request.width, limits::SIDES),
        ("height", request.height, limits::SIDES),
        ("clip_skip", request.clip_skip, limits::CLIP_SKIP),
        ("preview_every", request.preview_every, limits::STEPS),
    ] {
        faults.take(stated.map(|value| in_range(field, value, range)).transpose());
    }
    for (field, stated, range) in [
        ("guidance_scale", request.guidance_scale, limits::GUIDANCE),
        ("true_cfg_scale", request.true_cfg_scale, limits::GUIDANCE),
        ("strength", request.strength.filter(|_| request.image.is_some()), limits::STRENGTH),
    ] {
        faults.take(stated.map(|value| in_range(field, value, range)).transpose());
    }
    faults.take(output_quality(request));
    faults.take(seed(request.seed, 1));
    plan(request, request.num_images.unwrap_or(1), guard, faults);
}

/// How the pictures are to be delivered.
fn plan(request: &GenerationRequest, num_images: u32, guard: &Guard, faults: &mut Faults) -> Plan {
    let stated = Stated {
        urls: request.upload_urls.as_deref(),
        url: request.upload_url.as_deref(),
        headers: request.upload_headers.as_ref(),
    };
    Plan::of(request.response_format.unwrap_or_default(), stated, num_images, guard, faults)
}

fn check_texts(request: &GenerationRequest, faults: &mut Faults) {
    faults.take(check_prompt("prompt", &request.prompt, 1));
    if let Some(negative) = &request.negative_prompt {
        faults.take(check_prompt("negative_prompt", negative, 0));
    }
    faults.take(check_pictures(request));
}

/// How much of `image` may change, if there is one. Errors: `Invalid` for a value outside the range, and for one that
/// leaves none of the `steps`, if these are known.
fn strength(request: &GenerationRequest, steps: u32, model: &Model) -> Result<Option<f64>> {
    let default = match (&request.image, &request.mask) {
        (None, _) => return Ok(None),
        (Some(_), None) => model.defaults.strength,
        (Some(_), Some(_)) => 1.0,
    };
    let strength = in_range("strength", request.strength.unwrap_or(default), limits::STRENGTH)?;
    if steps > 0 && model.family()?.steps_taken(steps, strength) == 0 {
        return Err(Error::invalid("strength", format!("{strength} leaves none of {steps} steps.")));
    }
    Ok(Some(strength))
}

/// Quality of JPEG files that are uploaded, unless the request states another one.
const UPLOAD_QUALITY: u8 = 65;

fn is_upload(request: &GenerationRequest) -> bool {
    request.response_format == Some(ResponseFormat::Upload)
}

fn output_format(request: &GenerationRequest) -> OutputFormat {
    let default = if is_upload(request) { OutputFormat::Jpeg } else { OutputFormat::default() };
    request.output_format.unwrap_or(default)
}

fn output_quality(request: &GenerationRequest) -> Result<Option<u8>> {
    let format = output_format(request);
    match (format.default_quality(), request.output_quality) {
        (Some(_), None) if is_upload(request) && format == OutputFormat::Jpeg => Ok(Some(UPLOAD_QUALITY)),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let message = format!("{} is lossless and has no quality.", format.as_str().to_uppercase());
            Err(Error::invalid("output_quality", message))
        }
        (Some(default), requested) => {
            Ok(Some(in_range("output_quality", requested.unwrap_or(default), limits::OUTPUT_QUALITY)?))
        }
    }
}

/// Takes the pictures that the request refers to. If the request has no size, the size has the model's usual area and
/// the proportions of `image`; if only one of `width` and `height` is given, the other keeps the aspect ratio of
/// `image`. Sides that the request leaves open are rounded to the nearest multiple of the model's grid,
/// and are within the limits.
pub(super) fn start_from(
    params: &mut GenerationParams,
    image: SourceImage,
    mask: Option<SourceImage>,
    request: &GenerationRequest,
    model: &Model,
) {
    let multiple = GRID.max(model.defaults.size_multiple);
    let least = multiple.max(*limits::SIDES.start());
    let most = *limits::SIDES.end() / multiple * multiple;
    let [wide, high] = [image.width, image.height].map(|side| f64::from(side.max(1)));
    let area = f64::from(params.width) * f64::from(params.height);
    let nearest = |pixels: f64| (pixels / f64::from(multiple)).round() * f64::from(multiple);
    let side = |pixels: f64| (pixels as u32).clamp(least, most);
    match (request.width, request.height) {
        (None, None) => {
            let scale = (area / (wide * high)).sqrt();
            (params.width, params.height) = (side(nearest(wide * scale)), side(nearest(high * scale)));
        }
        (Some(width), None) => params.height = side(nearest(f64::from(width) * high / wide)),
        (None, Some(height)) => params.width = side(nearest(f64::from(height) * wide / high)),
        (Some(_), Some(_)) => {}
    }
    (params.image, params.mask) = (Some(image), mask);
}

fn pictures(params: &GenerationParams) -> impl Iterator<Item = &SourceImage> {
    params.image.iter().chain(&params.mask)
}

/// The uploaded pictures that a generation starts from.
pub(super) fn inputs(params: &GenerationParams) -> impl Iterator<Item = InputId> {
    pictures(params).filter_map(|picture| picture.input)
}

/// Objects that belong to this generation only.
pub(super) fn own_objects(params: &GenerationParams) -> Vec<String> {
    pictures(params).filter_map(SourceImage::own_object).collect()
}

/// Bytes of these objects.
pub(super) fn own_bytes(params: &GenerationParams) -> i64 {
    pictures(params).filter(|picture| picture.input.is_none()).map(|picture| picture.bytes as i64).sum()
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

/// Errors: `Invalid` for an unknown name, for a scheduler that the model's family was not trained for, and for none if
/// the model's own is not supported. Each lists those that the family takes.
fn scheduler(name: Option<&str>, model: &Model) -> Result<Option<Scheduler>> {
    let family = model.family()?;
    let message = match name.map(str::parse::<Scheduler>) {
        None if !model.defaults.scheduler_required => return Ok(None),
        None => format!("`{}` has a scheduler that is not supported", model.name),
        Some(Ok(scheduler)) if family.takes(scheduler) => return Ok(Some(scheduler)),
        Some(Ok(scheduler)) => {
            format!("`{}` is of the family {}, which {scheduler} does not support", model.name, model.family)
        }
        Some(Err(_)) => format!("There is no `{}`", name.unwrap_or_default()),
    };
    Err(Error::invalid("scheduler", format!("{message}; name one of {}.", family.schedulers())))
}

/// A size that a request states is a multiple of 8, as the contract says for every model, and of the model's own grid.
pub(crate) fn on_grid(field: &str, pixels: u32, model: &Model) -> Result<u32> {
    let multiple = GRID.max(model.defaults.size_multiple);
    let pixels = in_range(field, pixels, limits::SIDES)?;
    if pixels.is_multiple_of(multiple) {
        return Ok(pixels);
    }
    let below = (pixels / multiple).max(1) * multiple;
    let who = if multiple == GRID { "all pictures here need" } else { &format!("`{}` needs", model.name) };
    let message =
        format!("{pixels} is not a multiple of {multiple}, as {who} it; {below} and {} are.", below + multiple);
    Err(Error::invalid(field, message))
}
