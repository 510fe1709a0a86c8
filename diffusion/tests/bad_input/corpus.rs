//! The fuzzing corpus (`just fuzz`), run through the functions that the fuzzer calls.

#[allow(unreachable_pub, reason = "the fuzz targets call it from other crates")]
#[path = "../../../fuzz/src/framing.rs"]
mod framing;
#[allow(unreachable_pub, reason = "the fuzz targets call it from other crates")]
#[path = "../../../fuzz/src/reader.rs"]
mod reader;

use std::path::Path;

/// The files of a target.
fn each(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 5, "{target} has {} files", files.len());
    for file in files {
        run(&std::fs::read(file).unwrap());
    }
}

#[test]
fn safetensors_headers() {
    each("safetensors", |data| _ = reader::weights("corpus.safetensors", &framing::framed(data)));
}

#[test]
fn gguf_headers() {
    each("gguf", |data| _ = reader::weights("corpus.gguf", data));
}

#[test]
fn lora_keys() {
    each("lora_keys", reader::adapter);
}

#[test]
fn prompts() {
    each("prompt", reader::prompt);
}
