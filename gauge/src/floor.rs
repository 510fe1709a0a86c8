//! What the mathematics costs at least: operations of FLUX.1 by formula, and how fast a card can do them.

/// Dense bf16 TFLOP/s that cuBLAS reaches on large products, by a part of the card's name.
const CARDS: [(&str, f64); 5] = [("H200", 790.0), ("H100", 790.0), ("A100", 270.0), ("4090", 165.0), ("3090", 71.0)];

/// The TFLOP/s of a card; `None` for one that the table does not have.
pub fn roof(card: &str) -> Option<f64> {
    CARDS.iter().find(|(name, _)| card.contains(name)).map(|(_, tflops)| *tflops)
}

/// Operations of one call of a FLUX.1 transformer: `blocks` of `width`, each 12·width² multiply-adds a token and an attention of
/// every token to every token. Embedders and modulations are less than a hundredth.
pub fn transformer(blocks: usize, width: usize, tokens: usize) -> f64 {
    let (blocks, width, tokens) = (blocks as f64, width as f64, tokens as f64);
    blocks * (24.0 * width * width * tokens + 4.0 * tokens * tokens * width)
}

/// A training step whose base is frozen: forward, and backward to what entered each layer; with checkpointing forward again.
pub fn training(forward: f64, checkpointing: bool) -> f64 {
    forward * if checkpointing { 3.0 } else { 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flux_dev_costs_what_others_count() {
        // diffusers' benchmark counts 59.5 TFLOP for 1024 px without attention, which has another 14.9.
        let whole = transformer(57, 3072, 4096 + 512) / 1e12;
        assert!((whole - 74.4).abs() < 0.1, "{whole}");
        let half = transformer(57, 3072, 1024 + 512) / 1e12;
        assert!((half - 21.5).abs() < 0.1, "{half}");
    }

    #[test]
    fn a_card_is_known_by_a_part_of_its_name() {
        assert_eq!(roof("NVIDIA H200"), Some(790.0));
        assert_eq!(roof("a toaster"), None);
    }
}
