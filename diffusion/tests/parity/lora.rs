//! LoRA adapters against diffusers + peft, which also keep them as branches: one transformer call and pictures at
//! several scales, in kohya's and in PEFT's dialect, with alpha as a tensor and in the header, and two at once. Also
//! an adapter that this crate writes, which must equal the one that they loaded.
//!
//! Tolerance: 1e-5, relative L2, for the call, and 1/255 for pictures, as without adapters.

use std::collections::BTreeMap;

use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::Checkpoint;
use diffusion::lora::{Factors, attach, save};
use diffusion::networks::flux::{FluxInput, FluxTransformer};
use diffusion::{FluxPipeline, LoraFile};

use crate::golden::{self, Golden, device, path, values};
use crate::pipeline::{assert_same_picture, pictures, request};

const TOLERANCE: f64 = 1e-5;

fn lora(name: &str) -> LoraFile {
    LoraFile::open(&path("lora").join(format!("{name}.safetensors"))).unwrap()
}

fn call(golden: &Golden, transformer: &FluxTransformer) -> Tensor<3> {
    let device = device();
    let input = FluxInput {
        hidden: golden.tensor("transformer.in.hidden_states", &device),
        encoder_hidden: golden.tensor("transformer.in.encoder_hidden_states", &device),
        pooled: golden.tensor("transformer.in.pooled_projections", &device),
        timestep: golden.values("transformer.in.timestep").to_vec(),
        guidance: Some(golden.values("transformer.in.guidance").to_vec()),
    };
    transformer.forward(input, &transformer.rotary(6, 3, 4, &device))
}

#[test]
fn one_adapter_at_each_scale_in_both_dialects() {
    let golden = Golden::open("lora/reference");
    let mut transformer = golden::transformer("flux-tiny", &device());
    let base = call(&golden, &transformer);
    golden.check("transformer.out.base", base.clone(), TOLERANCE);
    for dialect in ["peft", "kohya"] {
        let file = lora(dialect);
        for scale in [0.0, 0.5, 1.0] {
            let reports = attach(&mut [(&mut transformer).into()], &[(&file, scale)], &device()).unwrap();
            // 14 layers per double block, 6 per single block, and two blocks of each.
            assert_eq!((reports[0].matched, reports[0].unmatched.len()), (40, 0), "{dialect}");
            golden.check(&format!("transformer.out.peft.{scale:.1}"), call(&golden, &transformer), TOLERANCE);
        }
    }
    attach(&mut [(&mut transformer).into()], &[], &device()).unwrap();
    assert_eq!(values(call(&golden, &transformer)), values(base), "taking adapters off leaves the base bit by bit");
}

#[test]
fn an_alpha_that_only_the_header_knows() {
    let golden = Golden::open("lora/reference");
    let mut transformer = golden::transformer("flux-tiny", &device());
    let reports = attach(&mut [(&mut transformer).into()], &[(&lora("second"), 1.0)], &device()).unwrap();
    assert_eq!(reports[0].alpha_source, "lora_adapter_metadata");
    golden.check("transformer.out.second.1.0", call(&golden, &transformer), TOLERANCE);
}

#[test]
fn two_adapters_at_once() {
    let golden = Golden::open("lora/reference");
    let mut transformer = golden::transformer("flux-tiny", &device());
    for first in ["peft", "kohya"] {
        attach(&mut [(&mut transformer).into()], &[(&lora(first), 0.7), (&lora("second"), -0.4)], &device()).unwrap();
        golden.check("transformer.out.peft.0.7+second.-0.4", call(&golden, &transformer), TOLERANCE);
    }
}

#[test]
fn pictures_with_adapters() {
    let golden = Golden::open("lora/reference");
    let mut pipeline = FluxPipeline::load(&path("flux-tiny"), &device()).unwrap();
    let request = request(&golden.note, 1);
    let (peft, kohya, second) = (lora("peft"), lora("kohya"), lora("second"));
    let cases: [(&str, &[(&LoraFile, f64)]); 6] = [
        ("base", &[]),
        ("peft.0.5", &[(&peft, 0.5)]),
        ("peft.1.0", &[(&kohya, 1.0)]),
        ("peft.0.7+second.-0.4", &[(&kohya, 0.7), (&second, -0.4)]),
        ("peft.0.0", &[(&peft, 0.0)]),
        ("base", &[]),
    ];
    for (name, loras) in cases {
        pipeline.attach(loras).unwrap();
        assert_same_picture(&pictures(&pipeline, &request)[0], golden.values(&format!("image.{name}")));
    }
}

#[test]
fn what_we_write_is_what_they_loaded() {
    let theirs = Checkpoint::open(&path("lora/peft.safetensors")).unwrap();
    let factor = |name: &str| {
        let shape: [usize; 2] = theirs.shape(name).unwrap().try_into().unwrap();
        Tensor::<2>::from_data(TensorData::new(theirs.read_f32(name).unwrap(), shape), &device())
    };
    // Their B includes alpha / rank. Ours does only when it is written.
    let scale = 0.25;
    let layers = theirs.names().filter_map(|name| name.strip_prefix("transformer.")?.strip_suffix(".lora_A.weight"));
    let factors: Vec<Factors> = layers
        .map(|layer| Factors {
            path: layer.to_owned(),
            down: factor(&format!("transformer.{layer}.lora_A.weight")),
            up: factor(&format!("transformer.{layer}.lora_B.weight")) / scale,
            scale,
        })
        .collect();
    assert_eq!(factors.len(), 40);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ours.safetensors");
    save(&file, &factors, DType::F32, &BTreeMap::new()).unwrap();
    let ours = Checkpoint::open(&file).unwrap();
    let names = |checkpoint: &Checkpoint| checkpoint.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for name in ours.names() {
        assert_eq!(ours.shape(name).unwrap(), theirs.shape(name).unwrap());
        assert_eq!(ours.read_f32(name).unwrap(), theirs.read_f32(name).unwrap(), "{name}");
    }
}
