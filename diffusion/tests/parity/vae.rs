//! The autoencoder against diffusers' `AutoencoderKL`: with and without attention in the middle block, quant
//! convolutions, four and three levels, Stable Diffusion's scaling and flags, and pictures that are not square; as a
//! whole, in tiles and one picture at a time.
//!
//! Tolerance: 1e-5, relative L2; f32 summed in a different order.

use crate::golden::{self, Golden, device};

const TOLERANCE: f64 = 1e-5;

fn check(pipeline: &str) {
    let golden = Golden::open(&format!("{pipeline}/reference"));
    let device = device();
    let vae = golden::vae(pipeline, &device);
    let posterior = vae.encode(golden.tensor("vae.image", &device));
    golden.check("vae.mean", posterior.mean, TOLERANCE);
    golden.check("vae.logvar", posterior.log_variance, TOLERANCE);
    golden.check("vae.decoded", vae.decode(golden.tensor("vae.latents", &device)), TOLERANCE);

    golden.check("vae.mean", vae.encode_sliced(golden.tensor("vae.image", &device)).mean, TOLERANCE);
    golden.check("vae.decoded", vae.decode_sliced(golden.tensor("vae.latents", &device)), TOLERANCE);
}

#[test]
fn four_levels_with_attention() {
    check("flux-tiny");
}

#[test]
fn three_levels_with_quant_convolutions() {
    check("flux-tiny-cfg");
}

#[test]
fn in_tiles() {
    let (device, golden) = (device(), Golden::open("tiling"));
    for pipeline in ["flux-tiny", "flux-tiny-cfg"] {
        let vae = golden::vae(pipeline, &device);
        let tensor = |name: &str| golden.tensor::<4>(&format!("{pipeline}.{name}"), &device);
        let posterior = vae.encode_tiled(tensor("image"));
        golden.check(&format!("{pipeline}.mean"), posterior.mean, TOLERANCE);
        golden.check(&format!("{pipeline}.logvar"), posterior.log_variance, TOLERANCE);
        golden.check(&format!("{pipeline}.decoded"), vae.decode_tiled(tensor("latents")), TOLERANCE);
    }
}

#[test]
fn large_pictures_go_through_in_tiles() {
    let (device, golden) = (device(), Golden::open("tiling"));
    let vae = golden::vae("flux-tiny", &device).with_largest_whole(64 * 64);
    let tensor = |name: &str| golden.tensor::<4>(&format!("flux-tiny.{name}"), &device);
    golden.check("flux-tiny.mean", vae.encode_sliced(tensor("image")).mean, TOLERANCE);
    golden.check("flux-tiny.decoded", vae.decode_sliced(tensor("latents")), TOLERANCE);
}

#[test]
fn stable_diffusion() {
    for pipeline in ["sd15-tiny", "sd15-inpaint-tiny", "sd21-tiny", "sdxl-tiny"] {
        check(pipeline);
    }
}
