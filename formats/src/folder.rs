//! A checkpoint's folder in diffusers' layout: which of its files a pipeline is loaded from, and whether they are
//! complete. The command line and imports choose files by this module, and the server checks them by it before a model
//! exists.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::networks::{self, Parameters, agreement};
use crate::weights::{self, Weights};
use crate::{Configs, Family, Header, Part, View, detect, scaling, scheduler};

/// The file that names a folder's pipeline and parts.
pub const INDEX: &str = "model_index.json";
/// The file that states a folder's scheduler.
pub const SCHEDULER: &str = "scheduler/scheduler_config.json";
/// Files in the folder itself that are used.
const AT_THE_TOP: [&str; 2] = [INDEX, "pyrograph.json"];
/// Parts of a pipeline that are not run.
const NOT_RUN: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];
/// How many names an error lists when the user has to choose.
const SHOWN: usize = 8;

/// The files of the pipeline that `index` (its `model_index.json`) describes, out of `paths`: configs, vocabularies,
/// and the weights of each part once ([`weights::choose`]).
///
/// # Errors
/// A sentence, if no part has weights of `variant`, if weights are ambiguous, or if shards are missing.
pub fn pipeline<'a>(paths: &[&'a str], index: &Value, variant: Option<&str>) -> Result<Vec<&'a str>, String> {
    let mut chosen: Vec<&str> = paths.iter().copied().filter(|path| AT_THE_TOP.contains(path)).collect();
    let mut variant_found = false;
    for (part, class) in index.as_object().into_iter().flatten() {
        let runs = class.as_array().is_some_and(|class| class.iter().any(|name| !name.is_null()));
        if !runs || NOT_RUN.contains(&part.as_str()) {
            continue;
        }
        let inside = inside(paths.iter().copied(), part);
        let names: Vec<&str> = inside.iter().map(|(name, _)| *name).collect();
        let own = weights::choose(&names, variant).map_err(|reason| format!("`{part}`: {reason}"))?;
        if own.is_none() {
            check_pickle(part, &names)?;
        }
        if let Some(missing) = own.as_ref().and_then(|own| own.missing.first()) {
            return Err(is_missing(&format!("{part}/{missing}")));
        }
        variant_found |= variant.is_some() && own.as_ref().is_some_and(|own| own.variant == variant);
        let needed = |name: &str| {
            if weights::is_weights(name) || weights::is_index(name) {
                own.as_ref().is_some_and(|own| own.files.contains(&name) || own.index == Some(name))
            } else {
                [".json", ".txt", ".model"].iter().any(|end| name.ends_with(end)) && !name.contains(".bin.index")
            }
        };
        chosen.extend(inside.into_iter().filter(|(name, _)| needed(name)).map(|(_, path)| path));
    }
    match variant {
        Some(variant) if !variant_found => Err(format!("There are no weights of the variant `{variant}`.")),
        _ => Ok(chosen),
    }
}

/// The only safetensors or GGUF file of a folder without `model_index.json`.
///
/// # Errors
/// A sentence that lists the files found instead.
pub fn single<'a>(paths: &[&'a str]) -> Result<&'a str, String> {
    let is_weights = |path: &&str| path.ends_with(".safetensors") || path.ends_with(".gguf");
    let found: Vec<&str> = paths.iter().copied().filter(is_weights).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] if paths.iter().any(|path| is_pickle(path)) => {
            Err("There are only pickles, which are never read; it needs safetensors or GGUF files.".to_owned())
        }
        [] => Err(format!("There is neither a {INDEX} nor a file of weights.")),
        several => {
            let names = several.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
            Err(format!("There are {} files of weights and no {INDEX}; name the one: {names}.", several.len()))
        }
    }
}

/// The files of a checkpoint in diffusers' layout.
#[derive(Debug, Clone, Copy)]
pub struct Folder<'a> {
    /// All paths, with those of files that are not read here, such as vocabularies.
    pub paths: &'a BTreeSet<&'a str>,
    pub configs: &'a Configs,
    pub weights: &'a BTreeMap<String, Header>,
}

