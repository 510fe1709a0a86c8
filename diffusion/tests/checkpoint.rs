//! Untrusted checkpoints: each kind of malformed file is rejected with a reason, and a valid one is loaded strictly
//! or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity, reason = "a test fails by panicking")]

#[path = "checkpoint/gguf.rs"]
mod gguf;
#[path = "checkpoint/reading.rs"]
mod reading;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{Checkpoint, load_strict, save};
use diffusion::layers::Linear;
use diffusion::{Error, LoraFile};
use tempfile::TempDir;

/// A file with any header and `data` bytes.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

fn written(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// `{"a": …}` with the given fields of its one tensor.
fn tensor(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
}

#[test]
fn every_kind_of_malformed_file_is_refused_with_a_reason() {
    let good = tensor("\"F32\"", "[2]", "[0,8]");
    let long_name = format!(r#"{{"{}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#, "n".repeat(257));
    let two = |second: &str| format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},{second}}}"#);
    let many: Vec<String> =
        (0..20_001).map(|at| format!(r#""t{at}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let cut_header = safetensors(&good, 8)[..20].to_vec();
    let mut huge_header = safetensors(&good, 8);
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut zip = safetensors(&good, 8);
    zip[..4].copy_from_slice(b"PK\x03\x04");
    let mut pickle = safetensors(&good, 8);
    pickle[..2].copy_from_slice(&[0x80, 2]);

    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "no safetensors"),
        ("seven bytes", vec![0; 7], "no safetensors"),
        ("a zip archive", zip, "zip"),
        ("a pickle", pickle, "pickle"),
        ("a GGUF file", b"GGUF\x03\0\0\0 and more".to_vec(), "GGUF"),
        ("an HDF5 file", b"\x89HDF\r\n\x1a\n and more".to_vec(), "HDF5"),
        ("a header longer than any", huge_header, "not a safetensors file"),
        ("cut off in the header", cut_header, "ends within its header"),
        ("an empty header", safetensors("", 0), "no JSON object"),
        ("a header of spaces", safetensors("   {}", 0), "no JSON object"),
        ("a list", safetensors("[]", 0), "no JSON object"),
        ("half an object", safetensors("{\"a\":", 0), "header is broken"),
        ("no UTF-8", [&3u64.to_le_bytes()[..], b"{\xff}"].concat(), "header is broken"),
        ("a tensor that is a number", safetensors(r#"{"a":1}"#, 0), "header is broken"),
        ("no dtype", safetensors(r#"{"a":{"shape":[2],"data_offsets":[0,8]}}"#, 8), "missing field `dtype`"),
        ("no offsets", safetensors(r#"{"a":{"dtype":"F32","shape":[2]}}"#, 8), "missing field `data_offsets`"),
        (
            "a field too much",
            safetensors(&two(r#""b":{"dtype":"F32","shape":[0],"data_offsets":[8,8],"x":1}"#), 8),
            "unknown field",
        ),
        ("an unknown dtype", safetensors(&tensor("\"F31\"", "[2]", "[0,8]"), 8), "unknown variant"),
        ("a negative size", safetensors(&tensor("\"F32\"", "[-2]", "[0,8]"), 8), "header is broken"),
        ("half a size", safetensors(&tensor("\"F32\"", "[2.5]", "[0,8]"), 8), "header is broken"),
        ("six dimensions", safetensors(&tensor("\"F32\"", "[1,1,1,1,1,2]", "[0,8]"), 8), "dimensions"),
        (
            "sizes that overflow",
            safetensors(&tensor("\"F32\"", "[4294967296,4294967296,16]", "[0,8]"), 8),
            "larger than any memory",
        ),
        ("offsets the wrong way round", safetensors(&tensor("\"F32\"", "[2]", "[8,0]"), 8), "claims the bytes"),
        ("fewer bytes than values", safetensors(&tensor("\"F32\"", "[2]", "[0,4]"), 8), "claims the bytes"),
        ("more bytes than values", safetensors(&tensor("\"F16\"", "[2]", "[0,8]"), 8), "claims the bytes"),
        (
            "offsets past any file",
            safetensors(&tensor("\"U8\"", "[8]", "[18446744073709551607,18446744073709551615]"), 8),
            "cut off",
        ),
        ("cut off in the data", safetensors(&good, 7), "cut off"),
        ("bytes after the last tensor", safetensors(&good, 9), "follow the last tensor"),
        ("a gap at the start", safetensors(&tensor("\"F32\"", "[2]", "[4,12]"), 12), "gap"),
        (
            "a gap in the middle",
            safetensors(&two(r#""b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}"#), 16),
            "gap",
        ),
        ("an overlap", safetensors(&two(r#""b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#), 12), "overlaps"),
        (
            "the same name twice",
            safetensors(&two(r#""a":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}"#), 8),
            "twice",
        ),
        ("metadata twice", safetensors(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "twice"),
        ("metadata that is no text", safetensors(r#"{"__metadata__":{"a":1}}"#, 0), "header is broken"),
        (
            "a name without letters",
            safetensors(r#"{"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8),
            "name has 0 bytes",
        ),
        ("a name of 257 bytes", safetensors(&long_name, 8), "name has 257 bytes"),
        ("20 001 tensors", safetensors(&format!("{{{}}}", many.join(",")), 0), "more than 20000"),
    ];
    assert!(cases.len() >= 20);
    let folder = TempDir::new().unwrap();
    for (name, bytes, reason) in &cases {
        let path = written(&folder, "case.safetensors", bytes);
        for error in [Checkpoint::open(&path).unwrap_err(), LoraFile::open(&path).unwrap_err()] {
            assert!(matches!(&error, Error::Malformed { .. }), "{name}: {error}");
            assert!(error.to_string().contains(reason), "{name}: {error}");
        }
    }
    assert!(Checkpoint::open(&written(&folder, "good.safetensors", &safetensors(&good, 8))).is_ok());
    assert!(matches!(Checkpoint::open(&folder.path().join("absent")), Err(Error::File { .. })));
}

#[test]
fn dtypes_that_are_not_floats_are_refused_when_they_are_read() {
    let folder = TempDir::new().unwrap();
    for (dtype, bytes) in [("I64", 16), ("U8", 2), ("BOOL", 2)] {
        let header = tensor(&format!("\"{dtype}\""), "[2]", &format!("[0,{bytes}]"));
        let file = Checkpoint::open(&written(&folder, "other.safetensors", &safetensors(&header, bytes))).unwrap();
        assert!(file.read_f32("a").unwrap_err().to_string().contains(dtype));
    }
}

#[test]
fn halves_are_read_as_what_they_mean() {
    let folder = TempDir::new().unwrap();
    let file = |dtype: &str, values: [u16; 3]| {
        let mut bytes = safetensors(&tensor(&format!("\"{dtype}\""), "[3]", "[0,6]"), 0);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        Checkpoint::open(&written(&folder, "halves.safetensors", &bytes)).unwrap().read_f32("a").unwrap()
    };
    assert_eq!(file("BF16", [0x3f80, 0xc040, 0x0000]), [1.0, -3.0, 0.0]);
    assert_eq!(file("F16", [0x3c00, 0xc200, 0x0001]), [1.0, -3.0, 2f32.powi(-24)]);
}

#[test]
fn eight_bits_are_read_as_what_they_mean() {
    let folder = TempDir::new().unwrap();
    let file = |dtype: &str, values: [u8; 5]| {
        let mut bytes = safetensors(&tensor(&format!("\"{dtype}\""), "[5]", "[0,5]"), 0);
        bytes.extend(values);
        Checkpoint::open(&written(&folder, "eight.safetensors", &bytes)).unwrap().read_f32("a").unwrap()
    };
    // 1, −3, the largest, the smallest, 2⁻⁶·(1 + 7/8)
    assert_eq!(file("F8_E4M3", [0x38, 0xc4, 0x7e, 0x01, 0x0f]), [1.0, -3.0, 448.0, 2f32.powi(-9), 0.029_296_875]);
    assert!(file("F8_E4M3", [0x7f, 0xff, 0, 0, 0])[..2].iter().all(|value| value.is_nan()));
    assert_eq!(file("F8_E5M2", [0x3c, 0xc2, 0x7b, 0x01, 0x7c]), [1.0, -3.0, 57344.0, 2f32.powi(-16), f32::INFINITY]);
}

#[test]
fn a_header_whose_length_looks_like_a_pickle_is_none() {
    let folder = TempDir::new().unwrap();
    let good = tensor("\"F32\"", "[2]", "[0,8]");
    let padded = format!("{good}{}", " ".repeat(0x280 - good.len()));
    let bytes = safetensors(&padded, 8);
    assert_eq!(bytes[..2], [0x80, 2]);
    assert!(Checkpoint::open(&written(&folder, "good.safetensors", &bytes)).is_ok());
}

#[derive(Module, Debug)]
struct Pair {
    first: Linear,
    second: Linear,
}

fn pair() -> Pair {
    let device = Device::flex();
    Pair { first: Linear::new(3, 2, &device), second: Linear::without_bias(2, 4, &device) }
}

fn saved(folder: &TempDir, network: &impl Module, dtype: DType) -> PathBuf {
    let path = folder.path().join("model.safetensors");
    save(network, &path, dtype, &BTreeMap::from([("made by".to_owned(), "a test".to_owned())])).unwrap();
    path
}

#[test]
fn a_pointwise_convolution_is_a_matrix_and_no_other_is() {
    let folder = TempDir::new().unwrap();
    let load = |shape: &str, values: usize| {
        let header = format!(r#"{{"weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{}]}}}}"#, 4 * values);
        let file = Checkpoint::open(&written(&folder, "layer.safetensors", &safetensors(&header, 4 * values))).unwrap();
        load_strict(Linear::without_bias(2, 4, &Device::flex()), &file, DType::F32)
    };
    assert_eq!(load("[4, 2, 1, 1]", 8).unwrap().weight.dims(), [4, 2]);
    for (shape, values) in [("[4, 2, 3, 3]", 72), ("[2, 4, 1, 1]", 8), ("[4, 2, 1]", 8), ("[8, 1, 1]", 8)] {
        let error = load(shape, values).unwrap_err().to_string();
        assert!(error.contains("1 of the wrong shape"), "{shape}: {error}");
    }
}

#[test]
fn a_network_comes_back_as_it_was_saved() {
    let folder = TempDir::new().unwrap();
    let mut network = pair();
    let values: Vec<f32> = (0..6).map(|value| value as f32 / 4.0).collect();
    network.first.weight = Param::from_data(TensorData::new(values.clone(), [2, 3]), &Device::flex()).into();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let file = Checkpoint::open(&saved(&folder, &network, dtype)).unwrap();
        assert_eq!(file.metadata()["made by"], "a test");
        let loaded = load_strict(pair(), &file, DType::F32).unwrap();
        assert_eq!(loaded.first.weight.value(DType::F32).into_data().try_to_vec::<f32>().unwrap(), values);
        let kept = load_strict(pair(), &file, dtype).unwrap();
        assert_eq!(kept.first.weight.value(DType::F32).dtype(), dtype);
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no scratch file stays: {left:?}");
}

fn reason(folder: &TempDir, network: &impl Module) -> String {
    let file = Checkpoint::open(&saved(folder, network, DType::F32)).unwrap();
    match load_strict(pair(), &file, DType::F32) {
        Err(Error::Weights { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = TempDir::new().unwrap();
    let device = Device::flex();
    let bias = Linear::new(2, 4, &device);
    assert_eq!(reason(&folder, &Pair { second: bias, ..pair() }), "1 unused (second.bias)");
    let bare = Linear::without_bias(3, 2, &device);
    assert_eq!(reason(&folder, &Pair { first: bare, ..pair() }), "1 missing (first.bias)");
    let wide = Linear::without_bias(2, 5, &device);
    assert_eq!(
        reason(&folder, &Pair { second: wide, ..pair() }),
        "1 of the wrong shape (second.weight: [5, 2] instead of [4, 2])"
    );
}

/// The pair as an F32 file with one changed weight.
fn pair_with(folder: &TempDir, name: &str, dtype: &str, shape: &str, value: f32) -> String {
    let sizes = BTreeMap::from([("first.bias", "[2]"), ("first.weight", "[2,3]"), ("second.weight", "[4,2]")]);
    let (mut at, mut entries, mut data) = (0, Vec::new(), Vec::new());
    for (key, usual) in sizes {
        let (dtype, shape, value) = if key == name { (dtype, shape, value) } else { ("F32", usual, 1.0) };
        let count: usize =
            shape.trim_matches(['[', ']']).split(',').filter_map(|side| side.parse::<usize>().ok()).product();
        let length = count * if dtype == "I64" { 8 } else { 4 };
        entries.push(format!(r#""{key}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{at},{}]}}"#, at + length));
        data.extend(value.to_le_bytes().repeat(length / 4));
        at += length;
    }
    let bytes = [safetensors(&format!("{{{}}}", entries.join(",")), 0), data].concat();
    let file = Checkpoint::open(&written(folder, "pair.safetensors", &bytes)).unwrap();
    load_strict(pair(), &file, DType::F32).map_or_else(|error| error.to_string(), |_| "loaded".to_owned())
}

#[test]
fn weights_that_no_picture_comes_out_of_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let refused = |dtype: &str, shape: &str, value: f32, reason: &str| {
        let error = pair_with(&folder, "first.weight", dtype, shape, value);
        assert!(error.contains(reason), "{error}");
    };
    refused("F32", "[2,3]", 2.0, "loaded");
    refused("F32", "[2,3]", f32::NAN, "first.weight has values that are NaN or infinite");
    refused("F32", "[2,3]", f32::NEG_INFINITY, "first.weight has values that are NaN or infinite");
    refused("I64", "[2,3]", 0.0, "first.weight is I64");
    refused("F32", "[3,2]", 0.0, "first.weight: [3, 2] instead of [2, 3]");
    refused("F32", "[]", 0.0, "first.weight: [] instead of [2, 3]");
    refused("F32", "[0,3]", 0.0, "first.weight: [0, 3] instead of [2, 3]");
}

#[test]
fn a_value_that_a_smaller_dtype_cannot_hold_is_refused_too() {
    let folder = TempDir::new().unwrap();
    let mut network = pair();
    network.first.weight = Param::from_data(TensorData::new(vec![1e6f32; 6], [2, 3]), &Device::flex()).into();
    let file = Checkpoint::open(&saved(&folder, &network, DType::F32)).unwrap();
    assert!(load_strict(pair(), &file, DType::BF16).is_ok());
    let error = load_strict(pair(), &file, DType::F16).unwrap_err().to_string();
    assert!(error.contains("first.weight has values that are NaN or infinite in F16"), "{error}");
}

#[test]
fn a_folder_with_the_half_precision_variant_alone_is_read() {
    let a = tensor("\"F32\"", "[2]", "[0,8]");
    let b = a.replace("\"a\"", "\"b\"");
    let names = |files: &[(&str, &[u8])]| {
        let folder = TempDir::new().unwrap();
        for (name, bytes) in files {
            written(&folder, name, bytes);
        }
        let opened = Checkpoint::open(folder.path()).map(|file| file.names().collect::<Vec<_>>().join(" "));
        opened.unwrap_or_else(|error| error.to_string())
    };
    let (file_a, file_b) = (safetensors(&a, 8), safetensors(&b, 8));
    let (unet, text) = ("diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors");
    assert_eq!(names(&[(unet, &file_a)]), "a");
    assert_eq!(names(&[(text, &file_a)]), "a");
    assert_eq!(names(&[(unet, &file_a), ("diffusion_pytorch_model.safetensors", &file_b)]), "b");
    let shards = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"];
    let index = format!(r#"{{"weight_map":{{"a":"{}","b":"{}"}}}}"#, shards[0], shards[1]);
    let index = ("model.safetensors.index.fp16.json", index.as_bytes());
    assert_eq!(names(&[index, (shards[0], &file_a), (shards[1], &file_b)]), "a b");
    assert!(names(&[index, (shards[0], &file_a), (shards[1], &file_b[..file_b.len() - 1])]).contains("cut off"));
    assert!(names(&[("pytorch_model.bin", b"\x80\x02")]).contains("the only weights are a pickle, pytorch_model.bin"));
}

#[test]
fn the_attention_names_of_old_folders_are_read_as_todays() {
    let old = r#"{"mid.attentions.0.proj_attn.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "mid.attentions.0.query.bias":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},
        "other.query.bias":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
    let folder = TempDir::new().unwrap();
    let path = written(&folder, "model.safetensors", &safetensors(old, 12));
    let names = |path: &Path| Checkpoint::open(path).unwrap().names().collect::<Vec<_>>().join(" ");
    assert_eq!(names(folder.path()), "mid.attentions.0.to_out.0.weight mid.attentions.0.to_q.bias other.query.bias");
    assert!(names(&path).starts_with("mid.attentions.0.proj_attn.weight"));
}

/// `model.safetensors.index.json` and its shards in a folder.
fn sharded(map: &str, shards: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, header) in shards {
        written(&folder, name, &safetensors(header, 8));
    }
    written(&folder, "model.safetensors.index.json", format!(r#"{{"weight_map":{map}}}"#).as_bytes());
    folder
}

#[test]
fn shards_are_one_checkpoint_and_stay_in_their_folder() {
    let a = tensor("\"F32\"", "[2]", "[0,8]");
    let b = a.replace("\"a\"", "\"b\"");
    let open =
        |folder: &TempDir| Checkpoint::open(folder.path()).map(|file| file.names().collect::<Vec<_>>().join(" "));
    let names =
        open(&sharded(r#"{"a":"1.safetensors","b":"2.safetensors"}"#, &[("1.safetensors", &a), ("2.safetensors", &b)]));
    assert_eq!(names.unwrap(), "a b");

    let refused = |map: &str, shards: &[(&str, &str)], wanted: &str| {
        let error = open(&sharded(map, shards)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    refused(r#"{"a":"../1.safetensors"}"#, &[], "not in a file beside the index");
    refused(r#"{"a":"/etc/passwd"}"#, &[], "not in a file beside the index");
    refused(r#"{"a":".."}"#, &[], "not in a file beside the index");
    let only = "model-00001-of-00001.safetensors";
    refused(&format!(r#"{{"c":"{only}"}}"#), &[(only, &a)], &format!("c is not in {only}"));
    refused(
        r#"{"a":"1.safetensors","b":"2.safetensors"}"#,
        &[("1.safetensors", &a), ("2.safetensors", &a)],
        "another shard",
    );
    refused("3", &[], "no `weight_map`");
    assert!(matches!(open(&sharded(r#"{"a":"gone.safetensors"}"#, &[])), Err(Error::File { .. })));
    let empty = TempDir::new().unwrap();
    assert!(open(&empty).unwrap_err().to_string().contains("there are no weights"));
}

#[test]
fn adapters_that_cannot_be_used_are_refused_with_a_reason() {
    let folder = TempDir::new().unwrap();
    let open = |tensors: &[(&str, &[usize], f32)]| -> Result<LoraFile, String> {
        let mut at = 0;
        let entries: Vec<String> = tensors
            .iter()
            .map(|(name, shape, _)| {
                let from = at;
                at += 4 * shape.iter().product::<usize>();
                format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{from},{at}]}}"#)
            })
            .collect();
        let mut bytes = safetensors(&format!("{{{}}}", entries.join(",")), 0);
        for (_, shape, value) in tensors {
            bytes.extend(value.to_le_bytes().repeat(shape.iter().product()));
        }
        LoraFile::open(&written(&folder, "adapter.safetensors", &bytes)).map_err(|error| error.to_string())
    };
    let down = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight";
    let up = "transformer.transformer_blocks.0.attn.to_q.lora_B.weight";
    let alpha = "transformer.transformer_blocks.0.attn.to_q.alpha";
    assert!(open(&[(down, &[2, 4], 1.0), (up, &[4, 2], 1.0), (alpha, &[], 1.0)]).is_ok());

    let sd3 = "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight";
    let cases: [(&[(&str, &[usize], f32)], &str); 10] = [
        (&[(down, &[2, 4], f32::NAN), (up, &[4, 2], 1.0)], "not finite"),
        (&[(down, &[2, 4], 1.0), (up, &[4, 2], f32::INFINITY)], "not finite"),
        (&[(down, &[513, 4], 1.0), (up, &[4, 513], 1.0)], "1 to 512"),
        (&[(down, &[0, 4], 1.0), (up, &[4, 0], 1.0)], "1 to 512"),
        (&[(down, &[2, 4], 1.0), (up, &[4, 3], 1.0)], "do not belong together"),
        (&[(down, &[2, 4, 1], 1.0), (up, &[4, 2], 1.0)], "do not belong together"),
        (&[(down, &[2, 4], 1.0)], "missing"),
        (&[(down, &[2, 4], 1.0), (up, &[4, 2], 1.0), (alpha, &[], f32::NAN)], "alpha"),
        (&[(sd3, &[2, 4], 1.0)], "Stable Diffusion 3"),
        (&[("lora_unet_double_blocks_0_img_attn_qkv.oft_blocks", &[2, 4], 1.0)], "OFT"),
    ];
    for (tensors, reason) in cases {
        let error = open(tensors).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn an_adapter_of_another_size_is_refused_and_changes_nothing() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    // made for flux-tiny, which is 48 wide
    let adapter = LoraFile::open(&goldens.join("lora/peft.safetensors")).unwrap();
    let mut pipeline = diffusion::FluxPipeline::load(&goldens.join("flux-tiny-cfg"), &Device::flex()).unwrap();
    let error = pipeline.attach(&[(&adapter, 1.0)]).unwrap_err();
    assert!(error.to_string().contains("48×48"), "{error}");
    assert_eq!(pipeline.attach(&[]).unwrap(), []);
}
