//! Converts GGML's blocks of quantised weights to f32. Each function takes one block as stored in the file. The formats
//! are those of `ggml-common.h` (<https://github.com/ggml-org/ggml>); numbers are little-endian.
//!
//! A block of 32 values has one scale. A block of 256 (a "K" format) has a scale of scales and eight or sixteen small
//! scales.

use burn::tensor::f16;

/// Appends the values of all complete blocks in `bytes`.
pub(super) fn widen<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    values: &mut Vec<f32>,
    block: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let mut out = [0.0; VALUES];
    for bytes in bytes.as_chunks().0 {
        block(bytes, &mut out);
        values.extend_from_slice(&out);
    }
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// A scale, then two values per byte; the low halves are the first sixteen values.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half(block[0], block[1]);
    for (at, byte) in block[2..].iter().enumerate() {
        out[at] = scale * (f32::from(byte & 15) - 8.0);
        out[at + 16] = scale * (f32::from(byte >> 4) - 8.0);
    }
}

/// Like [`q4_0`], with a minimum instead of a fixed midpoint.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, least) = (half(block[0], block[1]), half(block[2], block[3]));
    for (at, byte) in block[4..].iter().enumerate() {
        out[at] = scale * f32::from(byte & 15) + least;
        out[at + 16] = scale * f32::from(byte >> 4) + least;
    }
}

/// Like [`q4_0`], with the fifth bits of all values in a 32-bit number.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half(block[0], block[1]);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (at, byte) in block[6..].iter().enumerate() {
        out[at] = scale * (f32::from(byte & 15 | fifth_bit(fifth, at)) - 16.0);
        out[at + 16] = scale * (f32::from(byte >> 4 | fifth_bit(fifth, at + 16)) - 16.0);
    }
}

/// Like [`q5_0`], with a minimum instead of a fixed midpoint.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, least) = (half(block[0], block[1]), half(block[2], block[3]));
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (at, byte) in block[8..].iter().enumerate() {
        out[at] = scale * f32::from(byte & 15 | fifth_bit(fifth, at)) + least;
        out[at + 16] = scale * f32::from(byte >> 4 | fifth_bit(fifth, at + 16)) + least;
    }
}

fn fifth_bit(bits: u32, at: usize) -> u8 {
    ((bits >> at & 1) as u8) << 4
}

/// A scale, then one signed byte per value.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half(block[0], block[1]);
    for (out, byte) in out.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(*byte as i8);
    }
}

/// Sixteen small scales and offsets of four bits each, two-bit values, scale of scales, scale of offsets. Each half
/// (128 values) has 32 bytes; every 32 values use two bits of each byte.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, least) = (half(block[80], block[81]), half(block[82], block[83]));
    for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let small = block[part];
        let (scale, least) = (scale * f32::from(small & 15), least * f32::from(small >> 4));
        for (out, byte) in out.iter_mut().zip(&block[16 + part / 8 * 32 + part % 2 * 16..]) {
            *out = scale * f32::from(byte >> (part / 2 % 4 * 2) & 3) - least;
        }
    }
}

/// The third bits of 32 values `n` in bit `n` of 32 bytes, the low two bits as in [`q2_k`], sixteen small scales of six
/// bits each, scale of scales. In the 12 bytes of small scales, the first eight hold the low four bits and the others
/// the high two.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half(block[108], block[109]);
    for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = block[96 + part % 8] >> (part / 8 * 4) & 15;
        let high = block[104 + part % 4] >> (part / 4 * 2) & 3;
        let scale = scale * (f32::from(low | high << 4) - 32.0);
        let bytes = block[32 + part / 8 * 32 + part % 2 * 16..].iter().zip(&block[part % 2 * 16..]);
        for (out, (low, third)) in out.iter_mut().zip(bytes) {
            let value = low >> (part / 2 % 4 * 2) & 3 | (third >> (part / 2) & 1) << 2;
            *out = scale * (f32::from(value) - 4.0);
        }
    }
}

/// The small scale and the small offset of part `part` of 8, six bits each, from the 12 bytes that contain all of them.
fn scale_and_least(packed: &[u8], part: usize) -> (f32, f32) {
    let (scale, least) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let rest = packed[part + 4];
        (rest & 15 | packed[part - 4] >> 6 << 4, rest >> 4 | packed[part] >> 6 << 4)
    };
    (f32::from(scale), f32::from(least))
}

/// Scale of scales, scale of offsets, small scales, then two values per byte; the low halves of 32 bytes are one part.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, least) = (half(block[0], block[1]), half(block[2], block[3]));
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (small_scale, small_least) = scale_and_least(&block[4..16], part);
        let (scale, least) = (scale * small_scale, least * small_least);
        for (out, byte) in out.iter_mut().zip(&block[16 + part / 2 * 32..]) {
            *out = scale * f32::from(byte >> (part % 2 * 4) & 15) - least;
        }
    }
}

/// Like [`q4_k`], with the fifth bits of part `n` in bit `n` of 32 bytes.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, least) = (half(block[0], block[1]), half(block[2], block[3]));
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (small_scale, small_least) = scale_and_least(&block[4..16], part);
        let (scale, least) = (scale * small_scale, least * small_least);
        let bytes = block[48 + part / 2 * 32..].iter().zip(&block[16..48]);
        for (out, (low, fifth)) in out.iter_mut().zip(bytes) {
            *out = scale * f32::from(low >> (part % 2 * 4) & 15 | (fifth >> part & 1) << 4) - least;
        }
    }
}

/// Low four bits, high two bits, sixteen signed small scales, scale of scales. Each half (128 values) has 64 bytes of
/// low bits and 32 bytes of high bits.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half(block[208], block[209]);
    for (part, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (side, quarter) = (part / 4, part % 4);
        let low = &block[64 * side + 32 * (quarter % 2)..];
        let high = &block[128 + 32 * side..];
        for (at, out) in out.iter_mut().enumerate() {
            let small_scale = f32::from(block[192 + 2 * part + at / 16] as i8);
            let value = low[at] >> (quarter / 2 * 4) & 15 | (high[at] >> (2 * quarter) & 3) << 4;
            *out = scale * small_scale * (f32::from(value) - 32.0);
        }
    }
}