impl Folder<'_> {
    /// Whether everything is there that the engine reads for a model of `family`. Returns the config of each network,
    /// and notes for the user.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn check(&self, family: Family) -> Result<(BTreeMap<Part, Value>, Vec<String>), String> {
        let mut notes = Vec::new();
        let mut networks = BTreeMap::new();
        for part in family.parts() {
            self.check_class(*part)?;
            networks.insert(*part, self.check_network(family, *part)?.clone());
        }
        agreement::check(family, &networks).map_err(misfit)?;
        if !self.configs.contains_key(SCHEDULER) {
            return Err(is_missing(SCHEDULER));
        }
        for part in family.parts() {
            notes.extend(self.check_tokenizer(family, *part)?);
        }
        notes.extend(self.weights.values().filter_map(scaling::notes));
        Ok((networks, notes))
    }

    /// The part is of the class that its family has here, if `model_index.json` names one.
    fn check_class(&self, part: Part) -> Result<(), String> {
        let class = self.configs.get(INDEX).and_then(|index| index.get(part.as_str())).and_then(Value::as_array);
        let Some(class) = class.and_then(|class| class.last()).and_then(Value::as_str) else { return Ok(()) };
        let known = part.classes();
        if known.contains(&class) {
            return Ok(());
        }
        Err(format!("{INDEX}: `{}` is {class}, and {} is supported.", part.as_str(), known.join(" or ")))
    }

    /// Whether the weights of a network and its config are there, and agree with each other. Returns the config.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn check_network(&self, family: Family, part: Part) -> Result<&Value, String> {
        let folder = part.as_str();
        let config = format!("{folder}/config.json");
        let Some(stated) = self.configs.get(&config) else { return Err(is_missing(&config)) };
        if let Some(quantisation) = stated.get("quantization_config") {
            let method = quantisation.get("quant_method").and_then(Value::as_str).unwrap_or("a method without a name");
            return Err(format!("`{config}`: the weights are quantised by {method}, which is not read."));
        }
        let inside = inside(self.paths.iter().copied(), folder);
        let names: Vec<&str> = inside.iter().map(|(name, _)| *name).collect();
        let chosen = weights::choose(&names, None).map_err(|reason| format!("`{folder}`: {reason}"))?;
        if chosen.is_none() {
            check_pickle(folder, &names)?;
        }
        let Some(chosen) = chosen else { return Err(is_missing(&format!("{folder}/{}", part.usual_file()))) };
        let files = self.shards(folder, &chosen)?;
        let mut whole = Header::default();
        for (file, header) in &files {
            if let Some(quantised) = detect::quantised(header) {
                return Err(format!("`{folder}/{file}`: {quantised}."));
            }
            scaling::check(header).map_err(|reason| format!("`{folder}/{file}`: {reason}."))?;
            whole.tensors.extend(header.tensors.clone());
        }
        let place = match files[..] {
            [(file, _)] => format!("{folder}/{file}"),
            _ => folder.to_owned(),
        };
        let wanted = Parameters::of(family, part, stated).map_err(|reason| format!("`{config}`: {reason}."))?;
        let view = View::of_folder(&whole).and_then(|view| networks::check(family, part, &wanted, view));
        view.map_err(|reason| format!("`{place}`: {reason}."))?;
        Ok(stated)
    }

    /// The files that a network is read from: those that its index names, or the chosen ones.
    fn shards<'a>(&'a self, folder: &str, chosen: &Weights<'a>) -> Result<Vec<(&'a str, &'a Header)>, String> {
        let header = |file: &str| self.weights.get(&format!("{folder}/{file}"));
        let mut files = chosen.files.clone();
        if let Some(index) = chosen.index {
            let path = format!("{folder}/{index}");
            let stated = self.configs.get(&path).ok_or_else(|| format!("`{path}` is too long for an index."))?;
            let stated = weights::shards_of_index(stated).map_err(|reason| format!("`{path}`: {reason}."))?;
            for (tensor, file) in &stated {
                let Some(header) = header(file) else {
                    return Err(format!("`{folder}/{file}` is missing, and `{path}` names it."));
                };
                if !header.tensors.contains_key(*tensor) {
                    return Err(format!("`{folder}/{file}` has no tensor {tensor}, and `{path}` states one."));
                }
            }
            files = stated.into_values().collect::<BTreeSet<_>>().into_iter().collect();
        }
        if let Some(missing) = chosen.missing.first() {
            return Err(is_missing(&format!("{folder}/{missing}")));
        }
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        let mut read = Vec::new();
        for file in files {
            let Some(header) = header(file) else { return Err(is_missing(&format!("{folder}/{file}"))) };
            for tensor in header.tensors.keys() {
                if let Some(other) = seen.insert(tensor, file) {
                    return Err(format!("`{folder}`: {tensor} is in {other} and in {file}."));
                }
            }
            read.push((file, header));
        }
        Ok(read)
    }

    /// The tokenizer of a text encoder is there.
    fn check_tokenizer(&self, family: Family, part: Part) -> Result<Option<String>, String> {
        let Some(folder) = part.tokenizer() else { return Ok(None) };
        let has = |file: &str| self.paths.contains(format!("{folder}/{file}").as_str());
        let is_clip = !(family == Family::Flux && part == Part::TextEncoder2);
        if !has("tokenizer.json") {
            let needed: &[&str] = if is_clip { &["vocab.json", "merges.txt"] } else { &["tokenizer.json"] };
            if let Some(missing) = needed.iter().find(|file| !has(file)) {
                return Err(is_missing(&format!("{folder}/{missing}")));
            }
        }
        if is_clip {
            self.check_added_words(folder, part)?;
        }
        if has("tokenizer_config.json") {
            return Ok(None);
        }
        let (length, padding) = if is_clip { ("77", "<|endoftext|>") } else { ("512", "<pad>") };
        Ok(Some(format!(
            "`{folder}/tokenizer_config.json` is missing: prompts are read as {length} tokens, padded with {padding}."
        )))
    }
}

