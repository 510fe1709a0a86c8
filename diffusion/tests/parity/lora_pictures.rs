//! Whole pictures with a LoRA of every dialect and algorithm at scale 0, 0.5 and 1, on FLUX.1, Stable Diffusion 1.5
//! and XL, against diffusers with merged weights (and against peft where it can read the file; see
//! `lora_picture_goldens.py`).
//!
//! Tolerance: 1/255, as without adapters.

use std::ops::ControlFlow;
use std::path::PathBuf;

use ::image::RgbImage;
use diffusion::{LoraFile, PictureRequest, Pipeline};

use crate::golden::{device, path};
use crate::pipeline::request;

/// The request for a family's pictures.
fn request_of(family: &str) -> PictureRequest {
    let text = std::fs::read(path("lora-pictures/requests.json")).unwrap();
    let requests: serde_json::Value = serde_json::from_slice(&text).unwrap();
    request(&requests[if family == "flux" { "flux" } else { "stable_diffusion" }], 1)
}

/// The adapter of a golden: beside it, or one of `lora_dialects`.
fn adapter(family: &str, name: &str) -> PathBuf {
    let folders = ["lora-pictures", "lora-dialects"].map(|folder| path(folder).join(family));
    folders.map(|folder| folder.join(format!("{name}.safetensors"))).into_iter().find(|file| file.is_file()).unwrap()
}

/// Compares bytes, since the goldens are PNGs.
#[track_caller]
pub(crate) fn assert_within_one_level(name: &str, made: &RgbImage, expected: &RgbImage) {
    assert_eq!(made.dimensions(), expected.dimensions(), "{name}");
    let furthest = made.as_raw().iter().zip(expected.as_raw()).map(|(made, expected)| made.abs_diff(*expected)).max();
    assert!(furthest <= Some(1), "{name} is {furthest:?} levels off");
}

/// Each PNG holds three pictures side by side, for scale 0, 0.5 and 1.
fn check(family: &str, count: usize) {
    let mut pipeline = Pipeline::load(&path(&format!("{family}-tiny")), &device()).unwrap();
    let request = request_of(family);
    let entries = std::fs::read_dir(path("lora-pictures").join(family)).unwrap().map(|entry| entry.unwrap().path());
    let goldens: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "png")).collect();
    assert_eq!(goldens.len(), count);
    for golden in goldens {
        let name = golden.file_stem().unwrap().to_str().unwrap();
        let expected = ::image::open(&golden).unwrap().to_rgb8();
        let (width, height) = (request.width as u32, request.height as u32);
        let file = LoraFile::open(&adapter(family, name)).unwrap();
        for (position, scale) in [0.0, 0.5, 1.0].into_iter().enumerate() {
            let reports = pipeline.attach(&[(&file, scale)]).unwrap();
            assert_eq!(reports[0].unmatched, Vec::<String>::new(), "{family} {name}");
            let made = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap();
            let there = ::image::imageops::crop_imm(&expected, position as u32 * width, 0, width, height).to_image();
            assert_within_one_level(&format!("{family} {name} at {scale}"), &made[0], &there);
        }
    }
}

#[test]
fn flux() {
    check("flux", 14);
}

#[test]
fn stable_diffusion_1() {
    check("sd15", 9);
}

#[test]
fn stable_diffusion_xl() {
    check("sdxl", 8);
}
