//! Runs the inputs that fuzzing (`just fuzz`) found useful through the parser, as the fuzzer calls it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(unreachable_pub, reason = "the fuzz targets call it from other crates")]
#[path = "../../fuzz/src/framing.rs"]
mod framing;
#[allow(unreachable_pub, reason = "the fuzz targets call it from other crates")]
#[path = "../../fuzz/src/gate.rs"]
mod gate;

#[test]
fn safetensors_headers() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/safetensors");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let taken = |file: &&std::path::PathBuf| {
        let data = std::fs::read(file).unwrap();
        gate::safetensors(&framing::framed(&data))
    };
    let count = files.iter().filter(taken).count();
    assert!(count > 3 && count < files.len(), "{count} of {} pass", files.len());
}