impl Folder<'_> {
    /// The text encoder has a row for each word that was added to its tokenizer.
    fn check_added_words(&self, tokenizer: &str, part: Part) -> Result<(), String> {
        let config = self.configs.get(&format!("{}/config.json", part.as_str()));
        let Some(rows) = config.and_then(|config| config.get("vocab_size")).and_then(Value::as_u64) else {
            return Ok(());
        };
        let file = |name: &str| self.configs.get(&format!("{tokenizer}/{name}")).and_then(Value::as_object);
        let legacy = file("added_tokens.json").into_iter().flatten();
        let legacy = legacy.filter_map(|(word, id)| Some((word.as_str(), id.as_u64()?)));
        let decoder = file("tokenizer_config.json").and_then(|config| config.get("added_tokens_decoder"));
        let decoder = decoder.and_then(Value::as_object).into_iter().flatten();
        let decoder = decoder.filter_map(|(id, word)| Some((word.get("content")?.as_str()?, id.parse().ok()?)));
        match legacy.chain(decoder).find(|(_, id)| *id >= rows) {
            Some((word, id)) => Err(format!(
                "`{tokenizer}`: the word `{word}` was added with the id {id}, and the text encoder has {rows} rows."
            )),
            None => Ok(()),
        }
    }
}

impl Part {
    /// The classes that this crate's readers know for a part in a folder.
    const fn classes(self) -> &'static [&'static str] {
        match self {
            Self::Unet => &["UNet2DConditionModel"],
            Self::Transformer => &["FluxTransformer2DModel"],
            Self::Vae => &["AutoencoderKL"],
            Self::TextEncoder => &["CLIPTextModel", "CLIPTextModelWithProjection"],
            Self::TextEncoder2 => &["CLIPTextModelWithProjection", "T5EncoderModel"],
        }
    }

    /// The usual name of the file with its weights.
    const fn usual_file(self) -> &'static str {
        match self {
            Self::Unet | Self::Transformer | Self::Vae => "diffusion_pytorch_model.safetensors",
            Self::TextEncoder | Self::TextEncoder2 => "model.safetensors",
        }
    }
}

