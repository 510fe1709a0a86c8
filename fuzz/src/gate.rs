//! The service's gate, which checks files before they are stored.

use formats::Sniffer;

/// Whether the gate accepts a file of weights.
pub fn safetensors(file: &[u8]) -> bool {
    let mut sniffer = Sniffer::default();
    file.chunks(7).all(|piece| sniffer.push(piece).is_ok()) && sniffer.finish(file.len() as u64).is_ok()
}
