//! Which further files of a folder or repository belong to a model. `formats::folder` chooses those that a pipeline is
//! loaded from. Pure: it sees names only.

use domain::model::parts::named_as;
use domain::model::{CONFIG_FILE, config_beside};

/// With the weights of a LoRA, adds PEFT's config beside them.
pub(crate) fn with_config<'a>(mut chosen: Vec<&'a str>, paths: &[&'a str]) -> Vec<&'a str> {
    if let [weights] = chosen[..] {
        chosen.extend(config_beside(weights, paths));
    }
    chosen
}

/// The path within the model `name` of a file that was chosen. The file of a LoRA or a checkpoint may have any name,
/// even one that our paths do not allow.
pub(crate) fn path_within(name: &str, path: &str, chosen: &[&str]) -> String {
    let is_config = |path: &str| path.rsplit('/').next() == Some(CONFIG_FILE);
    match chosen.iter().filter(|path| !is_config(path)).count() {
        1 if is_config(path) => CONFIG_FILE.to_owned(),
        1 => named_as(name, path),
        _ => path.to_owned(),
    }
}

/// Whether `path` is the text of a licence.
pub(crate) fn is_license(path: &str) -> bool {
    let name = path.to_ascii_lowercase();
    let stem = name.strip_suffix(".md").or_else(|| name.strip_suffix(".txt")).unwrap_or(&name);
    matches!(stem, "license" | "licence" | "copying")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lora_is_its_weights_and_its_config() {
        let repository = ["README.md", "x/adapter_config.json", "x/adapter_model.safetensors"];
        let chosen = with_config(vec![repository[2]], &repository);
        assert_eq!(chosen, ["x/adapter_model.safetensors", "x/adapter_config.json"]);
        let within: Vec<_> = chosen.iter().map(|path| path_within("ink", path, &chosen)).collect();
        assert_eq!(within, ["ink.safetensors", "adapter_config.json"]);
        assert_eq!(path_within("dev", "Größe.gguf", &["Größe.gguf"]), "dev.gguf");
        let folder = ["model_index.json", "vae/config.json"];
        assert_eq!(path_within("dev", "vae/config.json", &folder), "vae/config.json");
        assert_eq!(with_config(folder.to_vec(), &repository), folder);
    }

    #[test]
    fn licences_by_name() {
        assert!(["LICENSE", "license.md", "LICENCE.txt"].iter().all(|path| is_license(path)));
        assert!(!["vae/LICENSE", "LICENSE.py", "README.md"].iter().any(|path| is_license(path)));
    }
}
