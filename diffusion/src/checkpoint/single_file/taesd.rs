//! The decoder of a tiny autoencoder, TAESD, in its own file. Layers are named as in diffusers,
//! `decoder.layers.0.weight`, or as in the original, which counts from the clamp before them: `1.weight`
//! (<https://github.com/madebyollin/taesd>). The encoder is ignored.

use std::path::Path;

use formats::View;
use formats::view::Source;

use super::Checkpoint;
use crate::networks::autoencoder_tiny::Config;
use crate::{Error, Result};

/// The prefix of a layer's number, and an offset to add to it.
const FORMS: [(&str, usize); 3] = [("decoder.layers.", 0), ("taesd_decoder.", 1), ("", 1)];
/// Limits on layers and channels: a preview must not cost more than the picture.
const MOST_LAYERS: usize = 64;
const MOST_CHANNELS: usize = 256;

/// Its config, inferred from the shapes, and its tensors under our keys. Errors: the file is not such a decoder.
pub fn decoder(path: &Path) -> Result<(Config, Checkpoint)> {
    let file = Checkpoint::open(path)?;
    let refused = |reason: &str| Err(Error::malformed(path, format!("this is no decoder of a TAESD: {reason}")));
    let first = |(start, from): &&(&str, usize)| file.shape(&format!("{start}{from}.weight")).is_ok();
    let Some((start, from)) = FORMS.iter().find(first) else { return refused("it has no first layer") };
    let name = |layer: usize| format!("{start}{}", layer + from);
    let has = |leaf: String| file.shape(&leaf).is_ok();

    let mut sources = Vec::new();
    let mut take = |layer: usize, leaf: &str| {
        sources.push(Source::whole(format!("decoder.layers.{layer}.{leaf}"), format!("{}.{leaf}", name(layer))));
    };
    take(0, "weight");
    take(0, "bias");
    // After the first layer and its activation, each level has its blocks, then upsampling and a convolution; the last
    // level ends with a convolution.
    let (mut layer, mut blocks) = (2, Vec::new());
    loop {
        let first_block = layer;
        while has(format!("{}.conv.0.weight", name(layer))) && layer < MOST_LAYERS {
            for part in ["conv.0", "conv.2", "conv.4"] {
                take(layer, &format!("{part}.weight"));
                take(layer, &format!("{part}.bias"));
            }
            layer += 1;
        }
        blocks.push(layer - first_block);
        if has(format!("{}.weight", name(layer))) {
            take(layer, "weight");
            take(layer, "bias");
            break;
        }
        layer += 1;
        if !has(format!("{}.weight", name(layer))) || layer >= MOST_LAYERS {
            return refused("its layers do not follow each other as they should");
        }
        take(layer, "weight");
        layer += 1;
    }
    let (inner, outer) = (file.shape(&format!("{}.weight", name(0)))?, file.shape(&format!("{}.weight", name(layer)))?);
    let ([channels, latent_channels, ..], [3, ..]) = (&inner[..], &outer[..]) else {
        return refused("its last layer makes no colours");
    };
    if *channels > MOST_CHANNELS {
        return refused("it is too wide");
    }
    let config = Config {
        latent_channels: *latent_channels,
        encoder_block_out_channels: vec![*channels; blocks.len()],
        decoder_block_out_channels: vec![*channels; blocks.len()],
        num_encoder_blocks: blocks.clone(),
        num_decoder_blocks: blocks,
        ..Config::default()
    };
    config.check()?;
    let view = View::renamed(file.header(), "", sources, |name| name.contains("encoder"));
    Ok((config, file.seen_as(view.map_err(|reason| Error::malformed(path, reason))?)))
}
