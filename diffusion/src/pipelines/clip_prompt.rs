//! A tokenizer and the CLIP text encoder that reads its ids, for the families whose prompts have weights and chunks. Which of the
//! encoder's states count differs from family to family.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;

use super::parts::Parts;
use crate::checkpoint::Part;
use crate::networks::clip::{ClipOutput, ClipTextModel, Config};
use crate::prompt::{self, Chunk};
use crate::tokenizers::clip::ClipTokenizer;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct ClipPrompt {
    tokenizer: ClipTokenizer,
    pub encoder: ClipTextModel,
    pub config: Config,
}

impl ClipPrompt {
    /// Loads a text encoder with its tokenizer.
    pub fn load(
        parts: &Parts,
        part: Part,
        build: impl Fn(&Config, &Device) -> ClipTextModel,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let (config, weights): (Config, _) = parts.network(part)?;
        let tokenizer = parts.clip_tokenizer(part)?;
        check(parts.path(), &config, &tokenizer)?;
        let encoder = build(&config, device).load(weights, dtype)?;
        Ok(Self { tokenizer, encoder, config })
    }

    pub fn chunks(&self, prompt: &str) -> Result<Vec<Chunk>> {
        prompt::chunks(prompt, &self.tokenizer)
    }

    /// Reads `count` chunks, with empty ones behind those there are. `states` picks what counts of an answer; it is weighed and
    /// joined along the tokens: `[1, count · length, hidden]`. With it comes what the encoder says of the first chunk.
    pub fn encode(
        &self,
        mut chunks: Vec<Chunk>,
        count: usize,
        states: impl Fn(&ClipOutput) -> Result<Tensor<3>>,
    ) -> Result<(Tensor<3>, Option<ClipOutput>)> {
        prompt::pad(&mut chunks, count, &self.tokenizer);
        let (mut hidden, mut first) = (Vec::with_capacity(chunks.len()), None);
        for chunk in chunks {
            let output = self.encoder.forward(std::slice::from_ref(&chunk.ids));
            hidden.push(chunk.weigh(states(&output)?));
            first.get_or_insert(output);
        }
        Ok((Tensor::cat(hidden, 1), first))
    }
}

/// Tokenizer and encoder have to agree before an id is looked up.
pub(super) fn check(folder: &Path, config: &Config, tokenizer: &ClipTokenizer) -> Result<()> {
    config.check()?;
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
