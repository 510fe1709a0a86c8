//! The autoencoder against diffusers' `AutoencoderKL`: with and without attention in the middle, quant convolutions, four
//! and three levels, Stable Diffusion's scaling and flags, pictures that are not square.
//!
//! Tolerance 1e-5, relative L2: f32 on both sides, sums in another order.

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
fn stable_diffusion() {
    for pipeline in ["sd15-tiny", "sd15-inpaint-tiny", "sd21-tiny", "sdxl-tiny"] {
        check(pipeline);
    }
}
