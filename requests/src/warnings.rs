//! Sentences about settings without effect. The API adds them when it creates a generation, and the engine when it runs
//! one, which knows more about the model: the same sentence from both counts once.

/// `guidance_scale` was stated, and the model's denoiser does not take it.
pub const GUIDANCE: &str = "guidance_scale has no effect: this model was distilled without it.";

/// `negative_prompt` was stated, and classifier-free guidance is off.
pub fn negative_prompt(guidance_field: &str) -> String {
    format!("negative_prompt has no effect: classifier-free guidance is off; it needs {guidance_field} above 1.")
}

/// `negative_prompt` was stated, and the model embeds the guidance scale instead of using a second prompt.
pub const NEGATIVE_PROMPT: &str = "negative_prompt has no effect: this model was distilled to take no second prompt.";

/// The prompt in `field` is longer than the text encoder's input of `tokens`.
pub fn too_long(field: &str, encoder: &str, tokens: usize) -> String {
    format!("{field}: it is longer than the {tokens} tokens that {encoder} reads; the rest has no effect.")
}
