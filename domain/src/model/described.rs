//! What the files of a model say about it, before it has a row.

use memory::Networks;

use super::{Defaults, ModelKind};
use crate::ModelId;

pub(crate) struct Described {
    pub kind: ModelKind,
    pub(super) family: String,
    pub(super) base: Option<ModelId>,
    pub(super) defaults: Option<Defaults>,
    /// Of a checkpoint.
    pub networks: Option<Networks>,
    pub(super) trigger_word: Option<String>,
    /// Assumptions and parts without effect, as sentences that name no model.
    pub(super) warnings: Vec<String>,
}

/// Whether a LoRA may have this trigger word: 1 to 100 characters, none of them a control character.
pub(crate) fn is_trigger_word(word: &str) -> bool {
    (1..=100).contains(&word.chars().count()) && !word.chars().any(char::is_control)
}
