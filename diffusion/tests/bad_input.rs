//! Invalid user input and input at the limits: each is accepted, or rejected with a sentence that names the fault
//! (the list is in docs/bad-input.md). None may result in a black picture. `checkpoint` tests malformed headers;
//! `api` and `domain` test what the service rejects before it queues a job.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "bad_input/adapter_gate.rs"]
mod adapter_gate;
#[path = "bad_input/adapters.rs"]
mod adapters;
#[path = "bad_input/checkpoint_gate.rs"]
mod checkpoint_gate;
#[path = "bad_input/corpus.rs"]
mod corpus;
#[path = "bad_input/models.rs"]
mod models;
#[path = "bad_input/pictures.rs"]
mod pictures;
#[path = "bad_input/requests.rs"]
mod requests;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::prelude::Device;
use diffusion::{PictureRequest, Pipeline, Result};
use image::RgbImage;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn load(folder: &Path) -> Result<Pipeline> {
    Pipeline::load(folder, &Device::flex())
}

/// A request for a small picture in few steps.
fn request(pipeline: &Pipeline) -> PictureRequest {
    PictureRequest { width: 32, height: 32, num_inference_steps: 3, ..pipeline.request("a red fox", 7) }
}

fn picture(pipeline: &Pipeline, request: &PictureRequest) -> Result<RgbImage> {
    pipeline.generate(request, &mut |_| ControlFlow::Continue(())).map(|mut pictures| pictures.remove(0))
}

/// How many steps a request takes.
fn steps(pipeline: &Pipeline, request: &PictureRequest) -> usize {
    let mut steps = 0;
    let made = pipeline.generate(request, &mut |progress| {
        steps = progress.step;
        assert!(progress.total_steps >= progress.step);
        ControlFlow::Continue(())
    });
    assert_eq!(made.unwrap().len(), 1);
    steps
}
