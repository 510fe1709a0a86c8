//! Adapters written in PEFT's dialect against those that peft saves after diffusers has loaded the same adapter, key
//! by key. `lora_export_in_diffusers.py`, which writes these goldens, checks that they load there and make the same
//! pictures.
//!
//! Keys, shapes, `lora_A` and magnitudes are equal bit for bit. peft stores alpha separately and we multiply it into
//! `lora_B`, so these are compared with peft's times alpha / rank, to 1e-6 of the largest value.

use diffusion::LoraFile;
use diffusion::checkpoint::Checkpoint;
use diffusion::lora::{Dtype, Format, export};

use serde_json::Value;

use crate::golden::{largest_difference, path};

fn check(family: &str, source: &str) {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written.safetensors");
    export(&LoraFile::open(&path(source)).unwrap(), Format::Peft, Dtype::F32, &written).unwrap();
    let (ours, theirs) = (
        Checkpoint::open(&written).unwrap(),
        Checkpoint::open(&path("lora-export").join(format!("{family}.safetensors"))).unwrap(),
    );
    assert_eq!(ours.names().collect::<Vec<_>>(), theirs.names().collect::<Vec<_>>(), "{family}");
    let config: Value = serde_json::from_str(&theirs.metadata()["lora_adapter_metadata"]).unwrap();
    for name in ours.names() {
        assert_eq!(ours.shape(name).unwrap(), theirs.shape(name).unwrap(), "{family} {name}");
        let (made, saved) = (ours.read_f32(name).unwrap(), theirs.read_f32(name).unwrap());
        if !name.ends_with("lora_B.weight") {
            assert_eq!(made, saved, "{family} {name}");
            continue;
        }
        let number = |field: &str| config[format!("{}.{field}", name.split('.').next().unwrap())].as_f64().unwrap();
        let scale = (number("lora_alpha") / number("r")) as f32;
        let saved: Vec<f32> = saved.into_iter().map(|value| value * scale).collect();
        let largest = saved.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let difference = largest_difference(&made, &saved);
        assert!(largest > 0.0 && difference <= 1e-6 * f64::from(largest), "{family} {name}: {difference:.1e}");
    }
}

#[test]
fn what_peft_saves_of_the_same_adapter() {
    check("flux", "lora-dialects/flux/dora_peft.safetensors");
    check("sd15", "lora-dialects/sd15/kohya.safetensors");
    check("sdxl", "lora-pictures/sdxl/numbered.safetensors");
}
