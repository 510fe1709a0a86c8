//! The strength that an adapter file states: in tensors, in its header, or in PEFT's config beside it.

use std::collections::BTreeMap;

use super::config::{ALPHA, Config};
use super::json::Json;
use super::{CONFIG_FILE, Network};

/// The header field with which this program states that alpha is multiplied into the factors.
pub const MULTIPLIED: (&str, &str) = ("pyrograph.alpha", "multiplied into the factors");

/// diffusers' header field, a JSON object whose fields have the prefixes below.
const DIFFUSERS: &str = "lora_adapter_metadata";
/// Header fields in which other trainers store the config, as JSON.
const CONFIGS: [&str; 5] = [CONFIG_FILE, "adapter_config", "peft_config", "lora_config", "config"];
/// Prefixes that diffusers gives to the fields of each network.
const PREFIXES: [(&str, Network); 4] = [
    ("transformer.", Network::Transformer),
    ("unet.", Network::Unet),
    ("text_encoder.", Network::TextEncoder),
    ("text_encoder_2.", Network::TextEncoder2),
];

/// The alpha of modules without an alpha tensor.
#[derive(Debug, Clone)]
pub struct AlphaRule {
    /// By network; the config under `None` applies to the other networks.
    configs: BTreeMap<Option<Network>, Config>,
    /// Where the alpha was found, for display.
    pub source: &'static str,
    /// Alpha is known to be multiplied into the factors.
    multiplied: bool,
    /// What another source states instead.
    conflict: Option<String>,
}

/// The settings of one source.
#[derive(Default)]
struct Stated(BTreeMap<Option<Network>, Config>);

impl Stated {
    fn set(&mut self, name: &str, value: &Json) -> Result<(), String> {
        let own = PREFIXES.iter().find_map(|(prefix, network)| Some((name.strip_prefix(prefix)?, *network)));
        let (field, network) = own.map_or((name, None), |(field, network)| (field, Some(network)));
        self.0.entry(network).or_default().set(field, value)
    }

    fn of_json(json: &Json) -> Result<Self, String> {
        let mut stated = Self::default();
        // PEFT's own dictionary of configs has one for each adapter.
        let own = json.fields().iter().find(|(name, value)| name == "default" && matches!(value, Json::Object(_)));
        for (name, value) in own.map_or(json, |(_, config)| config).fields() {
            stated.set(name, value)?;
        }
        Ok(stated)
    }

    fn states_alpha(&self) -> bool {
        self.0.values().any(Config::states_alpha)
    }

    fn alpha(&self) -> Option<f64> {
        self.0.values().find_map(|config| config.alpha)
    }
}