/// What a checkpoint's scheduler means for requests: `None` if it runs, otherwise why a request has to name another.
///
/// # Errors
/// A sentence, if the config leaves nothing that any scheduler could run with.
pub fn scheduler(family: Family, configs: &Configs) -> Result<Option<String>, String> {
    let Some(config) = configs.get(SCHEDULER) else { return Ok(None) };
    scheduler::of_checkpoint(family, config).map_err(|reason| format!("`{SCHEDULER}`: {reason}."))
}

/// The files directly in `folder`, by name and by path.
fn inside<'a>(paths: impl IntoIterator<Item = &'a str>, folder: &str) -> Vec<(&'a str, &'a str)> {
    let name = |path: &'a str| path.strip_prefix(folder)?.strip_prefix('/').filter(|name| !name.contains('/'));
    paths.into_iter().filter_map(|path| Some((name(path)?, path))).collect()
}

/// A sentence about parts that are not of one model.
pub fn misfit(reason: String) -> String {
    format!("The parts do not fit each other: {reason}.")
}

/// Refuses a pickle where weights are missing.
fn check_pickle(folder: &str, names: &[&str]) -> Result<(), String> {
    match names.iter().find(|name| is_pickle(name)) {
        Some(pickle) => Err(format!(
            "`{folder}` has no .safetensors file, and `{folder}/{pickle}` is a pickle, which is never read."
        )),
        None => Ok(()),
    }
}

fn is_pickle(path: &str) -> bool {
    [".bin", ".ckpt", ".pt", ".pth"].iter().any(|end| path.ends_with(end))
}

