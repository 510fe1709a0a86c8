//! What a picture's texts state, under one set of names for all programs.

use serde::Serialize;

use crate::{OutputFormat, PromptSyntax};

/// The program that recorded how a picture was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Program {
    Pyrograph,
    /// AUTOMATIC1111's web UI, and programs that write its text of parameters.
    A1111,
    Comfyui,
    Invokeai,
}

/// A value that was found and not translated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Unmapped {
    /// Name of the value in the picture.
    pub field: String,
    pub value: String,
    /// A sentence for people.
    pub reason: String,
}

impl Unmapped {
    pub fn new(field: impl Into<String>, value: impl ToString, reason: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_string(), reason: reason.into() }
    }
}

/// Settings and everything else that was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    pub program: Option<Program>,
    pub settings: Settings,
    pub unmapped: Vec<Unmapped>,
}

/// A checkpoint, as the record names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedModel {
    pub name: String,
    /// The beginning of a SHA-256, lower-case hex.
    pub sha256: Option<String>,
}

/// A LoRA, as the record names it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedLora {
    pub name: String,
    /// The beginning of a SHA-256, lower-case hex.
    pub sha256: Option<String>,
    pub scale: f64,
    pub text_encoder_scale: Option<f64>,
}

/// The settings of a generation as far as they were found. Values are not checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub prompt: Option<String>,
    pub negative_prompt: Option<String>,
    pub prompt_syntax: Option<PromptSyntax>,
    pub model: Option<NamedModel>,
    pub loras: Vec<NamedLora>,
    pub num_inference_steps: Option<f64>,
    /// The scale of classifier-free guidance.
    pub cfg_scale: Option<f64>,
    /// The scale that a distilled model takes as an input.
    pub distilled_scale: Option<f64>,
    /// The field `guidance_scale` of our record, if only the model that it names shows which of the two it is.
    pub guidance_scale: Option<f64>,
    pub seed: Option<u64>,
    /// A name of the scheduler, of any program.
    pub scheduler: Option<String>,
    pub width: Option<f64>,
    pub height: Option<f64>,
    /// Number of layers that are skipped.
    pub clip_skip: Option<f64>,
    pub strength: Option<f64>,
    /// SHA-256 of the picture that the generation started from.
    pub image: Option<String>,
    pub mask: Option<String>,
    pub output_format: Option<OutputFormat>,
    pub output_quality: Option<u8>,
}
