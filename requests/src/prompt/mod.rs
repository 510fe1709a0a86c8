//! AUTOMATIC1111's notation in prompts, as far as it is not about weights: the LoRAs that a prompt names, and notation
//! that has no effect here. Weights and chunks belong to `diffusion::prompt`, since they depend on the tokenizer.

mod networks;
mod notation;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use networks::{LoraTag, Networks};
pub use notation::without_effect;

/// How a prompt is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum PromptSyntax {
    /// As in AUTOMATIC1111's web UI: `<lora:name:0.8>` applies a LoRA, and for Stable Diffusion `(word:1.3)` weights a
    /// word.
    #[default]
    A1111,
    /// Every character is text.
    Plain,
}

impl PromptSyntax {
    pub const ALL: [Self; 2] = [Self::A1111, Self::Plain];

    /// The name in requests and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A1111 => "a1111",
            Self::Plain => "plain",
        }
    }

    /// The words of a prompt, without the tags of extra networks. This is the text to encode.
    pub fn words(self, prompt: &str) -> Cow<'_, str> {
        match self {
            Self::A1111 => networks::words(prompt),
            Self::Plain => Cow::Borrowed(prompt),
        }
    }

    /// The extra networks that a prompt names.
    pub fn networks(self, prompt: &str) -> Networks {
        match self {
            Self::A1111 => networks::read(prompt),
            Self::Plain => Networks::default(),
        }
    }
}

impl std::str::FromStr for PromptSyntax {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|syntax| syntax.as_str() == name)
            .ok_or_else(|| format!("'{name}' is not a syntax of prompts; there are a1111 and plain"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for syntax in PromptSyntax::ALL {
            assert_eq!(serde_json::to_value(syntax).unwrap(), syntax.as_str());
            assert_eq!(syntax.as_str().parse(), Ok(syntax));
        }
        assert!("A1111".parse::<PromptSyntax>().is_err());
    }

    #[test]
    fn plain_text_names_nothing() {
        let prompt = " a <lora:ink:x> (fox) ";
        assert_eq!(PromptSyntax::Plain.words(prompt), prompt);
        assert_eq!(PromptSyntax::Plain.networks(prompt), Networks::default());
        assert!(PromptSyntax::A1111.networks(prompt).loras[0].is_err());
    }
}