fn is_missing(path: &str) -> String {
    format!("The checkpoint is not complete: `{path}` is missing.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Tensor, TensorType};

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
        let only = ["vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors"];
        assert_eq!(pipeline(&only, &index(), None).unwrap(), only);
        let two = ["vae/x.ema.safetensors", "vae/x.non_ema.safetensors"];
        assert!(pipeline(&two, &index(), None).unwrap_err().contains("ema, non_ema"));
        let cut = ["vae/x-00001-of-00002.safetensors"];
        assert!(pipeline(&cut, &index(), None).unwrap_err().contains("vae/x-00002-of-00002.safetensors"));
    }

    #[test]
    fn one_file_alone() {
        assert_eq!(single(&["README.md", "clay.safetensors"]), Ok("clay.safetensors"));
        assert!(single(&["a.ckpt"]).unwrap_err().contains("pickles"));
        assert!(single(&["README.md"]).is_err());
        assert!(single(&["a.safetensors", "b.safetensors"]).unwrap_err().contains("a.safetensors, b.safetensors"));
    }

    /// A complete checkpoint, whose UNet is in two shards: paths, configs and headers.
    fn whole() -> (BTreeSet<&'static str>, Configs, BTreeMap<String, Header>) {
        let paths = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        let mut configs: Configs =
            paths.iter().filter(|path| path.ends_with(".json")).map(|path| ((*path).to_owned(), json!({}))).collect();
        let mut weights = BTreeMap::new();
        let unet = json!({"block_out_channels": [4], "down_block_types": ["DownBlock2D"], "norm_num_groups": 2,
                          "up_block_types": ["UpBlock2D"], "cross_attention_dim": 6, "attention_head_dim": 2});
        let vae = json!({"block_out_channels": [4], "norm_num_groups": 2, "latent_channels": 4,
                         "layers_per_block": 1});
        let clip = json!({"hidden_size": 6, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 700,
                          "num_hidden_layers": 1});
        for (part, config, files) in
            [(Part::TextEncoder, clip, &paths[3..4]), (Part::Unet, unet, &paths[8..10]), (Part::Vae, vae, &paths[12..])]
        {
            let tensor = |shape: &[usize]| Tensor { kind: TensorType::F32, shape: shape.to_vec(), start: 0, length: 4 };
            let wanted = Parameters::of(Family::Sd15, part, &config).unwrap();
            for (at, (key, shape)) in wanted.iter().enumerate() {
                let header: &mut Header = weights.entry(files[at % files.len()].to_owned()).or_default();
                header.tensors.insert(key.to_owned(), tensor(shape));
            }
            configs.insert(format!("{}/config.json", part.as_str()), config);
        }
        let shards = paths[8..10].iter().map(|path| (path.strip_prefix("unet/").unwrap(), &weights[*path].tensors));
        let map: serde_json::Map<String, Value> =
            shards.flat_map(|(file, tensors)| tensors.keys().map(move |name| (name.clone(), json!(file)))).collect();
        configs.insert(paths[10].to_owned(), json!({"weight_map": map}));
        (paths.into(), configs, weights)
    }

    #[test]
    fn a_pickle_in_place_of_weights_is_named() {
        let only = ["vae/config.json", "vae/diffusion_pytorch_model.bin"];
        let refused = pipeline(&only, &json!({"vae": ["a", "b"]}), None).unwrap_err();
        assert!(refused.contains("`vae/diffusion_pytorch_model.bin` is a pickle"), "{refused}");
        let (mut paths, configs, mut weights) = whole();
        paths.retain(|path| !path.ends_with("vae/diffusion_pytorch_model.safetensors"));
        weights.retain(|path, _| !path.starts_with("vae/"));
        paths.insert(only[1]);
        let refused = Folder { paths: &paths, configs: &configs, weights: &weights }.check(Family::Sd15).unwrap_err();
        assert!(refused.contains("is a pickle, which is never read"), "{refused}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = |gone: &str| {
            let (mut paths, mut configs, mut weights) = whole();
            paths.retain(|path| !path.starts_with(gone));
            configs.retain(|path, _| !path.starts_with(gone));
            weights.retain(|path, _| !path.starts_with(gone));
            Folder { paths: &paths, configs: &configs, weights: &weights }.check(Family::Sd15).map(|(_, notes)| notes)
        };
        assert_eq!(check("nothing"), Ok(vec![]));
        assert_eq!(check("unet/diffusion_pytorch_model.safetensors.index.json"), Ok(vec![]), "shards without an index");
        let notes = check("tokenizer/tokenizer_config.json").unwrap();
        assert!(notes[0].contains("tokenizer/tokenizer_config.json") && notes[0].contains("77"), "{notes:?}");
        for (gone, named) in [
            ("scheduler", "scheduler/scheduler_config.json"),
            ("text_encoder/config.json", "text_encoder/config.json"),
            ("text_encoder/model.safetensors", "text_encoder/model.safetensors"),
            ("tokenizer", "tokenizer/vocab.json"),
            ("tokenizer/merges.txt", "tokenizer/merges.txt"),
            ("unet/diffusion_pytorch_model-00002", "unet/diffusion_pytorch_model-00002-of-00002.safetensors"),
            ("vae/diffusion", "vae/diffusion_pytorch_model.safetensors"),
            ("vae", "vae/config.json"),
        ] {
            let refused = check(gone).unwrap_err();
            assert!(refused.contains(&format!("`{named}` is missing")), "{gone}: {refused}");
        }
    }

    #[test]
    fn an_added_word_needs_a_row() {
        let check = |file: &str, content: Value, rows: u64| {
            let (mut paths, mut configs, mut weights) = whole();
            paths.insert("tokenizer/added_tokens.json");
            configs.insert(format!("tokenizer/{file}"), content);
            configs.get_mut("text_encoder/config.json").unwrap()["vocab_size"] = rows.into();
            let embedding = "text_model.embeddings.token_embedding.weight";
            let text_encoder = weights.get_mut("text_encoder/model.safetensors").unwrap();
            text_encoder.tensors.get_mut(embedding).unwrap().shape[0] = rows as usize;
            Folder { paths: &paths, configs: &configs, weights: &weights }.check(Family::Sd15).map(|(_, notes)| notes)
        };
        for (file, content) in [
            ("added_tokens.json", json!({"<cat>": 658})),
            ("tokenizer_config.json", json!({"added_tokens_decoder": {"658": {"content": "<cat>"}}})),
        ] {
            assert_eq!(check(file, content.clone(), 659), Ok(vec![]), "{file}");
            assert!(check(file, content, 658).unwrap_err().contains("`<cat>`"), "{file}");
        }
    }

    #[test]
    fn tensors_that_do_not_fit_the_config_are_named() {
        const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
        let refused = |path: &str, change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
            let (paths, mut configs, mut weights) = whole();
            // Without the index, which would also miss the tensor.
            configs.remove("unet/diffusion_pytorch_model.safetensors.index.json");
            let paths = paths.into_iter().filter(|path| !path.ends_with("index.json")).collect();
            change(&mut weights.get_mut(path).unwrap().tensors);
            Folder { paths: &paths, configs: &configs, weights: &weights }.check(Family::Sd15).unwrap_err()
        };
        let message = refused(VAE, &|tensors| drop(tensors.remove("decoder.conv_in.bias")));
        assert_eq!(message, format!("`{VAE}`: weights do not fit the network: 1 missing (decoder.conv_in.bias)."));
        let message = refused(VAE, &|tensors| tensors.get_mut("decoder.conv_in.bias").unwrap().shape = vec![5]);
        assert!(message.ends_with("1 of the wrong shape (decoder.conv_in.bias: [5] instead of [4])."), "{message}");
        let message = refused(VAE, &|tensors| {
            let bias = tensors["decoder.conv_in.bias"].clone();
            tensors.insert("more".to_owned(), bias);
        });
        assert!(message.ends_with("1 unused (more)."), "{message}");
        let message = refused(VAE, &|tensors| tensors.retain(|name, _| !name.starts_with("encoder.")));
        assert!(message.contains(" missing (encoder.") && message.ends_with(", …)."), "{message}");
        let shard = "unet/diffusion_pytorch_model-00002-of-00002.safetensors";
        let message = refused(shard, &|tensors| drop(tensors.pop_first()));
        assert!(message.starts_with("`unet`: ") && message.contains("1 missing ("), "{message}");
        let message = refused("text_encoder/model.safetensors", &|tensors| {
            tensors.values_mut().for_each(|tensor| tensor.kind = TensorType::I32);
        });
        assert!(message.contains("text_encoder/model.safetensors"), "{message}");
    }

    #[test]
    fn parts_of_two_models_are_refused() {
        let (paths, mut configs, mut weights) = whole();
        let config = configs.get_mut("vae/config.json").unwrap();
        config["latent_channels"] = json!(5);
        let wanted = Parameters::of(Family::Sd15, Part::Vae, config).unwrap();
        let vae = &mut weights.get_mut("vae/diffusion_pytorch_model.safetensors").unwrap().tensors;
        wanted.iter().for_each(|(key, shape)| vae.get_mut(key).unwrap().shape = shape.to_vec());
        let refused = Folder { paths: &paths, configs: &configs, weights: &weights }.check(Family::Sd15).unwrap_err();
        assert!(
            refused.contains("do not fit each other: no pipeline has a UNet from 4 to 4 channels for 5"),
            "{refused}"
        );
    }

    #[test]
    fn what_is_not_read_is_named() {
        let refused = |change: &dyn Fn(&mut Configs)| {
            let (paths, mut configs, weights) = whole();
            change(&mut configs);
            Folder { paths: &paths, configs: &configs, weights: &weights }.check(Family::Sd15).unwrap_err()
        };
        let tiny = json!({"vae": ["diffusers", "AutoencoderTiny"]});
        let message = refused(&|configs| drop(configs.insert(INDEX.into(), tiny.clone())));
        assert!(message.contains("AutoencoderTiny") && message.contains("AutoencoderKL"), "{message}");
        let quantised = json!({"quantization_config": {"quant_method": "bitsandbytes"}});
        let message = refused(&|configs| drop(configs.insert("unet/config.json".into(), quantised.clone())));
        assert!(message.contains("bitsandbytes"), "{message}");
        let strange = json!({"weight_map": {"c": "diffusion_pytorch_model-00001-of-00002.safetensors"}});
        let message = refused(&|configs| {
            configs.insert("unet/diffusion_pytorch_model.safetensors.index.json".into(), strange.clone());
        });
        assert!(message.contains("no tensor c"), "{message}");
    }
}
