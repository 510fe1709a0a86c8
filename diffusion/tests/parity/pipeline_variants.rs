//! Whole pictures by pipelines with settings that no other golden covers: FLUX.1-schnell, a latent consistency model,
//! and an autoencoder with per-channel statistics like Playground v2.5's. Each is a tiny pipeline with modified
//! files, as made by `pipeline_variant_goldens.py`.
//!
//! Tolerance: 1/255.

use std::ops::ControlFlow;
use std::path::Path;

use ::image::{Rgb, RgbImage};
use diffusion::{PictureRequest, Pipeline};
use serde_json::{Value, json};

use crate::golden::{device, path};
use crate::lora_pictures::assert_within_one_level;
use crate::pipeline::request;
use crate::stable_diffusion::copy;

/// A tiny pipeline with modified fields in its JSON files.
fn variant(base: &str, changes: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&path(base), folder.path());
    for (file, fields) in changes {
        let file = folder.path().join(file);
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
    }
    folder
}

fn notes() -> Value {
    serde_json::from_slice(&std::fs::read(path("pipeline-variants/requests.json")).unwrap()).unwrap()
}

/// Makes a variant's pictures, which are side by side in its golden. `begin` sets up a request.
fn check(name: &str, folder: &Path, begin: impl Fn(PictureRequest, &Value) -> PictureRequest) -> Pipeline {
    let pipeline = Pipeline::load(folder, &device()).unwrap();
    let expected = ::image::open(path("pipeline-variants").join(format!("{name}.png"))).unwrap().to_rgb8();
    let mut left = 0;
    for note in notes()[name].as_array().unwrap() {
        let request = begin(request(note, 1), note);
        let made = pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap().remove(0);
        let there = ::image::imageops::crop_imm(&expected, left, 0, made.width(), made.height()).to_image();
        assert_within_one_level(&format!("{name} at {left}"), &made, &there);
        left += made.width();
    }
    assert_eq!(left, expected.width());
    pipeline
}

#[test]
fn schnell_without_guidance_and_shift() {
    let scheduler = json!({"shift": 1.0, "use_dynamic_shifting": false});
    let folder = variant("flux-tiny-cfg", &[("scheduler/scheduler_config.json", scheduler)]);
    let pipeline = check("schnell", folder.path(), |request, _| request);
    assert_eq!(pipeline.defaults().num_inference_steps, 4);
}

#[test]
fn a_latent_consistency_model_embeds_its_guidance_scale() {
    let index = json!({"_class_name": "LatentConsistencyModelPipeline"});
    let scheduler = json!({
        "_class_name": "LCMScheduler", "original_inference_steps": 50, "set_alpha_to_one": true, "steps_offset": 0,
    });
    let folder = variant("sd15-tiny", &[("model_index.json", index), ("scheduler/scheduler_config.json", scheduler)]);
    std::fs::remove_dir_all(folder.path().join("unet")).unwrap();
    copy(&path("pipeline-variants/lcm-unet"), &folder.path().join("unet"));
    // The negative prompt has no effect.
    let pipeline =
        check("lcm", folder.path(), |request, _| PictureRequest { negative_prompt: Some("a cat".into()), ..request });
    assert_eq!((pipeline.defaults().num_inference_steps, pipeline.defaults().guidance_scale), (4, 8.5));
}

#[test]
fn an_autoencoder_with_statistics_by_channel() {
    let folder = variant("sdxl-tiny", &[("vae/config.json", notes()["statistics_config"].clone())]);
    let photo = RgbImage::from_fn(40, 32, |x, y| Rgb([x as u8 * 6, y as u8 * 7, 90]));
    check("statistics", folder.path(), |request, note| PictureRequest {
        image: note.get("strength").map(|_| photo.clone()),
        ..request
    });
}
