//! Untrusted GGUF files: each kind of malformed file is rejected with a reason, and no bytes make the reader panic.
//! `parity` compares decoded blocks with the `gguf` package.

use std::path::PathBuf;

use diffusion::checkpoint::{Checkpoint, SingleFile};
use formats::detect::Denoiser;
use formats::{Family, Part};
use tempfile::TempDir;

const F32: u32 = 0;
const Q8_0: u32 = 8;
const UINT32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A GGUF file builder.
struct Gguf {
    version: u32,
    counts: (u64, u64),
    metadata: Vec<u8>,
    tensors: Vec<u8>,
    data: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Gguf {
    fn new() -> Self {
        Self { version: 3, counts: (0, 0), metadata: Vec::new(), tensors: Vec::new(), data: Vec::new() }
    }

    fn with(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.counts.1 += 1;
        self.metadata.extend([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn tensor_at(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        self.counts.0 += 1;
        self.tensors.extend([text(name), (shape.len() as u32).to_le_bytes().to_vec()].concat());
        self.tensors.extend(shape.iter().rev().flat_map(|side| side.to_le_bytes()));
        self.tensors.extend([&kind.to_le_bytes()[..], &offset.to_le_bytes()].concat());
        self
    }

    fn tensor(mut self, name: &str, shape: &[u64], kind: u32, data: &[u8]) -> Self {
        let at = self.data.len().next_multiple_of(32);
        self.data.resize(at, 0);
        self.data.extend(data);
        self.tensor_at(name, shape, kind, at as u64)
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.counts.0.to_le_bytes(), self.counts.1.to_le_bytes()].concat();
        let mut all = [b"GGUF", &self.version.to_le_bytes()[..], &counts, &self.metadata, &self.tensors].concat();
        all.resize(all.len().next_multiple_of(32), 0);
        all.extend(&self.data);
        all
    }
}

fn written(folder: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("case.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn good() -> Gguf {
    let list = [&STRING.to_le_bytes()[..], &2u64.to_le_bytes(), &text("a"), &text("bc")].concat();
    Gguf::new()
        .with("general.architecture", STRING, &text("flux"))
        .with("general.alignment", UINT32, &32u32.to_le_bytes())
        .with("list", ARRAY, &list)
        .tensor("a", &[2, 2], F32, &[0; 16])
        .tensor("b", &[2, 32], Q8_0, &[0; 68])
}

#[test]
fn every_kind_of_malformed_file_is_refused_with_a_reason() {
    let lists = |depth: u64| {
        let outer = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        [outer.repeat(depth as usize), [&UINT32.to_le_bytes()[..], &0u64.to_le_bytes()].concat()].concat()
    };
    let many = |kind: u32| [&kind.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    let alignment = |value: u32| Gguf::new().with("general.alignment", UINT32, &value.to_le_bytes());
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGUF".to_vec(), "no safetensors"),
        (b"GGUF\x03\0\0\0".to_vec(), "cut off"),
        (Gguf { version: 1, ..good() }.bytes(), "version 1"),
        (Gguf { version: 3 << 24, ..good() }.bytes(), "big-endian"),
        (Gguf { counts: (u64::MAX, 0), ..good() }.bytes(), "more than 20000"),
        (Gguf { counts: (0, u64::MAX), ..good() }.bytes(), "more than 4096"),
        (Gguf { counts: (3, 3), ..good() }.bytes(), "broken"),
        (Gguf::new().with("a", STRING, &u64::MAX.to_le_bytes()).bytes(), "cut off"),
        (Gguf::new().with("a", ARRAY, &many(UINT32)).bytes(), "longer than any"),
        (Gguf::new().with("a", ARRAY, &many(STRING)).bytes(), "cut off"),
        (Gguf::new().with("a", ARRAY, &many(77)).bytes(), "no type of metadata 77"),
        (Gguf::new().with("a", ARRAY, &lists(5)).bytes(), "deep in each other"),
        (Gguf::new().with("a", 77, &[]).bytes(), "no type of metadata 77"),
        (alignment(0).bytes(), "multiples of 0"),
        (alignment(3).bytes(), "multiples of 3"),
        (alignment(1 << 30).bytes(), "multiples of"),
        (Gguf::new().tensor("", &[2], F32, &[0; 8]).bytes(), "name"),
        (Gguf::new().tensor(&"n".repeat(257), &[2], F32, &[0; 8]).bytes(), "name"),
        (Gguf::new().tensor("a", &[1; 6], F32, &[0; 4]).bytes(), "6 dimensions"),
        (Gguf::new().tensor("a", &[1 << 40, 1 << 40], F32, &[0; 4]).bytes(), "larger than any memory"),
        (Gguf::new().tensor("a", &[1 << 62], F32, &[0; 4]).bytes(), "no whole blocks"),
        (Gguf::new().tensor("a", &[4, 33], Q8_0, &[0; 200]).bytes(), "no whole blocks"),
        (Gguf::new().tensor("a", &[], Q8_0, &[0; 200]).bytes(), "no whole blocks"),
        (Gguf::new().tensor("a", &[32], 23, &[0; 200]).bytes(), "a is quantised as IQ4_XS, which is not read; F32"),
        (Gguf::new().tensor("a", &[32], 16, &[0; 200]).bytes(), "quantised as IQ2_XXS"),
        (Gguf::new().tensor("a", &[32], 99, &[0; 200]).bytes(), "quantised as type 99"),
        (Gguf::new().tensor_at("a", &[2], F32, 4).bytes(), "no multiple of 32"),
        (Gguf::new().tensor_at("a", &[2], F32, 32).bytes(), "cut off"),
        (Gguf::new().tensor_at("a", &[2], F32, u64::MAX - 31).bytes(), "cut off"),
        (Gguf::new().tensor("a", &[16], F32, &[0; 64]).tensor_at("b", &[2], F32, 32).bytes(), "overlaps"),
        (good().tensor("a", &[2], F32, &[0; 8]).bytes(), "twice"),
        (good().bytes()[..good().bytes().len() - 1].to_vec(), "cut off"),
    ];
    let folder = TempDir::new().unwrap();
    for (bytes, reason) in cases {
        let error = Checkpoint::open(&written(&folder, &bytes)).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    let file = Checkpoint::open(&written(&folder, &good().bytes())).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(file.shape("b").unwrap(), [2, 32]);
    assert_eq!(file.metadata()["general.architecture"], "flux");
}

/// ComfyUI-GGUF reshapes tensors without whole blocks into rows of blocks, and notes the original shape.
#[test]
fn a_shape_that_blocks_had_changed_comes_back() {
    let shape = |sides: &[i32]| {
        let sides: Vec<u8> = sides.iter().flat_map(|side| side.to_le_bytes()).collect();
        [&5u32.to_le_bytes()[..], &(sides.len() as u64 / 4).to_le_bytes(), &sides].concat()
    };
    let file = |sides: &[i32]| {
        let rows = quantised((0..64).map(|value| value as i8));
        Gguf::new().with("comfy.gguf.orig_shape.a", ARRAY, &shape(sides)).tensor("a", &[2, 32], Q8_0, &rows)
    };
    let folder = TempDir::new().unwrap();
    let opened = Checkpoint::open(&written(&folder, &file(&[4, 4, 2, 2]).bytes())).unwrap();
    assert_eq!(opened.shape("a").unwrap(), [4, 4, 2, 2]);
    assert_eq!(opened.read_f32("a").unwrap(), (0..64).map(|value| value as f32).collect::<Vec<_>>());
    let error = Checkpoint::open(&written(&folder, &file(&[4, 4, 2, 3]).bytes())).unwrap_err().to_string();
    assert!(error.contains("a is said to have had the shape [4, 4, 2, 3], and has [2, 32]"), "{error}");
    // An invalid note is ignored.
    for odd in [&[-4, -16][..], &[1; 6]] {
        assert_eq!(Checkpoint::open(&written(&folder, &file(odd).bytes())).unwrap().shape("a").unwrap(), [2, 32]);
    }
}

#[test]
fn no_cut_and_no_changed_byte_makes_it_panic() {
    let folder = TempDir::new().unwrap();
    let whole = good().bytes();
    for end in 0..whole.len() {
        assert!(Checkpoint::open(&written(&folder, &whole[..end])).is_err(), "cut at {end}");
    }
    for at in 4..whole.len() - good().data.len() {
        for value in [1, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            if let Ok(file) = Checkpoint::open(&written(&folder, &changed)) {
                for name in file.names() {
                    let _ = file.read_f32(name);
                }
            }
        }
    }
}

/// One scale for all values, and one byte per value.
fn quantised(values: impl Iterator<Item = i8>) -> Vec<u8> {
    let values: Vec<u8> = values.map(|value| value as u8).collect();
    values.chunks(32).flat_map(|block| [&[0, 0x3c][..], block].concat()).collect()
}

/// A FLUX transformer of width 32 with one block of each kind, judging by its config.
fn flux() -> Gguf {
    let zeros = |count: usize| vec![0; 4 * count];
    let rows = |count: usize| quantised((0..count).flat_map(|row| std::iter::repeat_n(row as i8, 32)));
    Gguf::new()
        .tensor("img_in.weight", &[32, 32], Q8_0, &rows(32))
        .tensor("txt_in.weight", &[32, 32], Q8_0, &rows(32))
        .tensor("vector_in.in_layer.weight", &[32, 32], Q8_0, &rows(32))
        .tensor("final_layer.linear.weight", &[32, 32], Q8_0, &rows(32))
        .tensor("final_layer.adaLN_modulation.1.weight", &[64, 32], Q8_0, &rows(64))
        .tensor("double_blocks.0.img_attn.norm.query_norm.scale", &[16], F32, &zeros(16))
        .tensor("double_blocks.0.img_attn.qkv.weight", &[96, 32], Q8_0, &rows(96))
}

#[test]
fn fused_layers_are_cut_between_blocks() {
    let folder = TempDir::new().unwrap();
    let file = SingleFile::open(&written(&folder, &flux().bytes())).unwrap();
    assert_eq!(file.denoiser(), Some(Denoiser { family: Family::Flux, guidance_embedded: false }));
    let (config, tensors) = file.part(Part::Transformer).unwrap();
    assert_eq!(config["num_attention_heads"], 2);
    assert_eq!(config["axes_dims_rope"], serde_json::json!([4, 6, 6]));
    let first_of_rows = |name: &str| tensors.read_f32(name).unwrap().into_iter().step_by(32).collect::<Vec<_>>();
    let rows = |range: std::ops::Range<usize>| range.map(|row| row as f32).collect::<Vec<_>>();
    assert_eq!(first_of_rows("transformer_blocks.0.attn.to_q.weight"), rows(0..32));
    assert_eq!(first_of_rows("transformer_blocks.0.attn.to_v.weight"), rows(64..96));
    assert_eq!(first_of_rows("norm_out.linear.weight"), [rows(32..64), rows(0..32)].concat());
    assert_eq!(tensors.shape("transformer_blocks.0.attn.to_v.weight").unwrap(), [32, 32]);
}

#[test]
fn a_fused_layer_that_is_too_small_is_named() {
    let folder = TempDir::new().unwrap();
    let mut small = flux();
    small.tensors.clear();
    small.counts.0 = 0;
    small.data.clear();
    for (name, shape) in [
        ("img_in.weight", [32, 32]),
        ("txt_in.weight", [32, 32]),
        ("vector_in.in_layer.weight", [32, 32]),
        ("final_layer.linear.weight", [32, 32]),
        ("double_blocks.0.img_attn.norm.query_norm.scale", [16, 1]),
        ("double_blocks.0.img_attn.qkv.weight", [32, 32]),
    ] {
        small = small.tensor(name, &shape, F32, &vec![0; 4 * (shape[0] * shape[1]) as usize]);
    }
    let file = SingleFile::open(&written(&folder, &small.bytes())).unwrap();
    let error = file.part(Part::Transformer).unwrap_err().to_string();
    assert!(error.contains("double_blocks.0.img_attn.qkv.weight [32, 32] has no rows 32 to 64"), "{error}");
}
