//! Checks that the server's gate and the engine's reader agree on what a file is: every committed list of keys, as
//! safetensors and as GGUF, and files that only look like models we run. Files of full size are sparse.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use diffusion::checkpoint::SingleFile;
use formats::{Family, Sniffer, detect};

type Keys = Vec<(String, Vec<usize>)>;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../diffusion/tests/goldens/keys")
}

fn list(name: &str) -> Keys {
    let text = std::fs::read_to_string(goldens().join(format!("{name}.txt"))).unwrap();
    let key = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_owned();
        let sides = words.next().unwrap().split('x').filter(|side| *side != "-");
        (name, sides.map(|side| side.parse().unwrap()).collect())
    };
    text.lines().map(key).collect()
}

/// The denoiser of a whole model as a separate file.
fn denoiser_of(keys: &Keys) -> Keys {
    let own = |(name, shape): &(String, Vec<usize>)| {
        Some((name.strip_prefix("model.diffusion_model.")?.to_owned(), shape.clone()))
    };
    keys.iter().filter_map(own).collect()
}

/// Changes the sizes of the key `name`, or adds the key.
fn with(mut keys: Keys, changes: &[(&str, &[usize])]) -> Keys {
    for (name, shape) in changes {
        keys.retain(|(known, _)| known != name);
        keys.push(((*name).to_owned(), shape.to_vec()));
    }
    keys
}

fn safetensors(keys: &Keys) -> (Vec<u8>, u64) {
    let (mut text, mut at) = (String::from("{"), 0);
    for (name, shape) in keys {
        let from = at;
        at += 2 * shape.iter().product::<usize>();
        let comma = if from == 0 && text.len() == 1 { "" } else { "," };
        write!(text, r#"{comma}"{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{from},{at}]}}"#).unwrap();
    }
    text.push('}');
    ([&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat(), at as u64)
}

/// As ComfyUI-GGUF writes it: convolutions become matrices, and their shape is recorded.
fn gguf(keys: &Keys) -> (Vec<u8>, u64) {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let (mut metadata, mut tensors, mut entries, mut at) = (Vec::new(), Vec::new(), 0_u64, 0);
    for (name, shape) in keys {
        let mut stored = shape.clone();
        if shape.len() > 2 {
            let sides: Vec<u8> = shape.iter().flat_map(|side| (*side as i32).to_le_bytes()).collect();
            let list = [&9_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), &(shape.len() as u64).to_le_bytes(), &sides];
            metadata.extend([&text(&format!("comfy.gguf.orig_shape.{name}"))[..], &list.concat()].concat());
            entries += 1;
            stored = vec![shape[0], shape[1..].iter().product()];
        }
        let sides: Vec<u8> = stored.iter().rev().flat_map(|side| (*side as u64).to_le_bytes()).collect();
        let rank = (stored.len() as u32).to_le_bytes();
        tensors.extend([&text(name)[..], &rank, &sides, &1_u32.to_le_bytes(), &(at as u64).to_le_bytes()].concat());
        at = (at + 2 * stored.iter().product::<usize>()).next_multiple_of(32);
    }
    let counts = [(keys.len() as u64).to_le_bytes(), entries.to_le_bytes()].concat();
    let mut all = [b"GGUF", &3_u32.to_le_bytes()[..], &counts, &metadata, &tensors].concat();
    all.resize(all.len().next_multiple_of(32), 0);
    (all, at as u64)
}

/// How the server's gate classifies the bytes of an upload.
fn server(header: &[u8], bytes: u64) -> Result<Option<Family>, String> {
    let mut sniffer = Sniffer::default();
    sniffer.push(header).unwrap();
    let header = sniffer.finish(bytes).unwrap();
    let found = detect::denoiser(&header).map_err(|what| what.to_string())?;
    Ok(found.map(|denoiser| denoiser.family))
}

/// How the engine classifies the file.
fn engine(path: &Path) -> Result<Option<Family>, String> {
    SingleFile::open(path).map(|file| file.family()).map_err(|error| error.to_string())
}

/// The expected classification for each list of keys; an error contains part of the message.
fn expected(name: &str) -> Result<Option<Family>, &'static str> {
    Ok(match name {
        "sd1.single" | "tiny_sd1.single" | "sd1, denoiser alone" | "inpainting" => Some(Family::Sd15),
        "sd2.single" | "tiny_sd2.single" | "sd2, denoiser alone" => Some(Family::Sd21),
        "sdxl.single" | "tiny_sdxl.single" | "sdxl, denoiser alone" => Some(Family::Sdxl),
        "flux_dev.single" | "flux_comfy.single" | "tiny_flux.single" => Some(Family::Flux),
        "InstructPix2Pix" => return Err("InstructPix2Pix"),
        "depth" => return Err("Stable Diffusion 2 with depth"),
        "x4-upscaler" => return Err("the upscaler of Stable Diffusion"),
        "refiner" => return Err("the refiner of Stable Diffusion XL"),
        "unCLIP" => return Err("Stable unCLIP"),
        "FLUX.2" => return Err("FLUX.2"),
        "Chroma" => return Err("Chroma"),
        _ => None,
    })
}

