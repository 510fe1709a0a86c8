//! Requests at the limits.

use ::requests::PromptSyntax;
use diffusion::{Error, PictureRequest, Pipeline};
use image::{Rgb, RgbImage};

use crate::{golden, load, picture, request, steps};

const FAMILIES: [&str; 3] = ["sd15-tiny", "sdxl-tiny", "flux-tiny"];

fn refused(pipeline: &Pipeline, request: &PictureRequest) -> String {
    match picture(pipeline, request) {
        Err(Error::Invalid(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn begun(pipeline: &Pipeline, strength: f64) -> PictureRequest {
    let photo = RgbImage::from_fn(20, 40, |x, y| Rgb([x as u8 * 12, y as u8 * 6, 90]));
    PictureRequest { image: Some(photo), strength, num_inference_steps: 4, ..request(pipeline) }
}

/// Prompts of 10 000 characters of words are accepted: Stable Diffusion splits them into chunks and FLUX truncates
/// them. As many punctuation marks, one token each, exceed the limit of chunks.
#[test]
fn prompts_of_ten_thousand_characters() {
    for family in FAMILIES {
        let pipeline = load(&golden(family)).unwrap();
        let with = |prompt: String| PictureRequest { prompt, num_inference_steps: 1, ..request(&pipeline) };
        let mut words = "the red fox ".repeat(834);
        words.truncate(10_000);
        if family == "flux-tiny" {
            picture(&pipeline, &with(words.clone())).unwrap();
        } else {
            // The tiny vocabulary needs more tokens per word than the published one.
            let made = picture(&pipeline, &with(words.clone()));
            assert!(made.is_ok() || made.is_err_and(|error| error.to_string().contains("chunks")), "{family}");
            picture(&pipeline, &with("the red fox ".repeat(160))).unwrap();
            assert!(refused(&pipeline, &with("!? ".repeat(3_333))).contains("may have 64"), "{family}");
        }
        assert!(refused(&pipeline, &with(words + "x")).starts_with("prompt has 10001 characters"), "{family}");
    }
}

#[test]
fn strengths_of_nothing_and_of_all() {
    for family in FAMILIES {
        let pipeline = load(&golden(family)).unwrap();
        assert!(refused(&pipeline, &begun(&pipeline, 0.0)).starts_with("strength 0 leaves none"), "{family}");
        for outside in [-0.001, 1.001, f64::NAN, f64::INFINITY] {
            assert!(refused(&pipeline, &begun(&pipeline, outside)).starts_with("strength"), "{family} {outside}");
        }
        let all = begun(&pipeline, 1.0);
        let full = steps(&pipeline, &PictureRequest { image: None, ..all.clone() });
        assert_eq!(steps(&pipeline, &all), full, "{family}: all of the steps are taken");
    }
}

#[test]
fn one_step_and_two_hundred() {
    for family in FAMILIES {
        let pipeline = load(&golden(family)).unwrap();
        for count in [1, 200] {
            let small = PictureRequest { width: 16, height: 16, guidance_scale: 1.0, ..request(&pipeline) };
            let request = PictureRequest { num_inference_steps: count, ..small };
            // PNDM calls the denoiser once more than it has steps.
            let taken = steps(&pipeline, &request);
            assert!((count..=count + 1).contains(&taken), "{family}: {taken} for {count}");
        }
        let none = PictureRequest { num_inference_steps: 0, ..request(&pipeline) };
        assert!(refused(&pipeline, &none).contains("num_inference_steps"), "{family}");
    }
    let pipeline = load(&golden("sd15-tiny")).unwrap();
    for scheduler in ["DDIM", "PLMS", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE Karras", "UniPC", "LCM"] {
        let scheduler = Some(scheduler.parse().unwrap());
        let one = PictureRequest { num_inference_steps: 1, scheduler, ..request(&pipeline) };
        assert!(picture(&pipeline, &one).is_ok(), "{scheduler:?}");
    }
    // It was distilled from fifty.
    let lcm = Some("LCM".parse().unwrap());
    let many = PictureRequest { num_inference_steps: 200, scheduler: lcm, ..request(&pipeline) };
    assert!(refused(&pipeline, &many).contains("50"), "{}", refused(&pipeline, &many));
}

/// A guidance scale of 0 disables guidance like 1 does. FLUX.1-dev embeds it.
#[test]
fn no_guidance() {
    for family in FAMILIES {
        let pipeline = load(&golden(family)).unwrap();
        let with = |guidance_scale: f64| {
            picture(
                &pipeline,
                &PictureRequest { guidance_scale, negative_prompt: Some("a cat".into()), ..request(&pipeline) },
            )
        };
        let none = with(0.0).unwrap();
        assert_eq!(with(1.0).unwrap() == none, family != "flux-tiny", "{family}");
        assert_ne!(with(7.0).unwrap(), none, "{family}");
        for outside in [f64::NAN, f64::INFINITY] {
            assert!(with(outside).unwrap_err().to_string().starts_with("guidance_scale"), "{family}");
        }
    }
}

/// Flux reads as many tokens as its T5 was trained with, and drops the rest.
#[test]
fn a_prompt_that_is_too_long_is_a_warning() {
    let pipeline = load(&golden("flux-tiny")).unwrap();
    let of = |prompt: String, negative: Option<String>, true_cfg_scale| {
        let request = PictureRequest { prompt, negative_prompt: negative, true_cfg_scale, ..request(&pipeline) };
        pipeline.notes(&request).unwrap()
    };
    let long = || "the red fox ".repeat(800);
    assert_eq!(of("a fox".into(), Some("blurry".into()), 2.0), [""; 0]);
    let warnings = of(long(), Some(long()), 2.0);
    assert!(warnings.len() == 2 && warnings[0].starts_with("prompt: ") && warnings[0].contains("T5"), "{warnings:?}");
    assert!(warnings[1].starts_with("negative_prompt: "), "{warnings:?}");
    assert_eq!(of("a fox".into(), Some(long()), 1.0), [""; 0], "it is not read at all");
}

#[test]
fn guidance_that_no_layer_takes_is_a_warning() {
    for folder in ["flux-tiny", "flux-tiny-cfg"] {
        let pipeline = load(&golden(folder)).unwrap();
        let Pipeline::Flux(flux) = &pipeline else { panic!("{folder}") };
        let usual = request(&pipeline);
        let other = PictureRequest { guidance_scale: usual.guidance_scale + 1.0, ..usual.clone() };
        assert_eq!(pipeline.notes(&usual).unwrap(), [""; 0]);
        assert_eq!(pipeline.notes(&other).unwrap().is_empty(), flux.is_guided(), "{folder}");
    }
}

/// Brackets have a meaning for Stable Diffusion only, and only in A1111's syntax.
#[test]
fn brackets_are_text_in_the_plain_syntax() {
    for family in FAMILIES {
        let pipeline = load(&golden(family)).unwrap();
        let with =
            |prompt_syntax| PictureRequest { prompt: "a (red:1.9) fox".into(), prompt_syntax, ..request(&pipeline) };
        let [weighed, plain] =
            [PromptSyntax::A1111, PromptSyntax::Plain].map(|syntax| picture(&pipeline, &with(syntax)));
        assert_eq!(weighed.unwrap() == plain.unwrap(), family == "flux-tiny", "{family}");
    }
}
