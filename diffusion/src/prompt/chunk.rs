//! Splits prompt pieces into inputs of the text encoder (ids with weights), and applies the weights to its output.

use burn::prelude::*;
use burn::tensor::DType;

use super::{MOST_CHUNKS, Piece, parse};
use crate::tokenizers::clip::ClipTokenizer;
use crate::{Error, Result};

/// One input of the text encoder: start, words, end and padding.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// As many as the tokenizer's length.
    pub ids: Vec<i64>,
    /// One per id; 1 for all but words.
    weights: Vec<f32>,
}

impl Chunk {
    fn new(words: &[(i64, f32)], tokenizer: &ClipTokenizer) -> Self {
        let (ids, word_weights): (Vec<_>, Vec<_>) = words.iter().copied().unzip();
        let ids = tokenizer.frame(&ids);
        let mut weights = vec![1.0; ids.len()];
        weights.iter_mut().skip(1).zip(word_weights).for_each(|(weight, word)| *weight = word);
        Self { ids, weights }
    }

    /// Multiplies the encoder's states `[1, length, hidden]` by the token weights, then scales them to keep their
    /// mean, as AUTOMATIC1111 does. Returns the states unchanged if all weights are 1.
    pub fn weigh(&self, hidden: Tensor<3>) -> Tensor<3> {
        if self.weights.iter().all(|weight| *weight == 1.0) {
            return hidden;
        }
        let weights = TensorData::new(self.weights.clone(), [1, self.weights.len(), 1]);
        // In f32: the quotient of two means rounded to half precision is off by a percent.
        let dtype = hidden.dtype();
        let hidden = hidden.cast(DType::F32);
        let weights = Tensor::<3>::from_data(weights, (&hidden.device(), DType::F32));
        let weighed = hidden.clone() * weights;
        let keep = hidden.mean() / weighed.clone().mean();
        // If the weighted mean is 0, the original mean cannot be restored.
        let keep = keep.clone().mask_fill(keep.is_finite().bool_not(), 1.0);
        (weighed * keep.unsqueeze::<3>()).cast(dtype)
    }
}

/// Splits a prompt into chunks, each with as many words as fit between start and end. A new chunk starts when one is
/// full and at `BREAK`. There is at least one chunk; more than [`MOST_CHUNKS`] are rejected.
pub fn chunks(prompt: &str, tokenizer: &ClipTokenizer) -> Result<Vec<Chunk>> {
    fill(parse(prompt)?, tokenizer)
}

/// As [`chunks`], with every character as text: no weights, no `BREAK`.
pub fn plain_chunks(prompt: &str, tokenizer: &ClipTokenizer) -> Result<Vec<Chunk>> {
    fill(vec![Piece::Text { text: prompt.to_owned(), weight: 1.0 }], tokenizer)
}

fn fill(pieces: Vec<Piece>, tokenizer: &ClipTokenizer) -> Result<Vec<Chunk>> {
    let room = tokenizer.length() - 2;
    let mut chunks = Vec::new();
    let mut words: Vec<(i64, f32)> = Vec::with_capacity(room);
    for piece in pieces {
        match piece {
            Piece::Break => chunks.push(Chunk::new(&std::mem::take(&mut words), tokenizer)),
            Piece::Text { text, weight } => {
                for id in tokenizer.words(&text)? {
                    if words.len() == room {
                        chunks.push(Chunk::new(&std::mem::take(&mut words), tokenizer));
                    }
                    words.push((id, weight as f32));
                }
            }
        }
    }
    if !words.is_empty() || chunks.is_empty() {
        chunks.push(Chunk::new(&words, tokenizer));
    }
    match chunks.len() {
        count if count > MOST_CHUNKS => {
            Err(Error::Invalid(format!("the prompt has {count} chunks of {room} tokens, and may have {MOST_CHUNKS}")))
        }
        _ => Ok(chunks),
    }
}

