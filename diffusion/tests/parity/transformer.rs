//! One call of the FLUX transformer against diffusers' `FluxTransformer2DModel`: two samples at different timesteps,
//! on a token grid that is not square.
//!
//! Tolerance: 1e-5, relative L2, for the whole network: f32 summed in a different order.

use crate::golden::{self, Golden, device, values};
use diffusion::networks::flux::FluxInput;

const TOLERANCE: f64 = 1e-5;

fn check(pipeline: &str, rows: usize, columns: usize) {
    let golden = Golden::open(&format!("{pipeline}/reference"));
    let device = device();
    let transformer = golden::transformer(pipeline, &device);
    let input = FluxInput {
        hidden: golden.tensor("transformer.in.hidden_states", &device),
        encoder_hidden: golden.tensor("transformer.in.encoder_hidden_states", &device),
        pooled: golden.tensor("transformer.in.pooled_projections", &device),
        timestep: golden.values("transformer.in.timestep").to_vec(),
        guidance: golden.has("transformer.in.guidance").then(|| golden.values("transformer.in.guidance").to_vec()),
    };
    let text = input.encoder_hidden.dims()[1];
    let output = transformer.forward(input.clone(), &transformer.rotary(text, rows, columns, &device));
    golden.check("transformer.out", output.clone(), TOLERANCE);

    // Each sample alone gives the same result as in the batch.
    let first = FluxInput {
        hidden: input.hidden.narrow(0, 0, 1),
        encoder_hidden: input.encoder_hidden.narrow(0, 0, 1),
        pooled: input.pooled.narrow(0, 0, 1),
        timestep: vec![input.timestep[0]],
        guidance: input.guidance.map(|guidance| vec![guidance[0]]),
    };
    let alone = transformer.forward(first, &transformer.rotary(text, rows, columns, &device));
    let error = golden::relative_error(&values(alone), &values(output.narrow(0, 0, 1)));
    assert!(error <= 1e-6, "a sample depends on its batch: {error:.1e}");
}

#[test]
fn with_guidance_embedding_from_shards() {
    check("flux-tiny", 5, 3);
}

#[test]
fn without_guidance_embedding_from_one_bf16_file() {
    check("flux-tiny-cfg", 2, 6);
}