impl AlphaRule {
    /// Reads the header, then `beside`, the text of an `adapter_config.json` in the same folder. The first source that
    /// states an alpha counts. `has_tensors`: some modules have alpha tensors; a number in the header that is not part
    /// of a config is then ignored, since it need not apply to the others. Errors: a sentence.
    pub fn read(header: &BTreeMap<String, String>, beside: Option<&str>, has_tensors: bool) -> Result<Self, String> {
        let mut sources: Vec<(&'static str, Stated)> = Vec::new();
        let broken = |what: &str, error: String| format!("{what}: {error}");
        if let Some(text) = header.get(DIFFUSERS) {
            let json = Json::read(text).map_err(|error| broken(DIFFUSERS, error))?;
            sources.push((DIFFUSERS, Stated::of_json(&json)?));
        }
        if let Some(text) = beside {
            let json = Json::read(text).map_err(|error| broken(CONFIG_FILE, error))?;
            sources.push((CONFIG_FILE, Stated::of_json(&json)?));
        }
        for name in CONFIGS {
            // Such a name may mean anything, so a text of another kind is ignored.
            if let Some(json) = header.get(name).and_then(|text| Json::read(text).ok()) {
                sources.push((name, Stated::of_json(&json)?));
            }
        }
        if !has_tensors {
            sources.extend(numbers(header)?);
        }
        let multiplied = header.get(MULTIPLIED.0).is_some_and(|text| text == MULTIPLIED.1) || is_ai_toolkit(header);
        let first = sources.iter().position(|(_, stated)| stated.states_alpha());
        let Some(first) = first else {
            // Without an alpha, the other settings still matter.
            let configs = sources.into_iter().next().map(|(_, stated)| stated.0).unwrap_or_default();
            let source = match (has_tensors, multiplied) {
                (true, _) => "alpha tensors",
                (false, true) => "multiplied into the factors",
                (false, false) => "none: alpha is the rank",
            };
            return Ok(Self { configs, source, multiplied, conflict: None });
        };
        let (source, stated) = sources.swap_remove(first);
        let alpha = stated.alpha();
        let other =
            sources.iter().find(|(_, other)| alpha.is_some() && other.alpha().is_some_and(|it| Some(it) != alpha));
        let conflict = other.zip(alpha).and_then(|((name, other), alpha)| {
            Some(format!("{source} states alpha {alpha} and {name} {}; {alpha} is used", other.alpha()?))
        });
        Ok(Self { configs: stated.0, source, multiplied, conflict })
    }

    fn config(&self, network: Network) -> Option<&Config> {
        self.configs.get(&Some(network)).or_else(|| self.configs.get(&None))
    }

    /// The factor of a module's update at strength 1, given its alpha tensor, if there is one. `names` are those that
    /// the module has in the file and here.
    pub fn scale(&self, network: Network, names: &[&str], rank: usize, tensor: Option<f64>) -> f64 {
        if let Some(alpha) = tensor {
            return alpha / rank as f64;
        }
        let Some(config) = self.config(network) else { return 1.0 };
        match config.alpha_of(names) {
            Some(alpha) if config.use_rslora => alpha / (rank as f64).sqrt(),
            Some(alpha) => alpha / rank as f64,
            None => 1.0,
        }
    }

    /// Whether it states the alpha of a module without an alpha tensor.
    pub(super) fn states(&self, network: Network, names: &[&str]) -> bool {
        self.multiplied || self.config(network).is_some_and(|config| config.alpha_of(names).is_some())
    }

    /// Whether it states that modules are DoRA.
    pub(super) fn uses_dora(&self) -> bool {
        self.configs.values().any(|config| config.use_dora)
    }

    /// Whether it reads this field of a header.
    pub fn reads(field: &str) -> bool {
        let inside = PREFIXES.iter().find_map(|(prefix, _)| field.strip_prefix(prefix)).unwrap_or(field);
        [DIFFUSERS, MULTIPLIED.0].contains(&field) || CONFIGS.contains(&field) || ALPHA.contains(&inside)
    }

    /// Assumptions and fields that are left out, as sentences without a full stop.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let configs = self.configs.values();
        let unreadable = configs.clone().flat_map(|config| &config.unreadable);
        let unreadable =
            unreadable.map(|pattern| format!("the alpha_pattern `{pattern}` cannot be read and is left out"));
        let changed = configs.filter_map(|config| config.changes_base.as_ref()).map(|kind| {
            format!("it was trained with init_lora_weights `{kind}`, which changes the base model; the effect differs")
        });
        self.conflict.clone().into_iter().chain(unreadable.take(3)).chain(changed.take(1))
    }
}

/// Each number that is a header field by itself.
fn numbers(header: &BTreeMap<String, String>) -> Result<Option<(&'static str, Stated)>, String> {
    let mut stated = Stated::default();
    for (name, text) in header {
        stated.set(name, &Json::Text(text.clone()))?;
    }
    let is_there = |field: &&'static str| {
        let number = |text: &String| text.trim().parse::<f64>().is_ok();
        let own = header.get(*field).is_some_and(number);
        own || PREFIXES.iter().any(|(prefix, _)| header.get(&format!("{prefix}{field}")).is_some_and(number))
    };
    Ok(ALPHA.into_iter().find(is_there).map(|name| (name, stated)))
}

