//! LoRA files with an invalid rank or alpha, and those of another family.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;
use diffusion::lora::{self, Dtype, Factors, Format, export};
use diffusion::{Error, LoraFile, Result};
use tempfile::TempDir;

use crate::{golden, load, picture, request};

const MODULE: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";

/// Opens a LoRA of this rank on one layer, with `alpha` as a tensor and `header` as JSON.
fn open(folder: &TempDir, rank: usize, alpha: Option<f32>, header: &str) -> Result<LoraFile> {
    open_on(MODULE, folder, rank, alpha, header)
}

fn open_on(module: &str, folder: &TempDir, rank: usize, alpha: Option<f32>, header: &str) -> Result<LoraFile> {
    open_of(module, folder, rank, (0.5, 0.5), alpha, header)
}

/// `factors` are the values of A and of B.
fn open_of(
    module: &str,
    folder: &TempDir,
    rank: usize,
    factors: (f32, f32),
    alpha: Option<f32>,
    header: &str,
) -> Result<LoraFile> {
    let wide = 10;
    let bytes = 4 * rank * wide;
    let mut entries = vec![
        format!(r#""__metadata__":{header}"#),
        format!(r#""{module}.lora_A.weight":{{"dtype":"F32","shape":[{rank},{wide}],"data_offsets":[0,{bytes}]}}"#),
        format!(
            r#""{module}.lora_B.weight":{{"dtype":"F32","shape":[{wide},{rank}],"data_offsets":[{bytes},{}]}}"#,
            2 * bytes
        ),
    ];
    let (down, up) = factors;
    let mut data = [down, up].map(|value| value.to_le_bytes().repeat(rank * wide)).concat();
    if let Some(alpha) = alpha {
        let (from, to) = (2 * bytes, 2 * bytes + 4);
        entries.push(format!(r#""{module}.alpha":{{"dtype":"F32","shape":[],"data_offsets":[{from},{to}]}}"#));
        data.extend(alpha.to_le_bytes());
    }
    let header = format!("{{{}}}", entries.join(","));
    let path = folder.path().join("adapter.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
    LoraFile::open(&path)
}

fn refused(rank: usize, alpha: Option<f32>, header: &str) -> String {
    open(&TempDir::new().unwrap(), rank, alpha, header).unwrap_err().to_string()
}

#[test]
fn ranks_that_are_none() {
    assert!(refused(0, None, "{}").contains("1 to 512"));
    assert!(refused(513, None, "{}").contains("its rank is 513; 1 to 512"));
    assert!(open(&TempDir::new().unwrap(), 512, None, "{}").is_ok());
}

#[test]
fn alphas_that_are_none() {
    let folder = TempDir::new().unwrap();
    for (alpha, header) in [
        (None, r#"{"ss_network_alpha":"0"}"#),
        (None, r#"{"lora_adapter_metadata":"{\"unet.lora_alpha\":0}"}"#),
        (Some(0.0), "{}"),
    ] {
        let file = open(&folder, 2, alpha, header).unwrap();
        assert_eq!(file.warnings(), ["alpha is 0 everywhere, so it changes nothing"], "{header}");
    }
    for alpha in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let error = refused(2, Some(alpha), "{}");
        assert!(error.contains(MODULE) && error.contains("its alpha is not one finite number"), "{error}");
    }
    for header in [r#"{"ss_network_alpha":"inf"}"#, r#"{"ss_network_alpha":"NaN"}"#] {
        assert!(refused(2, None, header).contains("its alpha is not finite"), "{header}");
    }
    let error = refused(2, None, r#"{"lora_adapter_metadata":"{\"unet.lora_alpha\":1e999}"}"#);
    assert!(error.contains("lora_adapter_metadata"), "{error}");
}

/// The layers of an adapter determine its family, regardless of its name. The base model is unchanged.
#[test]
fn an_adapter_of_another_family_changes_nothing() {
    let adapters =
        [("flux-tiny", "lora/peft.safetensors"), ("sd15-tiny", "stable-diffusion-lora/sd15-tiny.safetensors")];
    for (model, others) in [("flux-tiny", adapters[1].1), ("sd15-tiny", adapters[0].1), ("sd21-tiny", adapters[1].1)] {
        let mut pipeline = load(&golden(model)).unwrap();
        let before = picture(&pipeline, &request(&pipeline)).unwrap();
        let file = LoraFile::open(&golden(others)).unwrap();
        let Err(Error::Adapter(reason)) = pipeline.attach(&[(&file, 1.0)]) else { panic!("{others} hangs on {model}") };
        assert!(reason.len() > 30, "{reason}");
        assert_eq!(picture(&pipeline, &request(&pipeline)).unwrap(), before);
    }
    let pickle = golden("no-such.safetensors");
    assert!(matches!(LoraFile::open(Path::new(&pickle)), Err(Error::File { .. })));
}

/// Found by fuzzing: a layer that no UNet has was exported under a name that nothing reads.
#[test]
fn a_layer_that_no_network_has_is_not_written_under_a_name_that_nobody_reads() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("written.safetensors");
    let file = open_on("unet.down_blocks.0.attentions.0.conv1", &folder, 2, None, "{}").unwrap();
    let error = export(&file, Format::Comfy, Dtype::F32, &out).unwrap_err().to_string();
    assert!(error.contains("this dialect has no name for it"), "{error}");
    export(&open(&folder, 2, None, "{}").unwrap(), Format::Comfy, Dtype::F32, &out).unwrap();
    assert!(LoraFile::open(&out).is_ok());
}

/// Found by fuzzing: a module with two names in a file was exported as one module of two algorithms.
#[test]
fn a_module_under_two_names_is_not_written_as_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("twice.safetensors");
    let entry = |key: &str, shape: [usize; 2], from: usize| {
        let to = from + 4 * shape[0] * shape[1];
        format!(r#""{key}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
    };
    let entries = [
        entry("lora_unet_middle_block_1_proj_in.diff", [4, 4], 0),
        entry("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", [2, 4], 64),
        entry("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", [4, 2], 96),
    ];
    let header = format!("{{{}}}", entries.join(","));
    let data = 0.5f32.to_le_bytes().repeat(32);
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
    let file = LoraFile::open(&path).unwrap();
    let error = export(&file, Format::Kohya, Dtype::F32, &folder.path().join("written.safetensors")).unwrap_err();
    assert!(error.to_string().contains("mid_block_attentions_0_proj_in: the file changes it twice"), "{error}");
}

/// Found by fuzzing: their number was only checked when they were applied to a layer.
#[test]
fn magnitudes_that_belong_to_no_layer() {
    let folder = TempDir::new().unwrap();
    let open = |shape: &str, count: usize| {
        let header = format!(
            r#"{{"{MODULE}.lora_A.weight":{{"dtype":"F32","shape":[2,6],"data_offsets":[0,48]}},
            "{MODULE}.lora_B.weight":{{"dtype":"F32","shape":[4,2],"data_offsets":[48,80]}},
            "{MODULE}.dora_scale":{{"dtype":"F32","shape":{shape},"data_offsets":[80,{}]}}}}"#,
            80 + 4 * count
        );
        let path = folder.path().join("adapter.safetensors");
        let data = 0.5f32.to_le_bytes().repeat(20 + count);
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
        LoraFile::open(&path)
    };
    assert!(open("[4,1]", 4).is_ok() && open("[1,6]", 6).is_ok());
    let error = open("[4,1,1,9]", 36).unwrap_err().to_string();
    assert!(error.contains("its magnitudes are not one for each output"), "{error}");
}

#[test]
fn alpha_of_every_type_is_the_same_number() {
    let folder = TempDir::new().unwrap();
    let mut pipeline = load(&golden("sd15-tiny")).unwrap();
    let mut made = |kind: &str, shape: &str, alpha: &[u8]| {
        let end = 160 + alpha.len();
        let header = format!(
            r#"{{"{MODULE}.lora_A.weight":{{"dtype":"F32","shape":[2,10],"data_offsets":[0,80]}},
            "{MODULE}.lora_B.weight":{{"dtype":"F32","shape":[10,2],"data_offsets":[80,160]}},
            "{MODULE}.alpha":{{"dtype":"{kind}","shape":{shape},"data_offsets":[160,{end}]}}}}"#
        );
        let data: Vec<u8> =
            (0..40).flat_map(|at| ((at % 7) as f32 - 3.0).to_le_bytes()).chain(alpha.to_vec()).collect();
        let path = folder.path().join("alpha.safetensors");
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
        let file = LoraFile::open(&path).unwrap();
        pipeline.attach(&[(&file, 1.0)]).unwrap();
        picture(&pipeline, &request(&pipeline)).unwrap()
    };
    let expected = made("F32", "[]", &2f32.to_le_bytes());
    assert_ne!(expected, made("F32", "[]", &6f32.to_le_bytes()), "the number matters");
    for (kind, shape, alpha) in [
        ("F64", "[]", &2f64.to_le_bytes()[..]),
        ("I64", "[]", &2i64.to_le_bytes()),
        ("I32", "[1]", &2i32.to_le_bytes()),
        ("U16", "[1,1]", &2u16.to_le_bytes()),
        ("I8", "[]", &[2]),
        ("F16", "[]", &[0, 0x40]),
        ("F32", "[1,1]", &2f32.to_le_bytes()),
    ] {
        assert_eq!(made(kind, shape, alpha), expected, "{kind} {shape}");
    }
}

/// f16 ends at 65504 and bf16 at 3.39e38, just below f32.
#[test]
fn no_export_holds_values_that_its_type_cannot() {
    let folder = TempDir::new().unwrap();
    let written = folder.path().join("export.safetensors");
    let export_of = |down: f32, up: f32, alpha: f32, format, dtype| {
        let file = open_of(MODULE, &folder, 2, (down, up), Some(alpha), "{}").unwrap();
        export(&file, format, dtype, &written).map_err(|error| error.to_string())
    };
    for format in Format::ALL {
        for (dtype, name, value) in [(Dtype::F16, "F16", 1e8), (Dtype::Bf16, "BF16", f32::MAX)] {
            let why = export_of(value, 0.5, 1.0, format, dtype).unwrap_err();
            let expected = format!("it holds values that are not finite in {name}");
            assert!(why.contains("to_q.lora_") && why.contains(&expected), "{format:?}: {why}");
            assert!(!written.exists(), "{format:?} {name}");
        }
    }
    // PEFT's dialect multiplies alpha into B, where f32 may overflow, too.
    for (format, dtype, alpha, fits) in [
        (Format::Kohya, Dtype::F16, 1e-8, false),
        (Format::Kohya, Dtype::F32, 1e-8, true),
        (Format::Peft, Dtype::F16, 1e-8, true),
        (Format::Peft, Dtype::F32, 1e38, false),
    ] {
        let exported = export_of(0.5, 1e8, alpha, format, dtype);
        assert_eq!(exported.is_ok(), fits, "{format:?} {dtype:?} {alpha}: {exported:?}");
        assert_eq!(written.exists(), fits);
        let _ = std::fs::remove_file(&written);
    }
}

/// The smallest number of f16 is 6e-8; bf16 goes down as far as f32.
#[test]
fn no_export_is_without_effect_because_of_its_type() {
    let folder = TempDir::new().unwrap();
    let written = folder.path().join("export.safetensors");
    let export_of = |down: f32, up: f32, dtype| {
        let file = open_of(MODULE, &folder, 2, (down, up), Some(2.0), "{}").unwrap();
        export(&file, Format::Peft, dtype, &written).map_err(|error| error.to_string())
    };
    let why = export_of(1e-8, 0.5, Dtype::F16).unwrap_err();
    assert!(why.contains("to_q.lora_A.weight: its values are so small that all of them are 0 in F16"), "{why}");
    assert!(!written.exists());
    for (up, dtype) in [(0.5, Dtype::F32), (0.5, Dtype::Bf16)] {
        export_of(1e-8, up, dtype).unwrap();
    }
    // Zeros that the file has already: a factor that was never trained.
    for up in [0.0, -0.0] {
        export_of(1e-7, up, Dtype::F16).unwrap();
    }
}

#[test]
fn an_adapter_of_a_training_is_finite() {
    let folder = TempDir::new().unwrap();
    let written = folder.path().join("adapter.safetensors");
    let filled = |shape: [usize; 2], value: f32| Tensor::<2>::full(shape, value, &Device::flex());
    let path = "single_transformer_blocks.1.attn.to_q".to_owned();
    let factors = Factors { path, down: filled([2, 4], 0.5), up: filled([4, 2], f32::MAX), scale: 1.0 };
    let why = lora::save(&written, &[factors], DType::BF16, &BTreeMap::new()).unwrap_err().to_string();
    assert!(why.contains("to_q.lora_B.weight: it holds values that are not finite in BF16"), "{why}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}
