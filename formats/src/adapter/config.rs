//! The settings of an adapter that change its strength, as PEFT's config and the headers of trainers name them.

use regex::{Regex, RegexBuilder};

use super::json::Json;

/// Names of alpha, the preferred one first.
pub(super) const ALPHA: [&str; 4] = ["lora_alpha", "network_alpha", "ss_network_alpha", "alpha"];
/// Size limit of a compiled pattern, in bytes.
const PATTERN_BYTES: usize = 1 << 20;
/// Limit on the characters of a text in a message.
const SHOWN: usize = 100;
/// Limit on the number of patterns.
const MAX_PATTERNS: usize = 20_000;
/// Initial values that PEFT subtracts from the base weights, so that the adapter fits changed weights only.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The settings of the modules of one network, or of all.
#[derive(Debug, Clone, Default)]
pub(super) struct Config {
    pub alpha: Option<f64>,
    /// Place of the name of `alpha` in [`ALPHA`].
    preference: usize,
    /// Alpha of the modules that match; the first match counts.
    alpha_pattern: Vec<(Pattern, f64)>,
    /// The scale is `alpha / √rank`.
    pub use_rslora: bool,
    pub use_dora: bool,
    /// `init_lora_weights`, if it changes the base model.
    pub changes_base: Option<String>,
    /// Patterns that cannot be read.
    pub unreadable: Vec<String>,
}

/// Module names that PEFT's regular expression matches.
#[derive(Debug, Clone)]
enum Pattern {
    /// A whole name or its end after a dot. This is what diffusers writes, once for each module.
    End {
        text: String,
        anchored: bool,
    },
    Expression(Regex),
}

impl Config {
    /// Takes over a field; ignores those that do not change the strength. Errors: a sentence, for an alpha that is not
    /// finite.
    pub(super) fn set(&mut self, field: &str, value: &Json) -> Result<(), String> {
        if let Some(preference) = ALPHA.iter().position(|name| *name == field) {
            let Some(alpha) = value.number() else { return Ok(()) };
            if !alpha.is_finite() {
                return Err(format!("its alpha is not finite: {field} is {alpha}"));
            }
            if self.alpha.is_none() || preference < self.preference {
                (self.alpha, self.preference) = (Some(alpha), preference);
            }
            return Ok(());
        }
        match field {
            "alpha_pattern" => self.set_patterns(value),
            "use_rslora" => self.use_rslora = value.is_true(),
            "use_dora" => self.use_dora = value.is_true(),
            "init_lora_weights" => {
                let text = if let Json::Text(text) = value { text.to_lowercase() } else { String::new() };
                self.changes_base = CHANGES_BASE.iter().any(|kind| text.starts_with(kind)).then(|| shown(&text));
            }
            _ => {}
        }
        Ok(())
    }

    fn set_patterns(&mut self, value: &Json) {
        let parsed = match value {
            // In a header, objects are texts.
            Json::Text(text) => Json::read(text).unwrap_or(Json::Null),
            other => other.clone(),
        };
        for (pattern, alpha) in parsed.fields().iter().take(MAX_PATTERNS) {
            match (Pattern::new(pattern), alpha.number().filter(|alpha| alpha.is_finite())) {
                (Some(pattern), Some(alpha)) => self.alpha_pattern.push((pattern, alpha)),
                _ => self.unreadable.push(shown(pattern)),
            }
        }
    }

    /// Alpha of a module, which may have several names.
    pub(super) fn alpha_of(&self, names: &[&str]) -> Option<f64> {
        let matched = self.alpha_pattern.iter().find(|(pattern, _)| names.iter().any(|name| pattern.matches(name)));
        matched.map(|(_, alpha)| *alpha).or(self.alpha)
    }

    /// Whether it states any alpha.
    pub(super) fn states_alpha(&self) -> bool {
        self.alpha.is_some() || !self.alpha_pattern.is_empty()
    }
}

impl Pattern {
    /// PEFT's `get_pattern_key` matches `(.*\.)?(PATTERN)$` from the beginning of a module's name.
    fn new(pattern: &str) -> Option<Self> {
        let text = pattern.strip_prefix('^').unwrap_or(pattern);
        if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_')) {
            return Some(Self::End { text: text.to_owned(), anchored: text.len() < pattern.len() });
        }
        let whole = format!("^(?:.*\\.)?(?:{pattern})$");
        Some(Self::Expression(RegexBuilder::new(&whole).size_limit(PATTERN_BYTES).build().ok()?))
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::End { text, anchored } => {
                let before = name.strip_suffix(text.as_str());
                before.is_some_and(|before| before.is_empty() || (!anchored && before.ends_with('.')))
            }
            Self::Expression(expression) => expression.is_match(name),
        }
    }
}

/// A text of the file for a message: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars()
        .take(SHOWN)
        .map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        let mut config = Config::default();
        let json: Json = serde_json::from_str(json).unwrap();
        json.fields().iter().for_each(|(field, value)| config.set(field, value).unwrap());
        config
    }

    #[test]
    fn patterns_are_regular_expressions_and_the_first_match_counts() {
        let config = config(
            r#"{"lora_alpha": 1, "alpha_pattern": {".*\\.attn2\\..*": 2, "to_[qk]": 3, "^mid_block.proj": 4,
                "attn1.to_v": 5, "blocks\\.(0|1)\\.ff": "6", "(": 7, "x": "many"}}"#,
        );
        for (name, alpha) in [
            ("down.0.attn2.to_q", 2.0),
            ("down.0.attn1.to_q", 3.0),
            ("down.0.attn1.into_q", 1.0),
            ("mid_block.proj", 4.0),
            ("unet.mid_block.proj", 1.0),
            ("attn1.to_v", 5.0),
            ("down.attn1.to_v", 5.0),
            ("downattn1.to_v", 1.0),
            ("blocks.1.ff", 6.0),
            ("blocks.2.ff", 1.0),
        ] {
            assert_eq!(config.alpha_of(&[name]), Some(alpha), "{name}");
        }
        assert_eq!(config.unreadable, ["(", "x"]);
        let long = format!("(\\u0000{}", "x".repeat(200));
        let config = self::config(&format!(r#"{{"alpha_pattern": {{"{long}": 1}}}}"#));
        assert_eq!(config.unreadable, [format!("(\u{fffd}{}", "x".repeat(98))]);
    }

    #[test]
    fn alpha_has_several_names_and_may_be_a_text() {
        assert_eq!(config(r#"{"alpha": 1, "lora_alpha": "2"}"#).alpha, Some(2.0));
        assert_eq!(config(r#"{"lora_alpha": 2, "alpha": 1}"#).alpha, Some(2.0));
        assert_eq!(config(r#"{"lora_alpha": null, "alpha": "None", "alpha_pattern": null}"#).alpha, None);
        assert!(config(r#"{"use_rslora": "True"}"#).use_rslora);
        assert!(Config::default().set("alpha", &Json::Text("inf".into())).is_err());
    }

    #[test]
    fn initial_values_that_change_the_base_are_noticed() {
        assert_eq!(config(r#"{"init_lora_weights": "pissa_niter_4"}"#).changes_base.as_deref(), Some("pissa_niter_4"));
        assert_eq!(config(r#"{"init_lora_weights": "gaussian"}"#).changes_base, None);
        assert_eq!(config(r#"{"init_lora_weights": true}"#).changes_base, None);
    }
}
