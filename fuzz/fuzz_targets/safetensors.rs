//! The reader opens every file that the gate accepts. The opposite need not hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let file = fuzz::framing::framed(data);
    let opened = fuzz::reader::weights("fuzzed.safetensors", &file);
    assert!(opened || !fuzz::gate::safetensors(&file), "the gate lets in what the reader refuses");
});