#[test]
fn server_and_engine_agree_on_what_a_file_is() {
    let first = "model.diffusion_model.input_blocks.0.0.weight";
    let refiner = [
        ("model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight", &[1280, 1280][..]),
        ("conditioner.embedders.0.model.ln_final.weight", &[1280]),
    ];
    let mut files: Vec<(String, Keys)> = std::fs::read_dir(goldens())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .map(|name| (name.clone(), list(&name)))
        .collect();
    for name in ["sd1", "sd2", "sdxl"] {
        files.push((format!("{name}, denoiser alone"), denoiser_of(&list(&format!("{name}.single")))));
    }
    files.push(("InstructPix2Pix".into(), with(list("sd1.single"), &[(first, &[320, 8, 3, 3])])));
    files.push(("inpainting".into(), with(list("sd1.single"), &[(first, &[320, 9, 3, 3])])));
    files.push(("depth".into(), with(list("sd2.single"), &[(first, &[320, 5, 3, 3])])));
    files.push(("x4-upscaler".into(), with(list("sd2.single"), &[(first, &[256, 7, 3, 3])])));
    files.push(("refiner".into(), with(list("sdxl.single"), &refiner)));
    files.push(("unCLIP".into(), with(list("sd2.single"), &[("embedder.model.visual.proj", &[4, 4])])));
    files.push(("FLUX.2".into(), with(list("flux_dev.single"), &[("single_stream_modulation.lin.weight", &[4, 4])])));
    files.push(("Chroma".into(), with(list("flux_dev.single"), &[("distilled_guidance_layer.x", &[4, 4])])));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for (name, keys) in &files {
        for (format, (header, data)) in [("safetensors", safetensors(keys)), ("GGUF", gguf(keys))] {
            let bytes = header.len() as u64 + data;
            let mut file = File::create(&path).unwrap();
            file.write_all(&header).unwrap();
            file.set_len(bytes).unwrap();
            let what = format!("{name} as {format}");
            match (expected(name), server(&header, bytes), engine(&path)) {
                (Ok(Some(family)), server, engine) => {
                    assert_eq!((server, engine), (Ok(Some(family)), Ok(Some(family))), "{what}");
                }
                // The engine also refuses a file that is not a part by itself; the server may take it for an adapter.
                (Ok(None), server, engine) => {
                    assert_eq!(server, Ok(None), "{what}");
                    assert!(matches!(engine, Ok(None) | Err(_)), "{what}: {engine:?}");
                }
                (Err(kind), server, engine) => {
                    let (server, engine) = (server.unwrap_err(), engine.unwrap_err());
                    assert!(server.contains(kind) && engine.contains(&server), "{what}: {server}; {engine}");
                }
            }
        }
    }
}
