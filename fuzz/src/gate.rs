//! The service's gate, which checks files before they are stored.

use formats::{Family, Part, Sniffer, single_file};

/// Whether the gate accepts a file of weights. If it does, it is judged as each part of a single-file model.
pub fn safetensors(file: &[u8]) -> bool {
    let mut sniffer = Sniffer::default();
    if file.chunks(7).any(|piece| sniffer.push(piece).is_err()) {
        return false;
    }
    let Ok(header) = sniffer.finish(file.len() as u64) else { return false };
    for (family, part) in Family::ALL.iter().flat_map(|family| Part::NETWORKS.map(|part| (*family, part))) {
        let _ = single_file::check(&header, family, part);
    }
    true
}
