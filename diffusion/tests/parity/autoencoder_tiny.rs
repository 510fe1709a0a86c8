//! AutoencoderTiny against diffusers: encoder, decoder, and the scaling of latents.
//!
//! Tolerance: relative L2 error 1e-5; f32 summed in a different order.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::DType;
use diffusion::checkpoint::{Checkpoint, load_strict, save};
use diffusion::networks::autoencoder_tiny::{AutoencoderTiny, Config};

use crate::golden::{self, Golden, device, path};

const TOLERANCE: f64 = 1e-5;

#[test]
fn both_ways_and_scaled() {
    let golden = Golden::open("taesd-tiny/reference");
    let config: Config = golden::config("taesd-tiny", "config.json");
    config.check().unwrap();
    let weights = Checkpoint::open(&path("taesd-tiny/diffusion_pytorch_model.safetensors")).unwrap();
    let taesd = load_strict(AutoencoderTiny::new(&config, &device()), &weights, DType::F32).unwrap();
    let input = |name: &str| golden.tensor::<4>(name, &device());
    golden.check("encoded", taesd.encode(input("image")), TOLERANCE);
    golden.check("decoded", taesd.decode(input("latents")), TOLERANCE);
    golden.check("scaled", taesd.scale_latents(input("latents")), TOLERANCE);
    golden.check("unscaled", taesd.unscale_latents(input("scaled")), TOLERANCE);
    let there_and_back = taesd.denormalise(taesd.normalise(input("latents")));
    golden.check("latents", there_and_back, TOLERANCE);
}

#[test]
fn what_is_written_has_the_keys_that_were_read() {
    let weights = Checkpoint::open(&path("taesd-tiny/diffusion_pytorch_model.safetensors")).unwrap();
    let network = AutoencoderTiny::new(&golden::config("taesd-tiny", "config.json"), &device());
    let network = load_strict(network, &weights, DType::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("taesd.safetensors");
    save(&network, &file, DType::F32, &BTreeMap::new()).unwrap();
    let written = Checkpoint::open(&file).unwrap();
    assert_eq!(written.names().collect::<BTreeSet<_>>(), weights.names().collect::<BTreeSet<_>>());
}
