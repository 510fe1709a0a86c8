//! The gate of the service, before anything is stored.

use formats::Sniffer;

/// Whether the gate lets a file of weights in.
pub(crate) fn safetensors(file: &[u8]) -> bool {
    let mut sniffer = Sniffer::default();
    file.chunks(7).all(|piece| sniffer.push(piece).is_ok()) && sniffer.finish(file.len() as u64).is_ok()
}
