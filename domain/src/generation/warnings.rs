//! Settings of a request that have no effect, as far as they are known when it is created. The engine knows the rest,
//! such as the length of a prompt in tokens.

use formats::Guidance;
use requests::{PromptSyntax, prompt, warnings};

use super::request::{GenerationParams, GenerationRequest};
use crate::Result;
use crate::model::Model;

/// A sentence for each.
pub(super) fn of(request: &GenerationRequest, params: &GenerationParams, model: &Model) -> Result<Vec<String>> {
    let family = model.family()?;
    let mut sentences = Vec::new();
    let changed = request.guidance_scale.is_some_and(|scale| scale != model.defaults.guidance_scale);
    if changed && !model.defaults.takes_guidance {
        sentences.push(warnings::GUIDANCE.to_owned());
    }
    let negative = params.negative_prompt.as_deref().unwrap_or_default();
    let (field, scale) = match family.guidance() {
        Guidance::Distilled => ("true_cfg_scale", params.true_cfg_scale),
        Guidance::ClassifierFree => ("guidance_scale", params.guidance_scale),
    };
    if scale <= 1.0 && !negative.trim().is_empty() {
        sentences.push(warnings::negative_prompt(field));
    }
    if params.prompt_syntax == PromptSyntax::A1111 {
        let words = params.prompt_syntax.words(&params.prompt);
        for (field, text) in [("prompt", &*words), ("negative_prompt", negative)] {
            let notes = prompt::without_effect(text, family.weighs_words());
            sentences.extend(notes.into_iter().map(|note| format!("{field}: {note}")));
        }
        if params.prompt_syntax.words(negative) != negative {
            sentences.push("negative_prompt: `<…>` is read as words: networks are named in the prompt.".to_owned());
        }
    }
    Ok(sentences)
}
