//! Whole pictures against diffusers' FLUX pipelines, from the same folder, prompt and seed: text to image, image to
//! image, and inpainting.
//!
//! Tolerances: relative L2 error 1e-4 of the latents after each step (the error of one call, about 1e-6, grows over
//! the steps), and 1/255 of each value of the final picture.

use std::ops::ControlFlow;

use ::image::{GrayImage, RgbImage};
use burn::prelude::Tensor;
use diffusion::pipelines::flux::Denoising;
use diffusion::{Error, FluxPipeline, PictureRequest};
use serde_json::Value;

use crate::golden::{Golden, device, largest_difference, path, relative_error, values};

const LATENTS: f64 = 1e-4;
const PICTURE: f64 = 1.0 / 255.0;

/// The request in a golden's header, with FluxPipeline's defaults.
pub(crate) fn request(note: &Value, num_images: usize) -> PictureRequest {
    let number = |name: &str| note[name].as_u64().unwrap();
    PictureRequest {
        prompt: note["prompt"].as_str().unwrap().to_owned(),
        negative_prompt: note["negative_prompt"].as_str().map(str::to_owned),
        prompt_syntax: requests::PromptSyntax::A1111,
        image: None,
        mask: None,
        strength: note["strength"].as_f64().unwrap_or(1.0),
        num_images,
        num_inference_steps: number("num_inference_steps") as usize,
        guidance_scale: note["guidance_scale"].as_f64().unwrap_or(3.5),
        true_cfg_scale: note["true_cfg_scale"].as_f64().unwrap_or(1.0),
        guidance_rescale: 0.0,
        scheduler: None,
        clip_skip: None,
        width: number("width") as usize,
        height: number("height") as usize,
        seed: number("seed"),
    }
}

fn bytes(golden: &Golden, name: &str) -> (u32, u32, Vec<u8>) {
    let shape = golden.shape(name);
    (shape[1] as u32, shape[0] as u32, golden.values(name).iter().map(|value| *value as u8).collect())
}

/// The source picture of a golden's requests.
pub(crate) fn picture(golden: &Golden) -> RgbImage {
    let (width, height, bytes) = bytes(golden, "picture");
    RgbImage::from_raw(width, height, bytes).unwrap()
}

/// The inpainting mask.
pub(crate) fn mask(golden: &Golden) -> GrayImage {
    let (width, height, bytes) = bytes(golden, "mask");
    GrayImage::from_raw(width, height, bytes).unwrap()
}

/// A request's pictures as values 0..1 in the order height, width, channel.
pub(crate) fn pictures(pipeline: &FluxPipeline, request: &PictureRequest) -> Vec<Vec<f32>> {
    let pictures = pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap();
    pictures.into_iter().map(levels).collect()
}

/// A picture's bytes as values 0..1.
pub(crate) fn levels(picture: RgbImage) -> Vec<f32> {
    picture.into_raw().into_iter().map(|byte| f32::from(byte) / 255.0).collect()
}

/// A byte is at most half a level off, and the result itself may be one level off.
#[track_caller]
pub(crate) fn assert_same_picture(actual: &[f32], expected: &[f32]) {
    let bytes: Vec<f32> = expected.iter().map(|value| (value * 255.0).round_ties_even() / 255.0).collect();
    let difference = largest_difference(actual, &bytes);
    println!("largest difference {:.2} levels", difference * 255.0);
    assert!(difference <= PICTURE + 1e-6, "a value is {:.2} levels off", difference * 255.0);
}

/// Denoises for one seed, and compares the latents after each step with those of `picture` in the batch `name`.
fn denoise(
    golden: &Golden,
    name: &str,
    picture: usize,
    pipeline: &FluxPipeline,
    denoising: &Denoising,
    seed: u64,
) -> Tensor<3> {
    let mut steps = 0;
    let on_step = &mut |step, latents: &Tensor<3>, _: &Tensor<3>| {
        let expected = golden.tensor::<3>(&format!("{name}.latents.{step}"), &device()).narrow(0, picture, 1);
        let error = relative_error(&values(latents.clone()), &values(expected));
        println!("{name} {picture}, step {step}: relative error {error:.1e}");
        assert!(error <= LATENTS, "{name} {picture}, step {step}: {error:.1e}");
        steps += 1;
        ControlFlow::Continue(())
    };
    let latents = pipeline.denoise(denoising, pipeline.start(denoising, seed), on_step).unwrap();
    assert!(!golden.has(&format!("{name}.latents.{steps}")), "a step is missing");
    latents
}

