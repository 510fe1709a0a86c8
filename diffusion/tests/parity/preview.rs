//! Previews: a tiny autoencoder's decoder against diffusers under both naming schemes, the predicted x₀ of the last
//! step, and the quality of the linear map for a trained autoencoder.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::load_strict;
use diffusion::checkpoint::single_file::taesd;
use diffusion::networks::autoencoder_tiny::TinyDecoder;
use diffusion::{PictureRequest, Pipeline};
use image::RgbImage;
use safetensors::{SafeTensors, serialize_to_file};

use crate::golden::{Golden, device, path};

/// As for the whole tiny autoencoder: f32 summed in a different order.
const TOLERANCE: f64 = 1e-5;

fn tiny() -> PathBuf {
    path("taesd-tiny/diffusion_pytorch_model.safetensors")
}

/// The decoder with the original repository's names, where the clamp counts as a layer.
fn as_in_the_original(folder: &Path) -> PathBuf {
    let (file, bytes) = (folder.join("taesd_decoder.safetensors"), std::fs::read(tiny()).unwrap());
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = tensors.iter().filter_map(|(name, tensor)| {
        let (layer, leaf) = name.strip_prefix("decoder.layers.")?.split_once('.')?;
        Some((format!("{}.{leaf}", layer.parse::<usize>().unwrap() + 1), tensor))
    });
    serialize_to_file(renamed, None, &file).unwrap();
    file
}

#[test]
fn the_decoder_alone_in_both_namings() {
    let golden = Golden::open("taesd-tiny/reference");
    let folder = tempfile::tempdir().unwrap();
    for file in [tiny(), as_in_the_original(folder.path())] {
        let (config, tensors) = taesd::decoder(&file).unwrap();
        assert_eq!((config.num_decoder_blocks.as_slice(), config.factor()), (&[2, 1, 1][..], 4));
        let decoder = load_strict(TinyDecoder::new(&config, &device()), &tensors, DType::F32).unwrap();
        golden.check("decoded", decoder.decode(golden.tensor::<4>("latents", &device())), TOLERANCE);
    }
    for other in ["sd15-tiny/vae/diffusion_pytorch_model.safetensors", "lora/peft.safetensors"] {
        let refused = taesd::decoder(&path(other)).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("no decoder of a TAESD: it has no first layer"), "{refused}");
    }
}

/// The predicted x₀ after each step of a request, and its picture.
fn predicted_clean(pipeline: &Pipeline, request: &PictureRequest) -> (Vec<Tensor<4>>, RgbImage) {
    let mut all = Vec::new();
    let mut pictures = pipeline
        .generate(request, &mut |progress| {
            all.push(progress.predicted_clean.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
    (all, pictures.remove(0))
}

#[test]
fn the_last_predicted_clean_image_is_the_picture() {
    for (folder, scheduler) in [
        ("sd15-tiny", Some(formats::Scheduler::Euler)),
        ("sdxl-tiny", Some(formats::Scheduler::Dpmpp2m)),
        ("flux-tiny", None),
    ] {
        let pipeline = Pipeline::load(&path(folder), &device()).unwrap();
        let request = PictureRequest {
            scheduler,
            num_inference_steps: 4,
            width: 32,
            height: 48,
            ..pipeline.request("a red fox", 7)
        };
        let (all, picture) = predicted_clean(&pipeline, &request);
        assert_eq!(all.len(), 4, "{folder}");
        let vae = pipeline.autoencoder();
        let last = vae.decode(vae.denormalise(all[3].clone()));
        let last = diffusion::image::from_tensor(last).unwrap();
        let difference = last.iter().zip(picture.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(difference <= 1, "{folder}: {difference} of 255");
    }
}

#[test]
fn a_preview_is_as_large_as_the_picture_up_to_its_limit() {
    let pipeline = Pipeline::load(&path("sd15-tiny"), &device()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Tall and wide latents to pixels: by the linear map, and by the tiny autoencoder.
    let cases = [
        ([6, 4], (16, 24), (16, 24)),
        ([1, 9], (36, 4), (36, 4)),
        ([160, 128], (384, 480), (256, 320)),
        // Too narrow to be pooled by the full factor.
        ([300, 2], (2, 300), (3, 512)),
    ];
    let tiny_ones = [tiny(), as_in_the_original(folder.path())].map(Some);
    for (file, is_tiny) in [(None, false)].into_iter().chain(tiny_ones.map(|file| (file, true))) {
        let previewer = pipeline.previewer(file.as_deref()).unwrap();
        for ([high, wide], linear, tiny) in cases {
            let latents = Tensor::<4>::zeros([1, 4, high, wide], &device());
            let size = previewer.picture(&latents).unwrap().dimensions();
            assert_eq!(size, if is_tiny { tiny } else { linear }, "{high}×{wide} latents");
        }
        assert!(previewer.picture(&Tensor::<4>::zeros([1, 16, 4, 4], &device())).is_err());
    }
}

#[test]
fn a_decoder_of_other_latents_is_not_used() {
    // For 4 pixels per latent, where the model has 8.
    let flux = Pipeline::load(&path("flux-tiny"), &device()).unwrap();
    let latents = Tensor::<4>::ones([1, 4, 3, 2], &device());
    let by_itself = flux.previewer(None).unwrap().picture(&latents).unwrap();
    assert_eq!(flux.previewer(Some(&tiny())).unwrap().picture(&latents).unwrap(), by_itself);
    assert!(flux.previewer(Some(Path::new("/nowhere"))).is_err());
}

/// Uses the built-in model, whose autoencoder is trained; the others have random weights.
#[test]
fn the_linear_map_of_a_trained_autoencoder_shows_its_pictures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pipeline = Pipeline::load(&root.join("models/ember"), &device()).unwrap();
    let (vae, previewer) = (pipeline.autoencoder(), pipeline.previewer(None).unwrap());
    let (mut wrong, mut plain) = (0.0, 0.0);
    for entry in std::fs::read_dir(root.join("datasets/pyrography")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|end| end != "png") {
            continue;
        }
        let picture = diffusion::image::cover(&diffusion::image::read(&file).unwrap(), 128, 128);
        let latents = vae.normalise(vae.encode(diffusion::image::to_tensor(&picture, &device())).mean);
        let preview = previewer.picture(&latents).unwrap();
        // At the resolution of latents.
        let small = |picture: &RgbImage| image::imageops::thumbnail(picture, 16, 16);
        let (shown, wanted) = (small(&preview), small(&picture));
        let mean = wanted.iter().map(|value| f64::from(*value)).sum::<f64>() / (16.0 * 16.0 * 3.0);
        for (shown, wanted) in shown.iter().zip(wanted.iter()) {
            wrong += (f64::from(*shown) - f64::from(*wanted)).powi(2);
            plain += (f64::from(*wanted) - mean).powi(2);
        }
    }
    let explained = 1.0 - wrong / plain;
    println!("the linear map explains {explained:.3} of the variance");
    assert!(explained > 0.8, "{explained:.3} of the variance");
}
