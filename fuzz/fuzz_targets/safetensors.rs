//! What the gate lets in, the reader opens: nobody else's reading of a header counts.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let file = fuzz::framing::framed(data);
    let opened = fuzz::reader::weights("fuzzed.safetensors", &file);
    assert!(opened || !fuzz::gate::safetensors(&file), "the gate lets in what the reader refuses");
});
