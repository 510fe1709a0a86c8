//! Turns a fuzzer's bytes into a file.

/// A safetensors file from the fuzzer's bytes: either a header and data, preceded by the length of the header, or the
/// whole file as given.
pub fn framed(data: &[u8]) -> Vec<u8> {
    if data.first() != Some(&b'{') {
        return data.to_vec();
    }
    let header = data.iter().rposition(|byte| *byte == b'}').map_or(data.len(), |at| at + 1);
    [&(header as u64).to_le_bytes(), data].concat()
}
