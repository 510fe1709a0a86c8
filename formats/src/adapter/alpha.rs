//! The strength that an adapter file states. Trainers state it in five places; the first one present is used.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::adapter::Network;

/// Prefixes that diffusers gives to the fields of each network.
const PREFIXES: [(&str, Network); 4] = [
    ("transformer.", Network::Transformer),
    ("unet.", Network::Unet),
    ("text_encoder.", Network::TextEncoder),
    ("text_encoder_2.", Network::TextEncoder2),
];

/// The alpha of modules without an alpha tensor, as the file states it.
#[derive(Debug, Clone)]
pub struct AlphaRule {
    /// By network; the config under `None` applies to all networks.
    configs: BTreeMap<Option<Network>, PeftConfig>,
    /// Where the alpha was found, for display.
    pub source: &'static str,
}

/// The fields of PEFT's config that are used here.
#[derive(Debug, Clone, Default, Deserialize)]
struct PeftConfig {
    lora_alpha: Option<f64>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    #[serde(default)]
    use_rslora: bool,
}

impl AlphaRule {
    /// Reads the header, then `beside`, the text of an `adapter_config.json` in the same folder. `has_tensors`: some
    /// modules have alpha tensors; a global number in the header is then ignored, since it need not apply to the
    /// others. Errors: a sentence.
    pub fn read(header: &BTreeMap<String, String>, beside: Option<&str>, has_tensors: bool) -> Result<Self, String> {
        let broken = |what: &str, error: serde_json::Error| format!("{what}: {error}");
        if let Some(text) = header.get("lora_adapter_metadata") {
            let fields: Map<String, Value> =
                serde_json::from_str(text).map_err(|e| broken("lora_adapter_metadata", e))?;
            // diffusers prefixes each field with the name of the part.
            let mut by_network: BTreeMap<Option<Network>, Map<String, Value>> = BTreeMap::new();
            for (name, value) in fields {
                let own = PREFIXES.iter().find_map(|(prefix, network)| Some((name.strip_prefix(prefix)?, *network)));
                let (field, network) = own.map_or((&*name, None), |(field, network)| (field, Some(network)));
                by_network.entry(network).or_default().insert(field.to_owned(), value);
            }
            let configs = by_network
                .into_iter()
                .map(|(network, fields)| Ok((network, serde_json::from_value(Value::Object(fields))?)));
            let configs =
                configs.collect::<Result<_, serde_json::Error>>().map_err(|e| broken("lora_adapter_metadata", e))?;
            return Ok(Self { configs, source: "lora_adapter_metadata" });
        }
        if let Some(text) = beside {
            let config = serde_json::from_str(text).map_err(|e| broken("adapter_config.json", e))?;
            return Ok(Self { configs: BTreeMap::from([(None, config)]), source: "adapter_config.json" });
        }
        let network = header.get("ss_network_alpha").filter(|_| !has_tensors).and_then(|text| text.trim().parse().ok());
        Ok(Self {
            configs: BTreeMap::from([(None, PeftConfig { lora_alpha: network, ..PeftConfig::default() })]),
            source: match (has_tensors, network) {
                (true, _) => "alpha tensors",
                (false, Some(_)) => "ss_network_alpha",
                (false, None) => "none: alpha is the rank",
            },
        })
    }

    /// The factor of a module's update at strength 1, given its alpha tensor, if there is one.
    pub fn scale(&self, network: Network, module: &str, rank: usize, tensor: Option<f64>) -> f64 {
        if let Some(alpha) = tensor {
            return alpha / rank as f64;
        }
        let Some(config) = self.configs.get(&Some(network)).or_else(|| self.configs.get(&None)) else { return 1.0 };
        let pattern = config.alpha_pattern.iter().find(|(pattern, _)| {
            let pattern = pattern.trim_start_matches('^');
            module == pattern || module.strip_suffix(pattern).is_some_and(|rest| rest.ends_with('.'))
        });
        match pattern.map(|(_, alpha)| *alpha).or(config.lora_alpha) {
            Some(alpha) if config.use_rslora => alpha / (rank as f64).sqrt(),
            Some(alpha) => alpha / rank as f64,
            None => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(header: &[(&str, &str)], has_tensors: bool) -> AlphaRule {
        let header = header.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        AlphaRule::read(&header, None, has_tensors).unwrap()
    }

    #[test]
    fn a_tensor_speaks_first() {
        let rule = rule(&[("ss_network_alpha", "2")], true);
        assert_eq!(rule.scale(Network::Transformer, "x", 4, Some(1.0)), 0.25);
        assert_eq!(rule.scale(Network::Transformer, "x", 4, None), 1.0, "the header is not a guess for the others");
    }

    #[test]
    fn the_header_of_diffusers_is_read_with_its_prefix() {
        let text =
            r#"{"transformer.r": 3, "transformer.lora_alpha": 6, "transformer.alpha_pattern": {"attn.to_q": 3}}"#;
        let rule = rule(&[("lora_adapter_metadata", text)], false);
        assert_eq!(rule.scale(Network::Transformer, "transformer_blocks.0.attn.to_k", 3, None), 2.0);
        assert_eq!(rule.scale(Network::Transformer, "transformer_blocks.0.attn.to_q", 3, None), 1.0);
    }

    #[test]
    fn each_network_has_its_own() {
        let rule = rule(
            &[("lora_adapter_metadata", r#"{"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2, "unet.r": 4}"#)],
            false,
        );
        assert_eq!(rule.scale(Network::Unet, "conv_in", 4, None), 2.0);
        assert_eq!(rule.scale(Network::TextEncoder, "text_projection", 4, None), 0.5);
        assert_eq!(rule.scale(Network::TextEncoder2, "text_projection", 4, None), 1.0);
    }

    #[test]
    fn rank_stabilised_adapters_divide_by_the_root() {
        let rule = rule(&[("lora_adapter_metadata", r#"{"lora_alpha": 8, "use_rslora": true}"#)], false);
        assert_eq!(rule.scale(Network::Transformer, "x", 16, None), 2.0);
    }

    #[test]
    fn a_kohya_header_is_the_last_guess() {
        assert_eq!(rule(&[("ss_network_alpha", "8.0")], false).scale(Network::Transformer, "x", 16, None), 0.5);
        assert_eq!(rule(&[], false).scale(Network::Transformer, "x", 16, None), 1.0);
    }

    #[test]
    fn the_config_beside_the_file_counts() {
        let rule = AlphaRule::read(&BTreeMap::new(), Some(r#"{"lora_alpha": 4, "r": 8}"#), false).unwrap();
        assert_eq!((rule.scale(Network::Transformer, "x", 8, None), rule.source), (0.5, "adapter_config.json"));
    }
}
