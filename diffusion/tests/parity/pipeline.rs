//! Whole pictures against diffusers' `FluxPipeline`, from the same folder, prompt and seed.
//!
//! Tolerances: relative L2 error 1e-4 of the latents after each step (errors of one call, about 1e-6, grow along the
//! steps), and 1/255 of each value of the final picture, which is one level of a byte.

use std::ops::ControlFlow;

use diffusion::{FluxPipeline, TextToImage};
use serde_json::Value;

use crate::golden::{Golden, device, largest_difference, path, values};

const LATENTS: f64 = 1e-4;
const PICTURE: f64 = 1.0 / 255.0;

/// The request in a golden's header, with FluxPipeline's defaults for what it leaves out.
pub fn request(note: &Value, num_images: usize) -> TextToImage {
    let number = |name: &str| note[name].as_u64().unwrap();
    TextToImage {
        prompt: note["prompt"].as_str().unwrap().to_owned(),
        negative_prompt: note["negative_prompt"].as_str().map(str::to_owned),
        num_images,
        num_inference_steps: number("num_inference_steps") as usize,
        guidance_scale: note["guidance_scale"].as_f64().unwrap_or(3.5),
        true_cfg_scale: note["true_cfg_scale"].as_f64().unwrap_or(1.0),
        width: number("width") as usize,
        height: number("height") as usize,
        seed: number("seed"),
    }
}

/// The pictures of a request, as values 0..1 in the order height, width, channel.
pub fn pictures(pipeline: &FluxPipeline, request: &TextToImage) -> Vec<Vec<f32>> {
    let pictures = pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap();
    pictures
        .into_iter()
        .map(|picture| picture.into_raw().into_iter().map(|byte| f32::from(byte) / 255.0).collect())
        .collect()
}

/// A file holds bytes, and a byte is half a level off at most; the result itself may be one level off.
#[track_caller]
pub fn assert_same_picture(actual: &[f32], expected: &[f32]) {
    let bytes: Vec<f32> = expected.iter().map(|value| (value * 255.0).round_ties_even() / 255.0).collect();
    let difference = largest_difference(actual, &bytes);
    println!("largest difference {:.2} levels", difference * 255.0);
    assert!(difference <= PICTURE + 1e-6, "a value is {:.2} levels off", difference * 255.0);
}

fn check(folder: &str) {
    let golden = Golden::open(&format!("{folder}/reference"));
    let pipeline = FluxPipeline::load(&path(folder), &device()).unwrap();
    let request = request(&golden.note["request"], 2);
    let denoising = pipeline.prepare(&request).unwrap();
    let expected_pictures = golden.tensor::<4>("pipeline.images", &device());

    for picture in 0..2 {
        let noise = pipeline.noise(request.seed + picture as u64, denoising.rows, denoising.columns);
        let mut steps = 0;
        let latents = pipeline
            .denoise(&denoising, noise, &mut |step, latents| {
                let expected = golden.tensor::<3>(&format!("pipeline.latents.{step}"), &device()).narrow(0, picture, 1);
                let error = crate::golden::relative_error(&values(latents.clone()), &values(expected));
                println!("picture {picture}, step {step}: relative error {error:.1e}");
                assert!(error <= LATENTS, "picture {picture}, step {step}: {error:.1e}");
                steps += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(steps, request.num_inference_steps);
        let decoded = pipeline.decode(latents, denoising.rows, denoising.columns);
        let decoded = (decoded / 2.0 + 0.5).clamp(0.0, 1.0).permute([0, 2, 3, 1]);
        let expected = expected_pictures.clone().narrow(0, picture, 1);
        assert_eq!(decoded.dims(), expected.dims());
        let difference = largest_difference(&values(decoded), &values(expected));
        println!("picture {picture}: largest difference {difference:.1e}");
        assert!(difference <= PICTURE, "picture {picture}: {difference:.1e}");
    }

    // The way that callers take, to bytes.
    let made = pictures(&pipeline, &request);
    assert_eq!(made.len(), 2);
    for (picture, made) in made.iter().enumerate() {
        assert_same_picture(made, &values(expected_pictures.clone().narrow(0, picture, 1)));
    }

    // The second picture of a batch is the first one of the next seed.
    let next = TextToImage { seed: request.seed + 1, num_images: 1, ..request };
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
fn the_end_comes_within_one_step_of_the_wish() {
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