/// ai-toolkit takes alpha as the rank and ignores its config.
fn is_ai_toolkit(header: &BTreeMap<String, String>) -> bool {
    header.get("software").is_some_and(|text| text.contains("ai-toolkit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &[(&str, &str)], beside: Option<&str>, has_tensors: bool) -> AlphaRule {
        let header = header.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        AlphaRule::read(&header, beside, has_tensors).unwrap()
    }

    fn rule(header: &[(&str, &str)], has_tensors: bool) -> AlphaRule {
        read(header, None, has_tensors)
    }

    #[test]
    fn a_tensor_speaks_first() {
        let rule = rule(&[("ss_network_alpha", "2")], true);
        assert_eq!(rule.scale(Network::Transformer, &["x"], 4, Some(1.0)), 0.25);
        assert_eq!(rule.scale(Network::Transformer, &["x"], 4, None), 1.0, "the header is not a guess for the others");
    }

    #[test]
    fn the_header_of_diffusers_is_read_with_its_prefix() {
        let text =
            r#"{"transformer.r": 3, "transformer.lora_alpha": 6, "transformer.alpha_pattern": {"attn.to_q": 3}}"#;
        let rule = rule(&[("lora_adapter_metadata", text)], false);
        assert_eq!(rule.scale(Network::Transformer, &["transformer_blocks.0.attn.to_k"], 3, None), 2.0);
        assert_eq!(rule.scale(Network::Transformer, &["transformer_blocks.0.attn.to_q"], 3, None), 1.0);
    }

    #[test]
    fn each_network_has_its_own() {
        let rule = rule(
            &[("lora_adapter_metadata", r#"{"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2, "unet.r": 4}"#)],
            false,
        );
        assert_eq!(rule.scale(Network::Unet, &["conv_in"], 4, None), 2.0);
        assert_eq!(rule.scale(Network::TextEncoder, &["text_projection"], 4, None), 0.5);
        assert_eq!(rule.scale(Network::TextEncoder2, &["text_projection"], 4, None), 1.0);
        assert!(!rule.states(Network::TextEncoder2, &["text_projection"]));
    }

    #[test]
    fn rank_stabilised_adapters_divide_by_the_root() {
        for header in [
            ("config", r#"{"lora_alpha": 8, "use_rslora": true}"#),
            ("lora_adapter_metadata", r#"{"unet.use_rslora": true, "unet.lora_alpha": 8}"#),
        ] {
            assert_eq!(rule(&[header], false).scale(Network::Unet, &["x"], 16, None), 2.0, "{header:?}");
        }
    }

    /// Each of these states alpha 1 for rank 4.
    #[test]
    fn every_place_where_a_trainer_states_alpha_is_read() {
        for (header, source) in [
            (&[("ss_network_alpha", "1"), ("ss_network_dim", "4")][..], "ss_network_alpha"),
            (&[("lora_adapter_metadata", r#"{"unet.lora_alpha": 1, "unet.r": 4}"#)], "lora_adapter_metadata"),
            (&[("lora_adapter_metadata", r#"{"lora_alpha": 1, "r": 4}"#)], "lora_adapter_metadata"),
            (&[("lora_alpha", "1"), ("r", "4")], "lora_alpha"),
            (&[("unet.lora_alpha", "1"), ("unet.r", "4")], "lora_alpha"),
            (&[("network_alpha", "1.0")], "network_alpha"),
            (&[("alpha", "1"), ("rank", "4")], "alpha"),
            (&[("config", r#"{"lora_alpha": 1, "r": 4}"#)], "config"),
            (&[("config", r#"{"alpha": 1, "r": 4}"#)], "config"),
            (&[("peft_config", r#"{"default": {"lora_alpha": 1}}"#)], "peft_config"),
            (&[("adapter_config", r#"{"lora_alpha": "1", "alpha_pattern": {}}"#)], "adapter_config"),
            (&[("config", "a config of another kind"), ("alpha", "1")], "alpha"),
        ] {
            let rule = rule(header, false);
            assert_eq!((rule.scale(Network::Unet, &["x"], 4, None), rule.source), (0.25, source), "{header:?}");
            assert!(rule.states(Network::Unet, &["x"]) && rule.warnings().next().is_none(), "{header:?}");
        }
        assert!(!rule(&[("ss_network_alpha", "None")], false).states(Network::Unet, &["x"]));
    }

    #[test]
    fn the_config_beside_the_file_counts() {
        let rule = read(&[("ss_network_alpha", "8")], Some(r#"{"lora_alpha": 4, "r": 8}"#), false);
        assert_eq!((rule.scale(Network::Transformer, &["x"], 8, None), rule.source), (0.5, "adapter_config.json"));
        let warnings: Vec<_> = rule.warnings().collect();
        assert_eq!(warnings, ["adapter_config.json states alpha 4 and ss_network_alpha 8; 4 is used"]);
        assert!(AlphaRule::read(&BTreeMap::new(), Some("{"), false).unwrap_err().contains("adapter_config.json"));
    }

    #[test]
    fn a_file_whose_factors_contain_alpha_is_no_guess() {
        for header in [MULTIPLIED, ("software", r#"{"name": "ai-toolkit"}"#)] {
            let rule = rule(&[header], false);
            assert!(rule.states(Network::Unet, &["x"]));
            assert_eq!(rule.scale(Network::Unet, &["x"], 4, None), 1.0);
        }
        assert!(!rule(&[], false).states(Network::Unet, &["x"]));
    }
}
