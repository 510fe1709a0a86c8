//! Lower bounds of the time: operations of the denoisers by formula, and the peak rate of a GPU.

use diffusion::networks::unet;

/// Dense bf16 TFLOP/s that cuBLAS reaches on large products, by a part of the GPU's name.
const CARDS: [(&str, f64); 5] = [("H200", 790.0), ("H100", 790.0), ("A100", 270.0), ("4090", 165.0), ("3090", 71.0)];

/// The TFLOP/s of a GPU; `None` if it is not in the table.
pub(crate) fn roof(card: &str) -> Option<f64> {
    CARDS.iter().find(|(name, _)| card.contains(name)).map(|(_, tflops)| *tflops)
}

/// Operations of one call of a FLUX.1 transformer: `blocks` of `width`, each with 12·width² multiply-adds per token
/// and full attention. Embedders and modulations are less than 1 %.
pub(crate) fn transformer(blocks: usize, width: usize, tokens: usize) -> f64 {
    let (blocks, width, tokens) = (blocks as f64, width as f64, tokens as f64);
    blocks * (24.0 * width * width * tokens + 4.0 * tokens * tokens * width)
}

/// Operations of one UNet call for one picture with latents of `side` × `side` and a prompt of `text` tokens:
/// convolutions, linear layers and attention. The time embedding is less than 0.1 %.
pub(crate) fn unet(config: &unet::Config, side: usize, text: usize) -> f64 {
    let levels = config.levels();
    let channels = |level: usize| config.block_out_channels[level] as f64;
    let pixels = |level: usize| (side >> level).pow(2) as f64;
    let convolution = |inputs: f64, outputs: f64, level: usize| 18.0 * inputs * outputs * pixels(level);
    let residual = |inputs: f64, level: usize| {
        let outputs = channels(level);
        let shortcut = if inputs == outputs { 0.0 } else { 2.0 * inputs * outputs * pixels(level) };
        convolution(inputs, outputs, level) + convolution(outputs, outputs, level) + shortcut
    };
    let transformer = |level: usize| {
        let (width, pixels, text) = (channels(level), pixels(level), text as f64);
        let linear = 2.0 * 18.0 * width * width * pixels + 4.0 * config.text_width() as f64 * width * text;
        let attention = 4.0 * pixels * (pixels + text) * width;
        let depth = config.transformer_layers_per_block.at(level) as f64;
        4.0 * width * width * pixels + depth * (linear + attention)
    };
    let attends = |types: &[String], place: usize| types[place].starts_with("CrossAttn");
    let ends = (config.in_channels + config.out_channels) as f64;
    let mut flop = convolution(ends, channels(0), 0) + 2.0 * residual(channels(levels - 1), levels - 1);
    flop += transformer(levels - 1);
    for level in 0..levels {
        let layers = config.layers_per_block.at(level);
        let (finer, coarser) = (channels(level.saturating_sub(1)), channels((level + 1).min(levels - 1)));
        let down = residual(finer, level) + (layers - 1) as f64 * residual(channels(level), level);
        let between = (layers - 1) as f64 * residual(2.0 * channels(level), level);
        let up = residual(coarser + channels(level), level) + between + residual(channels(level) + finer, level);
        let times = if attends(&config.down_block_types, level) { layers } else { 0 }
            + if attends(&config.up_block_types, levels - 1 - level) { layers + 1 } else { 0 };
        flop += down + up + times as f64 * transformer(level);
        if level + 1 < levels {
            flop += convolution(channels(level), channels(level), level + 1);
            flop += convolution(channels(level + 1), channels(level + 1), level);
        }
    }
    flop
}

/// Operations of a training step with a frozen base: forward, and backward to each layer's input; with checkpointing
/// another forward.
pub(crate) fn training(forward: f64, checkpointing: bool) -> f64 {
    forward * if checkpointing { 3.0 } else { 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale;

    #[test]
    fn flux_dev_costs_what_others_count() {
        // diffusers' benchmark counts 59.5 TFLOP for 1024 px without attention, which adds 14.9.
        let whole = transformer(57, 3072, 4096 + 512) / 1e12;
        assert!((whole - 74.4).abs() < 0.1, "{whole}");
        let half = transformer(57, 3072, 1024 + 512) / 1e12;
        assert!((half - 21.5).abs() < 0.1, "{half}");
    }

    #[test]
    fn unets_cost_what_others_count() {
        // Hugging Face counts 5.98 TFLOP for SDXL at 1024 px without attention, which adds 0.78.
        let giant = unet(&scale::sdxl(), 128, 77) / 1e12;
        assert!((giant - 6.76).abs() < 0.03, "{giant}");
        let first = unet(&scale::sd15(), 64, 77) / 1e12;
        assert!((first - 0.803).abs() < 0.005, "{first}");
    }

    #[test]
    fn a_card_is_known_by_a_part_of_its_name() {
        assert_eq!(roof("NVIDIA H200"), Some(790.0));
        assert_eq!(roof("a toaster"), None);
    }
}
