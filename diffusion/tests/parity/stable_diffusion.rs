//! Whole pictures against diffusers' Stable Diffusion pipelines, from the same folder, prompt and seed: from noise, from a
//! picture, and around a mask, with UNets of 4 and of 9 channels; and prompts with weights and of several chunks, of which
//! diffusers knows nothing, against A1111's formula.
//!
//! Tolerances: relative L2 error 1e-4 of the latents after each step (errors of one call, about 1e-6, grow along the
//! steps), and 1/255 of each value of the final picture, which is one level of a byte. 1e-5 for embeddings.

use std::ops::ControlFlow;

use burn::prelude::*;
use diffusion::pipelines::latent_diffusion::{Denoising, LatentDiffusion};
use diffusion::{Error, PictureRequest, Pipeline};

use crate::golden::{Golden, device, path, relative_error, values};
use crate::pipeline::{assert_same_picture, levels, mask, picture, request};

const EMBEDDINGS: f64 = 1e-5;
const LATENTS: f64 = 1e-4;

fn load(folder: &str) -> Pipeline {
    Pipeline::load(&path(folder), &device()).unwrap()
}

/// The request `name` of a golden, with its picture and mask.
fn named_request(golden: &Golden, name: &str, num_images: usize) -> PictureRequest {
    PictureRequest {
        image: (name != "txt2img").then(|| picture(golden)),
        mask: name.starts_with("inpaint").then(|| mask(golden)),
        ..request(&golden.note["requests"][name], num_images)
    }
}

fn prepare<'a>(pipeline: &'a Pipeline, request: &PictureRequest) -> (&'a LatentDiffusion, Denoising) {
    match pipeline {
        Pipeline::StableDiffusion(pipeline) => (pipeline.latent_diffusion(), pipeline.prepare(request).unwrap()),
        Pipeline::StableDiffusionXl(pipeline) => (pipeline.latent_diffusion(), pipeline.prepare(request).unwrap()),
        Pipeline::Flux(_) => panic!("not Stable Diffusion"),
    }
}

fn pictures(pipeline: &Pipeline, request: &PictureRequest) -> Vec<Vec<f32>> {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).unwrap().into_iter().map(levels).collect()
}

/// Latents before the first and after each step, and the pictures; `count` of them in one batch.
fn check(folder: &str, name: &str, count: usize) {
    let golden = Golden::open(&format!("{folder}/reference"));
    let pipeline = load(folder);
    let request = named_request(&golden, name, count);
    let (latent_diffusion, denoising) = prepare(&pipeline, &request);
    for index in 0..count {
        let compare = |step: &str, latents: Tensor<4>| {
            let expected = golden.tensor::<4>(&format!("{name}.latents.{step}"), &device()).narrow(0, index, 1);
            let error = relative_error(&values(latents), &values(expected));
            println!("{folder} {name} {index}, {step}: relative error {error:.1e}");
            assert!(error <= LATENTS, "{folder} {name} {index}, {step}: {error:.1e}");
        };
        let start = latent_diffusion.start(&denoising, request.seed + index as u64);
        compare("initial", start.latents.clone());
        let mut steps = 0;
        let on_step = &mut |step: usize, latents: &Tensor<4>| {
            compare(&step.to_string(), latents.clone());
            steps += 1;
            ControlFlow::Continue(())
        };
        latent_diffusion.denoise(&denoising, start, on_step).unwrap();
        assert!(!golden.has(&format!("{name}.latents.{steps}")), "{folder} {name}: a step is missing");
    }
    let expected = golden.tensor::<4>(&format!("{name}.images"), &device());
    let made = pictures(&pipeline, &request);
    assert_eq!(made.len(), count);
    for (index, made) in made.iter().enumerate() {
        assert_same_picture(made, &values(expected.clone().narrow(0, index, 1)));
    }

    // The last picture of a batch is the only one of its own seed.
    let last = request.num_images - 1;
    let alone = PictureRequest { seed: request.seed + last as u64, num_images: 1, ..request };
    assert_eq!(pictures(&pipeline, &alone)[0], made[last]);
}

#[test]
fn stable_diffusion_1() {
    check("sd15-tiny", "txt2img", 2);
    check("sd15-tiny", "img2img", 1);
    check("sd15-tiny", "inpaint", 1);
    check("sd15-tiny", "inpaint_partly", 1);
}

#[test]
fn stable_diffusion_1_that_only_repaints() {
    check("sd15-inpaint-tiny", "inpaint", 1);
    check("sd15-inpaint-tiny", "inpaint_partly", 1);
}

#[test]
fn stable_diffusion_2() {
    check("sd21-tiny", "txt2img", 2);
    check("sd21-tiny", "img2img", 1);
    check("sd21-tiny", "inpaint", 1);
    check("sd21-tiny", "inpaint_partly", 1);
}

#[test]
fn stable_diffusion_xl() {
    check("sdxl-tiny", "txt2img", 2);
    check("sdxl-tiny", "img2img", 1);
    check("sdxl-tiny", "inpaint", 1);
    check("sdxl-tiny", "inpaint_partly", 1);
}

#[test]
fn what_stable_diffusion_cannot_do_is_said_by_field() {
    let (pipeline, repaints) = (load("sd21-tiny"), load("sd15-inpaint-tiny"));
    let golden = Golden::open("sd21-tiny/reference");
    let request = named_request(&golden, "img2img", 1);
    let txt2img = named_request(&golden, "txt2img", 1);
    let cases = [
        (&pipeline, "true_cfg_scale", PictureRequest { true_cfg_scale: 2.0, ..request.clone() }),
        (&pipeline, "strength", PictureRequest { strength: 0.0, ..request.clone() }),
        (&pipeline, "strength", PictureRequest { strength: 0.1, ..request.clone() }),
        (&pipeline, "guidance_rescale", PictureRequest { guidance_rescale: f64::NAN, ..request.clone() }),
        (&pipeline, "width", PictureRequest { width: 6, ..request.clone() }),
        (&pipeline, "clip_skip", PictureRequest { clip_skip: Some(3), ..request.clone() }),
        (&pipeline, "clip_skip", PictureRequest { clip_skip: Some(usize::MAX), ..request.clone() }),
        (&repaints, "mask", request),
        (&repaints, "mask", txt2img),
    ];
    for (pipeline, field, request) in cases {
        let made = pipeline.generate(&request, &mut |_| ControlFlow::Continue(()));
        let Err(Error::Invalid(reason)) = made else { panic!("{field} was accepted") };
        assert!(reason.starts_with(field), "{field}: {reason}");
    }
}
