//! A tokenizer with its CLIP text encoder, for families whose prompts have weights and chunks. The caller selects
//! which of the encoder's states are used, since this differs between families.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;
use formats::Part;
use requests::PromptSyntax;

use super::LoadOptions;
use super::on_demand::OnDemand;
use super::parts::Parts;
use crate::checkpoint::Checkpoint;
use crate::networks::clip::{ClipOutput, ClipTextModel, Config};
use crate::prompt::{self, Chunk};
use crate::tokenizers::clip::ClipTokenizer;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct ClipPrompt {
    tokenizer: ClipTokenizer,
    pub encoder: OnDemand<ClipTextModel>,
    pub config: Config,
}

impl ClipPrompt {
    /// Opens a tokenizer, and a text encoder that is loaded on first use.
    pub(super) fn open(
        parts: &Parts,
        part: Part,
        build: fn(&Config, &Device) -> ClipTextModel,
        device: &Device,
        dtype: DType,
        options: LoadOptions,
    ) -> Result<Self> {
        let (config, weights): (Config, _) = parts.network(part)?;
        let tokenizer = parts.clip_tokenizer(part)?;
        check(parts.path(), &config, &tokenizer)?;
        let mut network = build(&config, device);
        options.store_text(network.layers(), device);
        let load = move |network: ClipTextModel, weights: &Checkpoint| network.load(weights.clone(), dtype);
        Ok(Self { tokenizer, encoder: OnDemand::new(network, weights, load, ClipTextModel::layers), config })
    }

    pub(super) fn chunks(&self, prompt: &str, syntax: PromptSyntax) -> Result<Vec<Chunk>> {
        match syntax {
            PromptSyntax::A1111 => prompt::chunks(prompt, &self.tokenizer),
            PromptSyntax::Plain => prompt::plain_chunks(prompt, &self.tokenizer),
        }
    }

    /// Encodes `count` chunks, padded with empty ones. `states` selects the states to use. They are weighted and
    /// concatenated along the tokens: `[1, count · length, hidden]`. Also returns the encoder's full output for the
    /// first chunk.
    pub(super) fn encode(
        &self,
        mut chunks: Vec<Chunk>,
        count: usize,
        states: impl Fn(&ClipTextModel, &ClipOutput) -> Result<Tensor<3>>,
    ) -> Result<(Tensor<3>, Option<ClipOutput>)> {
        prompt::pad(&mut chunks, count, &self.tokenizer);
        self.encoder.with(|encoder| {
            let (mut hidden, mut first) = (Vec::with_capacity(chunks.len()), None);
            for chunk in chunks {
                let output = encoder.forward(std::slice::from_ref(&chunk.ids));
                hidden.push(chunk.weigh(states(encoder, &output)?));
                first.get_or_insert(output);
            }
            Ok((Tensor::cat(hidden, 1), first))
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