/// Appends empty chunks up to `count`, so that all prompts of a denoiser call have the same length.
pub fn pad(chunks: &mut Vec<Chunk>, count: usize, tokenizer: &ClipTokenizer) {
    chunks.resize(count.max(chunks.len()), Chunk::new(&[], tokenizer));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::noise::Noise;
    use crate::prompt::LONGEST;

    fn tokenizer() -> ClipTokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/flux-tiny/tokenizer");
        ClipTokenizer::load(&folder).unwrap()
    }

    #[test]
    fn a_plain_prompt_is_what_the_tokenizer_makes_of_it() {
        let tokenizer = tokenizer();
        for prompt in ["", "a red fox in the snow", "Don't paint 3 OWLS; 'blue'... naïve café ☃!"] {
            let made = chunks(prompt, &tokenizer).unwrap();
            assert_eq!(made.len(), 1);
            assert_eq!(made[0].ids, tokenizer.encode(prompt).unwrap());
            assert!(made[0].weights.iter().all(|weight| *weight == 1.0));
        }
    }

    #[test]
    fn words_beyond_the_first_chunk_go_into_the_next() {
        let tokenizer = tokenizer();
        let words = tokenizer.words(&"the small green turtle ".repeat(40)).unwrap();
        let made = chunks(&format!("({})", "the small green turtle ".repeat(40)), &tokenizer).unwrap();
        assert_eq!(made.len(), words.len().div_ceil(75));
        let kept: Vec<i64> = made.iter().flat_map(|chunk| chunk.ids[1..76].to_vec()).take(words.len()).collect();
        assert_eq!(kept, words);
        for chunk in &made {
            assert_eq!((chunk.ids.len(), chunk.weights.len()), (77, 77));
            assert_eq!((chunk.weights[0], chunk.weights[1], chunk.weights[76]), (1.0, 1.1, 1.0));
        }
    }

    #[test]
    fn added_words_have_weights_and_fill_chunks() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/sd15-tiny/tokenizer");
        let folder = tempfile::tempdir().unwrap();
        for file in ["merges.txt", "tokenizer_config.json", "vocab.json"] {
            std::fs::copy(golden.join(file), folder.path().join(file)).unwrap();
        }
        std::fs::write(folder.path().join("added_tokens.json"), r#"{"<cat-toy>": 658}"#).unwrap();
        let tokenizer = ClipTokenizer::load(folder.path()).unwrap();
        let made = chunks("(<cat-toy>:1.3) red <cat-toy>", &tokenizer).unwrap();
        assert_eq!(made[0].ids, tokenizer.encode("<cat-toy> red <cat-toy>").unwrap());
        assert_eq!(made[0].weights[..5], [1.0, 1.3, 1.0, 1.0, 1.0]);
        let long = chunks(&"<cat-toy> ".repeat(80), &tokenizer).unwrap();
        assert_eq!(long.iter().flat_map(|chunk| &chunk.ids).filter(|id| **id == 658).count(), 80);
        assert_eq!(long.len(), 2);
    }

    #[test]
    fn plain_text_has_no_weights() {
        let tokenizer = tokenizer();
        let prompt = r"a (red:1.5) [fox] BREAK \(snow\)";
        let plain = plain_chunks(prompt, &tokenizer).unwrap();
        assert_eq!(plain.len(), 1);
        assert_eq!(plain[0].ids, tokenizer.encode(prompt).unwrap());
        assert!(plain[0].weights.iter().all(|weight| *weight == 1.0));
        assert_ne!(plain, chunks(prompt, &tokenizer).unwrap());
    }

    #[test]
    fn a_break_ends_a_chunk_and_empty_ones_fill_up() {
        let tokenizer = tokenizer();
        let mut one = chunks("a fox BREAK snow BREAK", &tokenizer).unwrap();
        assert_eq!(one[1].ids, tokenizer.encode("snow").unwrap());
        pad(&mut one, 1, &tokenizer);
        assert_eq!(one.len(), 2);
        let mut other = chunks("", &tokenizer).unwrap();
        pad(&mut other, 2, &tokenizer);
        assert_eq!(other.len(), 2);
        assert_eq!(other[1].ids, tokenizer.encode("").unwrap());
        assert!(chunks(&"BREAK ".repeat(MOST_CHUNKS + 1), &tokenizer).is_err());
    }

    #[test]
    fn weights_of_nothing_leave_numbers() {
        let chunk = Chunk { ids: vec![0, 1], weights: vec![0.0, 0.0] };
        let weighed = chunk.weigh(Tensor::ones([1, 2, 3], &Device::flex()));
        assert_eq!(weighed.into_data().try_to_vec::<f32>().unwrap(), [0.0; 6]);
    }

    #[test]
    fn no_text_is_too_odd() {
        let signs: Vec<char> = "()[]\\:1.9-+ \n\tBREAKab,é狐\u{301}\u{200d}\0".chars().collect();
        let (tokenizer, mut noise) = (tokenizer(), Noise::seeded(4));
        for _ in 0..2000 {
            let length = noise.below(200);
            let prompt: String = (0..length).map(|_| signs[noise.below(signs.len())]).collect();
            if let Ok(chunks) = chunks(&prompt, &tokenizer) {
                assert!(chunks.iter().all(|chunk| chunk.ids.len() == 77 && chunk.weights.len() == 77));
            }
        }
        let longest: String = (0..LONGEST).map(|_| signs[noise.below(signs.len())]).collect();
        let _ = chunks(&longest, &tokenizer);
    }
}
