//! A tokenizer with its CLIP text encoder, for families whose prompts have weights and chunks. The caller selects
//! which of the encoder's states are used, since this differs between families.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;
use formats::Part;
use memory::LoadOptions;
use requests::PromptSyntax;

use super::on_demand::OnDemand;
use super::parts::Parts;
use super::stored::{place_of_text, store_text};
use crate::checkpoint::Checkpoint;
use crate::networks::clip::{ClipOutput, ClipTextModel, Config};
use crate::prompt::{self, Chunk};
use crate::tokenizers::clip::ClipTokenizer;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct ClipPrompt {
    tokenizer: ClipTokenizer,
    /// Device and dtype of the pipeline, which may not be those of the encoder.
    target: (Device, DType),
    pub encoder: OnDemand<ClipTextModel>,
    pub config: Config,
}

impl ClipPrompt {
    /// Opens a tokenizer, and a text encoder that is loaded on first use.
    pub(super) fn open(
        parts: &Parts,
        part: Part,
        build: fn(&Config, &Device) -> ClipTextModel,
        target: (&Device, DType),
        options: LoadOptions,
    ) -> Result<Self> {
        let (config, weights): (Config, _) = parts.network(part)?;
        let tokenizer = parts.clip_tokenizer(part)?;
        check(parts.path(), &config, &tokenizer)?;
        let (device, dtype) = place_of_text(options, target.0);
        let mut network = build(&config, &device);
        store_text(options, network.layers(), &device);
        let load = move |network: ClipTextModel, weights: &Checkpoint| network.load(weights.clone(), dtype);
        let encoder = OnDemand::new(network, weights, &device, load, ClipTextModel::layers);
        Ok(Self { tokenizer, target: (target.0.clone(), target.1), encoder, config })
    }

    pub(super) fn chunks(&self, prompt: &str, syntax: PromptSyntax) -> Result<Vec<Chunk>> {
        match syntax {
            PromptSyntax::A1111 => prompt::chunks(prompt, &self.tokenizer),
            PromptSyntax::Plain => prompt::plain_chunks(prompt, &self.tokenizer),
        }
    }

    /// Encodes `count` chunks, padded with empty ones. `states` selects the states to use. They are weighted and
    /// concatenated along the tokens: `[1, count · length, hidden]`. Also returns the first chunk projected to the
    /// space of pictures, `[1, projection]`, if the encoder does that.
    pub(super) fn encode(
        &self,
        mut chunks: Vec<Chunk>,
        count: usize,
        states: impl Fn(&ClipTextModel, &ClipOutput) -> Result<Tensor<3>>,
    ) -> Result<(Tensor<3>, Option<Tensor<2>>)> {
        prompt::pad(&mut chunks, count, &self.tokenizer);
        let (device, dtype) = &self.target;
        self.encoder.with(|encoder| {
            let (mut hidden, mut first) = (Vec::with_capacity(chunks.len()), None);
            for chunk in chunks {
                let output = encoder.forward(std::slice::from_ref(&chunk.ids));
                hidden.push(chunk.weigh(states(encoder, &output)?));
                first.get_or_insert(output);
            }
            let projected = first.and_then(|output: ClipOutput| output.text_embeds);
            let hidden = Tensor::cat(hidden, 1).to_device(device).cast(*dtype);
            Ok((hidden, projected.map(|projected| projected.to_device(device).cast(*dtype))))
        })?
    }
}

/// Checks that tokenizer and encoder match, before an id is looked up.
pub(super) fn check(folder: &Path, config: &Config, tokenizer: &ClipTokenizer) -> Result<()> {
    config.check().map_err(Error::Invalid)?;
    if tokenizer.length() > config.max_position_embeddings {
        let positions = config.max_position_embeddings;
        let reason = format!("the tokenizer makes {} ids, and CLIP has {positions} positions", tokenizer.length());
        return Err(Error::malformed(folder, reason));
    }
    if tokenizer.vocabulary() > config.vocab_size {
        let reason = format!("the tokenizer knows {} tokens, and CLIP {}", tokenizer.vocabulary(), config.vocab_size);
        return Err(Error::malformed(folder, reason));
    }
    Ok(())
}
