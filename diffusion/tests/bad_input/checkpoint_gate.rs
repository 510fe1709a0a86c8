//! The server's gate and the engine judge a checkpoint by one rule: the parameters that `formats` lists are those of
//! the engine's networks, what the gate accepts can be loaded, and what it refuses is refused by the engine for the
//! same reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{Checkpoint, SingleFile, load_strict};
use diffusion::networks::{clip, flux, t5, unet, vae};
use diffusion::{Error, Keep, LoadOptions, Pipeline, Result};
use formats::folder::Folder;
use formats::networks::{Parameters, agreement};
use formats::{Configs, Family, Part, single_file};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::golden;
use crate::models::copied;

use Family::{Flux, Sd15, Sd21, Sdxl};
use Part::{TextEncoder, TextEncoder2, Transformer, Unet, Vae};

/// Shape by name.
type Shapes = BTreeMap<String, Vec<usize>>;

fn read<C: DeserializeOwned>(config: &Value) -> C {
    serde_json::from_value(config.clone()).unwrap()
}

/// The parameters that the engine's network requests. Allocates nothing: parameters are created on first use.
fn requested(family: Family, part: Part, config: &Value) -> Shapes {
    #[derive(Default)]
    struct Paths {
        path: Vec<String>,
        found: Shapes,
    }
    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, container: &str) {
            if !container.starts_with("Enum:") {
                self.path.push(name.to_owned());
            }
        }
        fn exit_module(&mut self, _name: &str, container: &str) {
            if !container.starts_with("Enum:") {
                self.path.pop();
            }
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.insert(self.path.join("."), param.lazy_shape().dims::<D>().to_vec());
        }
    }
    let (mut paths, device) = (Paths::default(), Device::flex());
    match (family, part) {
        (_, Unet) => unet::UNet2DConditionModel::new(&read(config), &device).visit(&mut paths),
        (_, Transformer) => flux::FluxTransformer::new(&read(config), &device).visit(&mut paths),
        (_, Vae) => vae::Autoencoder::new(&read(config), &device).visit(&mut paths),
        (Flux, TextEncoder2) => t5::T5Encoder::new(&read(config), &device).visit(&mut paths),
        (_, TextEncoder) => clip::ClipTextModel::new(&read(config), &device).visit(&mut paths),
        (_, TextEncoder2) => clip::ClipTextModel::with_projection(&read(config), &device).visit(&mut paths),
    }
    paths.found
}

/// Loads a part as the pipelines do.
fn load(family: Family, part: Part, config: &Value, tensors: Checkpoint) -> Result<()> {
    fn checked<C: DeserializeOwned>(config: &Value, check: fn(&C) -> Result<(), String>) -> Result<C> {
        let config = read(config);
        check(&config).map_err(Error::Invalid).map(|()| config)
    }
    let (device, dtype) = (Device::flex(), DType::F32);
    match (family, part) {
        (_, Unet) => {
            let network = unet::UNet2DConditionModel::new(&checked(config, unet::Config::check)?, &device);
            load_strict(network, &tensors, dtype).map(drop)
        }
        (_, Transformer) => {
            let network = flux::FluxTransformer::new(&checked(config, flux::Config::check)?, &device);
            load_strict(network, &tensors, dtype).map(drop)
        }
        (_, Vae) => {
            let network = vae::Autoencoder::new(&checked(config, vae::Config::check)?, &device);
            load_strict(network, &tensors, dtype).map(drop)
        }
        (Flux, TextEncoder2) => {
            t5::T5Encoder::new(&checked(config, t5::Config::check)?, &device).load(tensors, dtype).map(drop)
        }
        (_, TextEncoder) => {
            clip::ClipTextModel::new(&checked(config, clip::Config::check)?, &device).load(tensors, dtype).map(drop)
        }
        (_, TextEncoder2) => clip::ClipTextModel::with_projection(&checked(config, clip::Config::check)?, &device)
            .load(tensors, dtype)
            .map(drop),
    }
}

/// What an error of the engine says of a file, without its path.
fn reason(error: Error) -> String {
    match error {
        Error::Malformed { reason, .. } => reason,
        Error::Weights { reason, .. } => format!("weights do not fit the network: {reason}"),
        other => other.to_string(),
    }
}