fn check(folder: &str) {
    let golden = Golden::open(&format!("{folder}/reference"));
    let pipeline = FluxPipeline::load(&path(folder), &device()).unwrap();
    let request = request(&golden.note["request"], 2);
    let denoising = pipeline.prepare(&request).unwrap();
    let expected_pictures = golden.tensor::<4>("pipeline.images", &device());

    for picture in 0..2 {
        let latents = denoise(&golden, "pipeline", picture, &pipeline, &denoising, request.seed + picture as u64);
        let decoded = pipeline.decode(latents, denoising.rows, denoising.columns);
        let decoded = (decoded / 2.0 + 0.5).clamp(0.0, 1.0).permute([0, 2, 3, 1]);
        let expected = expected_pictures.clone().narrow(0, picture, 1);
        assert_eq!(decoded.dims(), expected.dims());
        let difference = largest_difference(&values(decoded), &values(expected));
        println!("picture {picture}: largest difference {difference:.1e}");
        assert!(difference <= PICTURE, "picture {picture}: {difference:.1e}");
    }

    // The public interface, which returns bytes.
    let made = pictures(&pipeline, &request);
    assert_eq!(made.len(), 2);
    for (picture, made) in made.iter().enumerate() {
        assert_same_picture(made, &values(expected_pictures.clone().narrow(0, picture, 1)));
    }

    // The second picture of a batch equals the first one of the next seed.
    let next = PictureRequest { seed: request.seed + 1, num_images: 1, ..request };
    assert_eq!(pictures(&pipeline, &next)[0], made[1]);
}

#[test]
fn guidance_embedding_and_dynamic_shift() {
    check("flux-tiny");
}

#[test]
fn true_cfg_with_a_negative_prompt_and_fixed_shift() {
    check("flux-tiny-cfg");
}

#[test]
fn canceling_ends_within_one_step() {
    let golden = Golden::open("flux-tiny/reference");
    let pipeline = FluxPipeline::load(&path("flux-tiny"), &device()).unwrap();
    let mut seen = 0;
    let result = pipeline.generate(&request(&golden.note["request"], 2), &mut |progress| {
        seen = progress.step;
        assert_eq!(progress.total_steps, 8);
        if progress.step == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(diffusion::Error::Canceled)));
    assert_eq!(seen, 5);
}

/// A request of `flux-image.safetensors`.
fn image_request(golden: &Golden, folder: &str, name: &str) -> PictureRequest {
    PictureRequest {
        image: Some(picture(golden)),
        mask: (name == "inpaint").then(|| mask(golden)),
        ..request(&golden.note["requests"][folder][name], 1)
    }
}

#[test]
fn from_a_picture_and_with_a_mask() {
    let golden = Golden::open("flux-image");
    for folder in ["flux-tiny", "flux-tiny-cfg"] {
        let pipeline = FluxPipeline::load(&path(folder), &device()).unwrap();
        for name in ["img2img", "inpaint"] {
            let request = image_request(&golden, folder, name);
            let name = format!("{folder}.{name}");
            let denoising = pipeline.prepare(&request).unwrap();
            let start = pipeline.start(&denoising, request.seed).latents;
            golden.check(&format!("{name}.latents.initial"), start, LATENTS);
            denoise(&golden, &name, 0, &pipeline, &denoising, request.seed);
            let made = pictures(&pipeline, &request);
            assert_same_picture(&made[0], golden.values(&format!("{name}.images")));

            // An image-to-image result does not depend on its batch either.
            let before = PictureRequest { seed: request.seed - 1, num_images: 2, ..request };
            assert_eq!(pictures(&pipeline, &before)[1], made[0]);
        }
    }
}

#[test]
fn unsupported_flux_options_are_named_by_field() {
    let golden = Golden::open("flux-image");
    let pipeline = FluxPipeline::load(&path("flux-tiny"), &device()).unwrap();
    let request = image_request(&golden, "flux-tiny", "inpaint");
    let cases = [
        ("scheduler", PictureRequest { scheduler: Some("Euler".parse().unwrap()), ..request.clone() }),
        ("clip_skip", PictureRequest { clip_skip: Some(1), ..request.clone() }),
        ("guidance_rescale", PictureRequest { guidance_rescale: 0.5, ..request.clone() }),
        ("mask", PictureRequest { image: None, ..request.clone() }),
        ("mask", PictureRequest { mask: Some(GrayImage::new(0, 8)), ..request.clone() }),
        ("image", PictureRequest { image: Some(RgbImage::new(8, 0)), ..request.clone() }),
        ("strength", PictureRequest { strength: 0.0, ..request.clone() }),
        ("strength", PictureRequest { strength: 1.001, ..request.clone() }),
        ("strength", PictureRequest { strength: f64::NAN, ..request.clone() }),
        ("guidance_scale", PictureRequest { guidance_scale: f64::INFINITY, ..request.clone() }),
        ("width", PictureRequest { width: 40, ..request.clone() }),
        ("height", PictureRequest { height: 1 << 40, ..request.clone() }),
        ("num_images", PictureRequest { num_images: 0, ..request.clone() }),
        ("negative_prompt", PictureRequest { negative_prompt: Some("a".repeat(10_001)), ..request.clone() }),
    ];
    for (field, request) in cases {
        let Err(Error::Invalid(reason)) = pipeline.prepare(&request) else { panic!("{field} was accepted") };
        assert!(reason.starts_with(field), "{field}: {reason}");
    }
}
