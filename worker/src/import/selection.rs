//! Chooses which files of a folder or repository make a model: everything that a diffusers pipeline is loaded from,
//! with each network's weights once, or the single safetensors file. Pure: it sees names only.

use std::collections::BTreeSet;

use domain::model::parts::named_as;
use domain::model::{CONFIG_FILE, config_beside};
use serde_json::Value;

/// Parts of a pipeline that we do not run.
const NOT_RUN: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];
/// How many names an error lists when the user has to choose.
const SHOWN: usize = 8;

pub(crate) const INDEX: &str = "model_index.json";

/// The files of the pipeline that `index` (its `model_index.json`) describes, out of `paths`: configurations,
/// vocabularies, and for each part the plain weights, or those of `variant`. If a part has only one variant, that one
/// is taken.
///
/// # Errors
/// A sentence, if no part has weights of `variant`, or a part has several variants and no plain weights.
pub(crate) fn pipeline<'a>(paths: &[&'a str], index: &Value, variant: Option<&str>) -> Result<Vec<&'a str>, String> {
    let mut chosen: Vec<&str> = paths.iter().copied().filter(|path| [INDEX, "pyrograph.json"].contains(path)).collect();
    let mut variant_found = false;
    for (part, class) in index.as_object().into_iter().flatten() {
        let runs = class.as_array().is_some_and(|class| class.iter().any(|name| !name.is_null()));
        if !runs || NOT_RUN.contains(&part.as_str()) {
            continue;
        }
        let inside = |path: &&&str| {
            path.strip_prefix(part.as_str())
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| !rest.contains('/'))
        };
        let files: Vec<&str> = paths.iter().filter(inside).copied().collect();
        let variants: BTreeSet<Option<&str>> =
            files.iter().filter(|path| is_weights(path)).map(|path| variant_of(path)).collect();
        let wanted = match variants.len() {
            0 => None,
            _ if variant.is_some() && variants.contains(&variant) => {
                variant_found = true;
                variant
            }
            _ if variants.contains(&None) => None,
            1 => variants.first().copied().flatten(),
            _ => {
                let names: Vec<&str> = variants.into_iter().flatten().collect();
                return Err(format!("`{part}` has weights of the variants {}; say which.", names.join(", ")));
            }
        };
        let needed = |path: &&str| {
            if is_weights(path) || path.contains(".safetensors.index") {
                variant_of(path) == wanted
            } else {
                [".json", ".txt", ".model"].iter().any(|end| path.ends_with(end)) && !path.contains(".bin.index")
            }
        };
        chosen.extend(files.into_iter().filter(needed));
    }
    match variant {
        Some(variant) if !variant_found => Err(format!("There are no weights of the variant `{variant}`.")),
        _ => Ok(chosen),
    }
}

/// The only safetensors or GGUF file.
///
/// # Errors
/// A sentence that lists the files found instead.
pub(crate) fn single<'a>(paths: &[&'a str]) -> Result<&'a str, String> {
    let found: Vec<&str> = paths.iter().copied().filter(|path| is_weights(path) || path.ends_with(".gguf")).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] if paths.iter().any(|path| [".bin", ".ckpt", ".pt", ".pth"].iter().any(|end| path.ends_with(end))) => {
            Err("There are only pickles, which are never read; it needs safetensors or GGUF files.".to_owned())
        }
        [] => Err(format!("There is neither a {INDEX} nor a file of weights.")),
        several => {
            let names = several.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
            Err(format!("There are {} files of weights and no {INDEX}; name the one: {names}.", several.len()))
        }
    }
}

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

pub(crate) fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors")
}

/// Parses `fp16` of `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`,
/// `model-00001-of-00002.fp16.safetensors`, `model.safetensors.index.fp16.json` and
/// `model.fp16.safetensors.index.json`.
fn variant_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if let Some(variant) = name.split(".safetensors.index.").nth(1).and_then(|end| end.strip_suffix(".json")) {
        return Some(variant);
    }
    let stem = name.split(".safetensors").next().unwrap_or(name);
    let (_, variant) = stem.rsplit_once('.')?;
    let shard = variant.find("-0").filter(|at| variant[*at..].contains("-of-"));
    Some(shard.map_or(variant, |at| &variant[..at]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index() -> Value {
        json!({"_class_name": "FluxPipeline", "_diffusers_version": "0.30",
               "scheduler": ["diffusers", "X"], "vae": ["diffusers", "Y"],
               "text_encoder": ["transformers", "Z"], "tokenizer": ["transformers", "T"],
               "safety_checker": ["x", "y"], "image_encoder": [null, null]})
    }

    const REPO: [&str; 24] = [
        ".gitattributes",
        "LICENSE.md",
        "README.md",
        "flux1-dev.safetensors",
        "model_index.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.fp16-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "text_encoder/pytorch_model.bin",
        "text_encoder/pytorch_model.bin.index.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/nested/config.json",
        "vae_1/config.json",
    ];

    #[test]
    fn of_a_pipeline_each_part_is_taken_once() {
        let plain = pipeline(&REPO, &index(), None).unwrap();
        assert_eq!(
            plain,
            [
                "model_index.json",
                "scheduler/scheduler_config.json",
                "text_encoder/config.json",
                "text_encoder/model-00001-of-00002.safetensors",
                "text_encoder/model-00002-of-00002.safetensors",
                "text_encoder/model.safetensors.index.json",
                "tokenizer/merges.txt",
                "tokenizer/vocab.json",
                "vae/config.json",
                "vae/diffusion_pytorch_model.safetensors",
            ]
        );
        let half = pipeline(&REPO, &index(), Some("fp16")).unwrap();
        let weights: Vec<_> = half.into_iter().filter(|path| path.contains("safetensors")).collect();
        assert_eq!(
            weights,
            [
                "text_encoder/model.fp16-00001-of-00002.safetensors",
                "text_encoder/model.fp16-00002-of-00002.safetensors",
                "text_encoder/model.safetensors.index.fp16.json",
                "vae/diffusion_pytorch_model.fp16.safetensors",
            ]
        );
        assert!(pipeline(&REPO, &index(), Some("bf16")).unwrap_err().contains("bf16"));
    }

    #[test]
    fn a_part_without_plain_weights() {
        let only = ["vae/config.json", "vae/x.fp16.safetensors"];
        assert_eq!(pipeline(&only, &index(), None).unwrap(), only);
        let two = ["vae/x.bf16.safetensors", "vae/x.fp16.safetensors"];
        assert!(pipeline(&two, &index(), None).unwrap_err().contains("bf16, fp16"));
    }

    #[test]
    fn one_file_alone() {
        assert_eq!(single(&["README.md", "clay.safetensors"]), Ok("clay.safetensors"));
        assert!(single(&["a.ckpt"]).unwrap_err().contains("pickles"));
        assert!(single(&["README.md"]).is_err());
        assert!(single(&["a.safetensors", "b.safetensors"]).unwrap_err().contains("a.safetensors, b.safetensors"));
    }

    #[test]
    fn a_lora_is_its_weights_and_its_config() {
        let repository = ["README.md", "x/adapter_config.json", "x/adapter_model.safetensors"];
        let chosen = with_config(vec![single(&repository).unwrap()], &repository);
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