/// Asserts that a part of a single file is judged alike.
fn agreed(what: &str, path: &Path, family: Family, part: Part) -> Result<(), String> {
    let gate = single_file::check(Checkpoint::open(path).unwrap().header(), family, part).map(drop);
    let engine = SingleFile::open(path)
        .and_then(|file| file.part_for(family, part))
        .and_then(|(config, tensors)| load(family, part, &config, tensors))
        .map_err(reason);
    assert_eq!(gate, engine, "{what}");
    gate
}

/// Asserts that a part's folder is judged alike. The gate also names the file.
fn agreed_folder(what: &str, folder: &Path, family: Family, part: Part) -> Result<(), String> {
    let inside = folder.join(part.as_str());
    let (mut paths, mut configs, mut weights) = (BTreeSet::new(), Configs::new(), BTreeMap::new());
    for file in std::fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap().path()) {
        let path = format!("{}/{}", part.as_str(), file.file_name().unwrap().to_str().unwrap());
        if path.ends_with(".json") {
            configs.insert(path.clone(), serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap());
        } else {
            weights.insert(path.clone(), Checkpoint::open(&file).unwrap().header().clone());
        }
        paths.insert(path);
    }
    let paths = paths.iter().map(String::as_str).collect();
    let gate = Folder { paths: &paths, configs: &configs, weights: &weights }.check_network(family, part).map(drop);
    let config = &configs[&format!("{}/config.json", part.as_str())];
    let engine = Checkpoint::open(&inside).and_then(|tensors| load(family, part, config, tensors)).map_err(reason);
    match (&gate, engine) {
        (Ok(()), Ok(())) => {}
        (Err(gate), Err(engine)) => assert!(gate.contains(&engine), "{what}: {gate} is not {engine}"),
        (gate, engine) => panic!("{what}: the gate says {gate:?}, the engine {engine:?}"),
    }
    gate
}

fn list(name: &str) -> Shapes {
    let text = std::fs::read_to_string(golden("keys").join(format!("{name}.txt"))).unwrap();
    let key = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_owned();
        let sides = words.next().unwrap().split('x').filter(|side| *side != "-");
        (name, sides.map(|side| side.parse().unwrap()).collect())
    };
    text.lines().map(key).collect()
}

