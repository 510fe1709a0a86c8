//! The tiny checkpoints that journeys run: real layers, random weights, a few hundred kilobytes. The generator of the
//! reference values (`tests/reference`) made them, so they are pipelines in diffusers layout in every respect but size.

use std::fs;
use std::path::{Path, PathBuf};

/// Folder of the tiny FLUX pipeline in this repository.
pub fn tiny_folder() -> PathBuf {
    golden("flux-tiny")
}

/// A file or folder among the reference values.
pub fn golden(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../diffusion/tests/goldens").join(name);
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Its files as `POST /v1/models` takes them: relative path and bytes, without the reference values in the same folder.
pub fn tiny_files() -> Vec<(String, Vec<u8>)> {
    pipeline_files("flux-tiny")
}

/// The files of a tiny pipeline.
pub fn pipeline_files(name: &str) -> Vec<(String, Vec<u8>)> {
    let root = golden(name);
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort();
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("model folder") {
        let path = entry.expect("model folder").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if folder != root || path.file_name().is_some_and(|name| name == "model_index.json") {
            let name = path.strip_prefix(root).expect("inside").to_str().expect("UTF-8").to_owned();
            found.push((name, fs::read(&path).expect("model file")));
        }
    }
}

/// A tiny Stable Diffusion 2 in one file as ldm writes it, with arbitrary values: names and shapes come from the
/// reference values. The vocabulary is CLIP's own.
pub fn single_file() -> Vec<u8> {
    let list = fs::read_to_string(golden("keys/tiny_sd2.single.txt")).expect("a list");
    let (mut entries, mut at) = (serde_json::Map::new(), 0);
    for line in list.lines() {
        let mut words = line.split(' ');
        let (name, shape) = (words.next().expect("a name"), words.next().expect("a shape"));
        let mut shape: Vec<usize> = shape.split('x').filter_map(|side| side.parse().ok()).collect();
        if name.ends_with("token_embedding.weight") {
            shape[0] = 49_408;
        }
        let end = at + 4 * shape.iter().product::<usize>();
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]});
        entries.insert(name.to_owned(), entry);
        at = end;
    }
    let header = serde_json::Value::Object(entries).to_string();
    let values = (0..at as u32 / 4)
        .flat_map(|at| ((at.wrapping_mul(0x9E37_79B9) >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes());
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat().into_iter().chain(values).collect()
}

/// Tensor names and values (F32, F16 or BF16 as f32) of a safetensors file, and its metadata.
pub struct Tensors {
    pub metadata: serde_json::Value,
    pub by_name: std::collections::BTreeMap<String, Vec<f32>>,
}

/// Reads a safetensors file: u64 length, JSON header, bytes.
pub fn tensors(file: &[u8]) -> Tensors {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).expect("a JSON header");
    let data = &file[8 + length..];
    let mut by_name = std::collections::BTreeMap::new();
    for (name, entry) in header.as_object().expect("an object") {
        if name == "__metadata__" {
            continue;
        }
        let offset = |index: usize| entry["data_offsets"][index].as_u64().expect("an offset") as usize;
        let bytes = &data[offset(0)..offset(1)];
        let values = match entry["dtype"].as_str() {
            Some("F32") => {
                bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect()
            }
            Some("BF16") => bytes
                .chunks_exact(2)
                .map(|two| f32::from_bits(u32::from(u16::from_le_bytes([two[0], two[1]])) << 16))
                .collect(),
            other => panic!("{name} has an unexpected dtype {other:?}"),
        };
        by_name.insert(name.clone(), values);
    }
    Tensors { metadata: header["__metadata__"].clone(), by_name }
}
