//! Between the bytes of a fuzzer and a file.

/// A safetensors file of what the fuzzer gives: a header and data, for which the length is put before; or all of a file.
pub(super) fn framed(data: &[u8]) -> Vec<u8> {
    if data.first() != Some(&b'{') {
        return data.to_vec();
    }
    let header = data.iter().rposition(|byte| *byte == b'}').map_or(data.len(), |at| at + 1);
    [&(header as u64).to_le_bytes(), data].concat()
}