/// Writes a file of zeros, which takes no disk space.
fn written(path: PathBuf, shapes: &Shapes) -> PathBuf {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in shapes {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(&path).unwrap();
    file.write_all(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
    path
}

fn shapes(parameters: &Parameters) -> Shapes {
    parameters.iter().map(|(key, shape)| (key.to_owned(), shape.to_vec())).collect()
}

fn published(family: Family, part: Part) -> Value {
    serde_json::from_str(family.published_config(part).unwrap()).unwrap()
}

/// Changes to the published configs that add, remove or resize parameters.
fn options(part: Part) -> Vec<Value> {
    match part {
        Unet => vec![
            json!({"in_channels": 9, "time_cond_proj_dim": 256}),
            json!({"use_linear_projection": true, "num_attention_heads": 10, "out_channels": 8}),
            json!({"block_out_channels": [320, 640], "layers_per_block": [1, 3], "attention_head_dim": [5, 10],
                   "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                   "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "transformer_layers_per_block": [2, 3]}),
            json!({"block_out_channels": [320], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
                   "attention_head_dim": 5, "transformer_layers_per_block": 1}),
            json!({"addition_embed_type": "text_time", "addition_time_embed_dim": 256,
                   "projection_class_embeddings_input_dim": 2816}),
            json!({"addition_embed_type": null}),
        ],
        Transformer => vec![
            json!({"guidance_embeds": false, "num_layers": 0}),
            json!({"out_channels": 16, "num_single_layers": 1, "axes_dims_rope": [2, 4, 6], "attention_head_dim": 12}),
        ],
        Vae => vec![
            json!({"use_quant_conv": false, "use_post_quant_conv": true, "mid_block_add_attention": false}),
            json!({"use_quant_conv": true, "use_post_quant_conv": false, "layers_per_block": 1}),
            json!({"block_out_channels": [64], "latent_channels": 3}),
            json!({"block_out_channels": [64, 64, 96], "layers_per_block": 3}),
        ],
        TextEncoder | TextEncoder2 => vec![
            json!({"num_hidden_layers": 0, "projection_dim": 64, "vocab_size": 1000}),
            json!({"intermediate_size": 72, "num_layers": 1, "d_ff": 40, "relative_attention_num_buckets": 16}),
        ],
    }
}

#[test]
fn the_listed_parameters_are_those_of_the_networks() {
    let mut count = 0;
    let mut same = |what: &str, family: Family, part: Part, config: &Value| {
        let listed = Parameters::of(family, part, config).unwrap_or_else(|reason| panic!("{what}: {reason}"));
        assert_eq!(shapes(&listed), requested(family, part, config), "{what}");
        count += 1;
    };
    for family in Family::ALL {
        for part in family.parts() {
            let usual = published(family, *part);
            same(&format!("{part} of {family}"), family, *part, &usual);
            for changed in options(*part) {
                let mut config = usual.clone();
                config.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
                same(&format!("{part} of {family} with {changed}"), family, *part, &config);
            }
        }
    }
    for (pipeline, family) in PIPELINES {
        for part in family.parts() {
            let config = golden(pipeline).join(part.as_str()).join("config.json");
            let Ok(config) = std::fs::read(config) else { continue };
            same(pipeline, family, *part, &serde_json::from_slice(&config).unwrap());
        }
    }
    assert!(count > 80, "{count}");
}

const PIPELINES: [(&str, Family); 7] = [
    ("flux-tiny", Flux),
    ("flux-tiny-cfg", Flux),
    ("lcm-tiny", Sd15),
    ("sd15-inpaint-tiny", Sd15),
    ("sd15-tiny", Sd15),
    ("sd21-tiny", Sd21),
    ("sdxl-tiny", Sdxl),
];

#[test]
fn the_listed_parameters_are_the_published_ones() {
    for (family, part, name) in [
        (Sd15, Unet, "sd1.unet"),
        (Sd21, Unet, "sd2.unet"),
        (Sdxl, Unet, "sdxl.unet"),
        (Flux, Transformer, "flux_dev.transformer"),
        (Sd15, Vae, "vae"),
        (Sd21, Vae, "vae"),
        (Sdxl, Vae, "vae"),
        (Flux, Vae, "flux.vae"),
        (Sd15, TextEncoder, "clip_l"),
        (Sd21, TextEncoder, "open_clip_h"),
        (Sdxl, TextEncoder2, "open_clip_big_g"),
        (Flux, TextEncoder2, "t5_xxl"),
    ] {
        let listed = Parameters::of(family, part, &published(family, part)).unwrap();
        // A matrix may be published as a 1×1 convolution.
        let flat = |shapes: Shapes| -> Shapes {
            let shape = |shape: &[usize]| shape.strip_suffix(&[1, 1]).unwrap_or(shape).to_vec();
            shapes.into_iter().map(|(name, sides)| (name, shape(&sides))).collect()
        };
        assert_eq!(flat(shapes(&listed)), flat(list(name)), "{name}");
    }
}

/// Of files of full size, the engine's network is compared by name and shape alone.
#[test]
fn every_published_file_is_accepted_by_both() {
    let folder = TempDir::new().unwrap();
    let whole = |name: &str, family: Family| {
        family.parts().iter().map(|part| (name.to_owned(), family, *part)).collect::<Vec<_>>()
    };
    let mut cases = [whole("sd1.single", Sd15), whole("sd2.single", Sd21), whole("sdxl.single", Sdxl)].concat();
    cases.extend(whole("flux_comfy.single", Flux));
    for (name, family, part) in [
        ("flux_dev.single", Flux, Transformer),
        ("flux_ae.single", Flux, Vae),
        ("clip_l", Flux, TextEncoder),
        ("clip_l", Sdxl, TextEncoder),
        ("clip_l", Sd15, TextEncoder),
        ("open_clip_big_g", Sdxl, TextEncoder2),
        ("t5_xxl", Flux, TextEncoder2),
        ("t5_llama.single", Flux, TextEncoder2),
    ] {
        cases.push((name.to_owned(), family, part));
    }
    for (name, family, part) in cases {
        let path = written(folder.path().join("file.safetensors"), &list(&name));
        let (config, tensors) = SingleFile::open(&path).unwrap().part_for(family, part).unwrap();
        let gate = single_file::check(Checkpoint::open(&path).unwrap().header(), family, part);
        assert_eq!(gate.as_ref(), Ok(&config), "{part} of {name}");
        let wanted = requested(family, part, &config);
        let engine = tensors.view().check(wanted.iter().map(|(key, shape)| (key.as_str(), shape.as_slice())));
        assert_eq!(engine, Ok(()), "{part} of {name}");
    }
}

/// The parts of the small lists, most of which are complete.
fn small() -> Vec<(&'static str, Family, Part)> {
    let mut all = Vec::new();
    for (name, family) in [("tiny_sd1", Sd15), ("tiny_sd2", Sd21), ("tiny_sdxl", Sdxl), ("tiny_flux", Flux)] {
        all.extend(family.parts().iter().map(|part| (name, family, *part)));
    }
    all
}

#[test]
fn every_small_list_is_judged_alike() {
    let folder = TempDir::new().unwrap();
    let mut accepted = Vec::new();
    for (name, family, part) in small() {
        let path = written(folder.path().join("file.safetensors"), &list(&format!("{name}.single")));
        let judged = agreed(&format!("{part} of {name}"), &path, family, part);
        accepted.extend(judged.is_ok().then_some((name, part)));
    }
    for wanted in [("tiny_sd1", Unet), ("tiny_sd1", Vae), ("tiny_sd1", TextEncoder), ("tiny_sd2", TextEncoder)] {
        assert!(accepted.contains(&wanted), "{accepted:?}");
    }
    assert!(accepted.len() >= 9, "{accepted:?}");
}

/// One tensor is left out, of another shape, or there is one more.
#[test]
fn one_wrong_tensor_of_a_single_file_is_named_alike() {
    let folder = TempDir::new().unwrap();
    let (mut count, mut misshapen) = (0, 0);
    for (name, family, part) in small() {
        let whole = list(&format!("{name}.single"));
        let path = folder.path().join("file.safetensors");
        if agreed("whole", &written(path.clone(), &whole), family, part).is_err() {
            continue;
        }
        let (_, tensors) = SingleFile::open(&path).unwrap().part_for(family, part).unwrap();
        let names: Vec<String> = tensors.names().map(|key| tensors.view().name_in_file(key)).collect();
        for at in [0, names.len() / 3, names.len() / 2, names.len() - 1] {
            let changed = &names[at];
            let what = format!("{part} of {name}: {changed}");
            let mut less = whole.clone();
            less.remove(changed);
            let refused = agreed(&what, &written(path.clone(), &less), family, part).unwrap_err();
            assert!(refused.contains(changed.rsplit_once('.').unwrap().0), "{what}: {refused}");
            let mut wide = whole.clone();
            // Some sizes are those of the config, which is made from the tensors.
            wide.get_mut(changed).unwrap()[0] += 64;
            misshapen += usize::from(agreed(&what, &written(path.clone(), &wide), family, part).is_err());
            let mut more = whole.clone();
            more.insert(format!("{changed}.more"), vec![1]);
            let refused = agreed(&what, &written(path.clone(), &more), family, part).unwrap_err();
            assert!(refused.contains(&format!("1 unused ({changed}.more)")), "{what}: {refused}");
            count += 1;
        }
    }
    assert!(count > 30 && misshapen > 2 * count / 3, "{misshapen} of {count}");
}

#[test]
fn half_an_autoencoder_is_refused_by_both() {
    let folder = TempDir::new().unwrap();
    let whole = list("tiny_sd1.single");
    for gone in ["first_stage_model.encoder.", "first_stage_model.decoder.up", "first_stage_model.decoder."] {
        let half = whole.iter().filter(|(name, _)| !name.starts_with(gone));
        let half = half.map(|(name, shape)| (name.clone(), shape.clone())).collect();
        let refused = agreed(gone, &written(folder.path().join("x.safetensors"), &half), Sd15, Vae).unwrap_err();
        assert!(refused.contains("missing") || refused.contains("there is no autoencoder"), "{gone}: {refused}");
    }
}

/// A folder of one part with these tensors.
fn part_folder(config: &Value, part: Part, files: &[(&str, &Shapes)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let inside = folder.path().join(part.as_str());
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("config.json"), config.to_string()).unwrap();
    for (name, shapes) in files {
        written(inside.join(name), shapes);
    }
    folder
}

const MODEL: &str = "model.safetensors";

#[test]
fn every_committed_folder_is_accepted_by_both() {
    let mut count = 0;
    for (pipeline, family) in PIPELINES {
        for part in family.parts().iter().filter(|part| golden(pipeline).join(part.as_str()).is_dir()) {
            agreed_folder(pipeline, &golden(pipeline), family, *part).unwrap();
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn one_wrong_tensor_of_a_folder_is_named_alike() {
    for (pipeline, family) in [("flux-tiny", Flux), ("sdxl-tiny", Sdxl)] {
        for part in family.parts() {
            let config = std::fs::read(golden(pipeline).join(part.as_str()).join("config.json")).unwrap();
            let config: Value = serde_json::from_slice(&config).unwrap();
            let whole = shapes(&Parameters::of(family, *part, &config).unwrap());
            let judged = |what: &str, shapes: &Shapes| {
                let folder = part_folder(&config, *part, &[(MODEL, shapes)]);
                agreed_folder(&format!("{part} of {pipeline}: {what}"), folder.path(), family, *part)
            };
            judged("whole", &whole).unwrap();
            let names: Vec<&String> = whole.keys().collect();
            let [first, middle] = [names[0], names[names.len() / 2]];
            let mut changed = whole.clone();
            changed.remove(middle);
            let refused = judged("less", &changed).unwrap_err();
            let file = format!("`{}/{MODEL}`: weights do not fit the network: ", part.as_str());
            assert_eq!(refused, format!("{file}1 missing ({middle})."));
            changed.get_mut(first).unwrap()[0] += 1;
            changed.insert("more".to_owned(), vec![2]);
            let refused = judged("all of it", &changed).unwrap_err();
            assert!(
                refused.starts_with(&format!("{file}1 missing ({middle}); 1 unused (more); 1 of the wrong")),
                "{refused}"
            );
            changed.retain(|name, _| name == "more");
            let refused = judged("nothing", &changed).unwrap_err();
            assert!(refused.contains(&format!("{} missing (", whole.len())) && refused.contains(", …)"), "{refused}");
        }
    }
}

#[test]
fn a_shard_without_a_tensor_is_refused_by_both() {
    let config = json!({"block_out_channels": [4, 8], "norm_num_groups": 2, "latent_channels": 4,
                        "layers_per_block": 1});
    let whole = shapes(&Parameters::of(Sd15, Vae, &config).unwrap());
    let (half, mut rest): (Shapes, Shapes) = whole.into_iter().partition(|(name, _)| name.starts_with("decoder."));
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let folder = part_folder(&config, Vae, &[(names[0], &half), (names[1], &rest)]);
    agreed_folder("shards", folder.path(), Sd15, Vae).unwrap();
    rest.remove("quant_conv.weight").unwrap();
    let folder = part_folder(&config, Vae, &[(names[0], &half), (names[1], &rest)]);
    let refused = agreed_folder("a tensor less", folder.path(), Sd15, Vae).unwrap_err();
    assert!(refused.starts_with("`vae`: ") && refused.contains("1 missing (quant_conv.weight)"), "{refused}");
    // An index may leave out a file that is there, which is then not read.
    let index = |shards: &[(&str, &Shapes)]| {
        let entries = shards.iter().flat_map(|(file, shapes)| shapes.keys().map(|name| (name.clone(), json!(*file))));
        json!({"weight_map": entries.collect::<Map<_, _>>()}).to_string()
    };
    let indexed = folder.path().join("vae/model.safetensors.index.json");
    std::fs::write(&indexed, index(&[(names[0], &half)])).unwrap();
    let refused = agreed_folder("a shard less", folder.path(), Sd15, Vae).unwrap_err();
    assert!(refused.contains(" missing (encoder."), "{refused}");
}

/// The configs of a folder's parts, one of them with a change.
#[test]
fn parts_of_two_models_are_refused_by_both() {
    for (pipeline, family, part, field, value) in [
        ("flux-tiny", Flux, Transformer, "pooled_projection_dim", 9),
        ("flux-tiny", Flux, TextEncoder2, "d_model", 9),
        ("flux-tiny", Flux, Vae, "latent_channels", 5),
        ("sd15-tiny", Sd15, Vae, "latent_channels", 5),
        ("sd15-tiny", Sd15, Unet, "in_channels", 5),
        ("sd21-tiny", Sd21, TextEncoder, "hidden_size", 20),
        ("sdxl-tiny", Sdxl, TextEncoder2, "projection_dim", 15),
    ] {
        let folder = copied(pipeline);
        let mut configs: BTreeMap<Part, Value> = BTreeMap::new();
        for part in family.parts() {
            let path = folder.path().join(part.as_str()).join("config.json");
            configs.insert(*part, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap());
        }
        assert_eq!(agreement::check(family, &configs), Ok(()), "{pipeline}");
        configs.get_mut(&part).unwrap()[field] = value.into();
        let inside = folder.path().join(part.as_str());
        std::fs::write(inside.join("config.json"), configs[&part].to_string()).unwrap();
        let gate = agreement::check(family, &configs).unwrap_err();
        let options = LoadOptions { keep: Keep::Denoiser, ..LoadOptions::default() };
        let engine = Pipeline::load_with(folder.path(), &Device::flex(), options).map(drop).map_err(reason);
        assert_eq!(engine, Err(gate), "{pipeline} with {field} = {value}");
    }
}

/// Names and tensors that the engine overlooks.
#[test]
fn what_the_engine_reads_in_a_folder_is_accepted() {
    let tiny = |pipeline: &str, part: Part| -> Value {
        let config = std::fs::read(golden(pipeline).join(part.as_str()).join("config.json")).unwrap();
        serde_json::from_slice(&config).unwrap()
    };
    let judged = |what: &str, family: Family, part: Part, pipeline: &str, change: &dyn Fn(Shapes) -> Shapes| {
        let config = tiny(pipeline, part);
        let shapes = change(shapes(&Parameters::of(family, part, &config).unwrap()));
        agreed_folder(what, part_folder(&config, part, &[(MODEL, &shapes)]).path(), family, part)
    };
    let renamed = |shapes: Shapes, from: &str, to: &str| -> Shapes {
        shapes.into_iter().map(|(name, shape)| (name.replace(from, to), shape)).collect()
    };
    let with = |mut shapes: Shapes, name: &str, shape: &[usize]| {
        shapes.insert(name.to_owned(), shape.to_vec());
        shapes
    };
    let bare = |shapes| renamed(shapes, "text_model.", "");
    judged("no prefix", Sd15, TextEncoder, "sd15-tiny", &bare).unwrap();
    let refused = judged("no prefix, one less", Sd15, TextEncoder, "sd15-tiny", &|shapes| {
        let mut shapes = bare(shapes);
        shapes.remove("final_layer_norm.bias");
        shapes
    });
    assert!(refused.unwrap_err().contains("1 missing (final_layer_norm.bias)"));
    judged("no prefix but a projection", Sdxl, TextEncoder2, "sdxl-tiny", &bare).unwrap_err();
    let positions = "text_model.embeddings.position_ids";
    judged("positions", Sd15, TextEncoder, "sd15-tiny", &|shapes| with(shapes, positions, &[1, 77])).unwrap();
    let copy = "encoder.embed_tokens.weight";
    judged("T5's copy", Flux, TextEncoder2, "flux-tiny", &|shapes| {
        let embedding = shapes["shared.weight"].clone();
        with(shapes, copy, &embedding)
    })
    .unwrap();
    judged("T5's copy alone", Flux, TextEncoder2, "flux-tiny", &|shapes| renamed(shapes, "shared.weight", copy))
        .unwrap();
    judged("old names", Sd15, Vae, "sd15-tiny", &|mut shapes| {
        for (now, old) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")] {
            shapes = renamed(shapes, now, old);
        }
        shapes
    })
    .unwrap();
    judged("convolutions for matrices", Sd15, Unet, "sd15-tiny", &|mut shapes| {
        let projections = shapes.iter_mut().filter(|(name, _)| name.ends_with("proj_in.weight"));
        projections.for_each(|(_, shape)| shape.extend([1, 1]));
        shapes
    })
    .unwrap();
    judged("scales of fp8", Flux, Transformer, "flux-tiny", &|shapes| {
        with(with(shapes, "proj_out.weight_scale", &[]), "proj_out.comfy_quant", &[40])
    })
    .unwrap();
    judged("a scale for each row", Flux, Transformer, "flux-tiny", &|shapes| {
        with(shapes, "proj_out.weight_scale", &[16, 1])
    })
    .unwrap_err();
}
