//! Finds PEFT's config beside a file of weights.

/// The name of PEFT's config.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Size limit of PEFT's config, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The name that PEFT gives to the weights.
const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// Whether PEFT saved a file of weights of this path, whose alpha is then in its config.
pub fn is_peft(path: &str) -> bool {
    split(path).1 == WEIGHTS_FILE
}

/// The config in the folder of `weights`, out of `paths`. It belongs to them if they have PEFT's own name, or if there
/// are no other weights in the folder.
pub fn config_beside<'a>(weights: &str, paths: &[&'a str]) -> Option<&'a str> {
    let (folder, _) = split(weights);
    let config = paths.iter().copied().find(|path| split(path) == (folder, CONFIG_FILE))?;
    let weights_there = paths.iter().filter(|path| split(path).0 == folder && path.ends_with(".safetensors")).count();
    (is_peft(weights) || weights_there == 1).then_some(config)
}

/// Folder and name of a path.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_belongs_to_the_weights_beside_it() {
        let repository = ["README.md", "adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(config_beside("adapter_model.safetensors", &repository), Some("adapter_config.json"));
        let one = ["x/pytorch_lora_weights.safetensors", "x/adapter_config.json", "other.safetensors"];
        assert_eq!(config_beside(one[0], &one), Some("x/adapter_config.json"));
        assert_eq!(config_beside("other.safetensors", &one), None, "it is in another folder");
        let several = ["adapter_config.json", "adapter_model.safetensors", "ink.safetensors"];
        assert_eq!(config_beside("ink.safetensors", &several), None, "it belongs to PEFT's own file");
        assert_eq!(config_beside("adapter_model.safetensors", &several), Some("adapter_config.json"));
    }
}
