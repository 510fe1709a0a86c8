//! Checkpoints that lie in files rather than in diffusers' folders: a file with the denoiser, and each other part in that file, in
//! one beside it (`vae.safetensors`), or in a folder beside it (`vae/`). Which part is where is told by the names of tensors; whether
//! they fit is the engine's to judge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::family::{Configs, Family};
use crate::safetensors_gate::Header;
use crate::{Error, Result};

/// A part that may be given apart from the denoiser, called as its folder in diffusers' layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    TextEncoder,
    #[serde(rename = "text_encoder_2")]
    TextEncoder2,
    Vae,
}

use Part::*;

impl Part {
    pub const ALL: [Self; 3] = [TextEncoder, TextEncoder2, Vae];

    pub const fn as_str(self) -> &'static str {
        match self {
            TextEncoder => "text_encoder",
            TextEncoder2 => "text_encoder_2",
            Vae => "vae",
        }
    }

    /// The part of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.as_str() == name)
    }

    /// Where a file of its own lies in the model, when it was called `file` before.
    pub fn path(self, file: &str) -> String {
        named_as(self.as_str(), file)
    }

    /// The folder of the tokenizer that goes with it.
    pub(crate) const fn tokenizer(self) -> Option<&'static str> {
        match self {
            TextEncoder => Some("tokenizer"),
            TextEncoder2 => Some("tokenizer_2"),
            Vae => None,
        }
    }
}

/// The part that a file beside the denoiser's is.
pub(crate) fn part_of(path: &str) -> Option<Part> {
    path.strip_suffix(".safetensors").or_else(|| path.strip_suffix(".gguf")).and_then(Part::named)
}

/// Whether a file in the model's own folder holds weights.
pub(crate) fn is_root_weights(path: &str) -> bool {
    !path.contains('/') && [".safetensors", ".gguf"].iter().any(|end| path.ends_with(end))
}

/// `name.safetensors`, or `name.gguf` if `file` is called so.
pub fn named_as(name: &str, file: &str) -> String {
    let end = if file.to_ascii_lowercase().ends_with(".gguf") { "gguf" } else { "safetensors" };
    format!("{name}.{end}")
}

/// How the names of tensors begin in a part of a whole model, and where it is alone.
fn beginnings(family: Family, part: Part) -> &'static [&'static str] {
    match (part, family) {
        (Vae, _) => &["first_stage_model.decoder.", "vae.decoder.", "decoder.mid."],
        (TextEncoder, Family::Sd15) => &["cond_stage_model.transformer.", "text_model."],
        (TextEncoder, Family::Sd21) => &["cond_stage_model.model.", "transformer.resblocks."],
        (TextEncoder, Family::Sdxl) => &["conditioner.embedders.0.transformer.", "text_model."],
        (TextEncoder, Family::Flux) => &["text_encoders.clip_l.transformer.", "text_model."],
        (TextEncoder2, Family::Sdxl) => &["conditioner.embedders.1.model.", "transformer.resblocks.", "text_model."],
        (TextEncoder2, Family::Flux) => &["text_encoders.t5xxl.transformer.", "encoder.block.", "enc.blk."],
        (TextEncoder2, Family::Sd15 | Family::Sd21) => &[],
    }
}

fn holds(family: Family, part: Part, header: &Header) -> bool {
    beginnings(family, part).iter().any(|start| header.has(start))
}

/// A checkpoint in files.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    /// Path of the file with the denoiser.
    pub main: &'a str,
    pub family: Family,
    /// Whether the denoiser is told a guidance scale.
    pub guided: bool,
    /// Parts that are nowhere.
    pub missing: Vec<Part>,
    /// Levels of the autoencoder, where it is in a file.
    levels: Option<usize>,
}

impl<'a> Layout<'a> {
    /// What the files make up; `None` if they hold no denoiser, such as a LoRA. Errors: `Invalid` for several files of which none is the
    /// one, and for a part in which nothing of it is.
    pub fn of(weights: &'a BTreeMap<String, Header>, configs: &Configs) -> Result<Option<Self>> {
        let roots: Vec<(&str, &Header)> =
            weights.iter().filter(|(path, _)| !path.contains('/')).map(|(path, header)| (&path[..], header)).collect();
        let mains: Vec<_> = roots.iter().filter(|(path, _)| roots.len() == 1 || part_of(path).is_none()).collect();
        let [(main, header)] = mains[..] else {
            let message = "Send one .safetensors file (a LoRA or a checkpoint), perhaps with its text encoders and VAE as parts of their own, or a checkpoint's folder with its model_index.json.";
            return Err(Error::invalid("file", message));
        };
        let Some(family) = Family::of_denoiser(header) else {
            return match weights.len() {
                1 => Ok(None),
                _ => Err(Error::invalid("file", format!("`{main}` holds no denoiser that the other parts belong to."))),
            };
        };
        let mut layout =
            Layout { main, family, guided: header.has_anywhere("guidance_in."), missing: vec![], levels: None };
        for part in Part::ALL {
            let apart = roots.iter().find(|(path, _)| path != main && part_of(path) == Some(part));
            if let Some((path, apart)) = apart
                && !holds(family, part, apart)
            {
                let message = format!("`{path}` holds no {} of {}.", part.as_str(), family.title());
                return Err(Error::invalid(part.as_str(), message));
            }
            let place = apart.map(|(_, header)| *header).or_else(|| holds(family, part, header).then_some(*header));
            if part == Vae {
                layout.levels = place.map(levels).filter(|levels| *levels > 0);
            }
            let folder = format!("{}/", part.as_str());
            let in_folder = configs.contains_key(&format!("{folder}config.json"))
                && weights.keys().any(|path| path.starts_with(&folder) && path.ends_with(".safetensors"));
            if family.components().contains(&part.as_str()) && place.is_none() && !in_folder {
                layout.missing.push(part);
            }
        }
        Ok(Some(layout))
    }

    /// Errors: `Invalid` with the parts that are missing, and how to give them.
    pub fn check(&self) -> Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<_> = self.missing.iter().map(|part| format!("`{}`", part.as_str())).collect();
        let message = format!(
            "`{}` is a {} without its parts {}: give each as a file of its own under that name (on the command line {}), or name a model to take them from as `parts_of` (--like MODEL).",
            self.main,
            self.family.title(),
            missing.join(", "),
            self.missing
                .iter()
                .map(|part| format!("--{} FILE", part.as_str().replace('_', "-")))
                .collect::<Vec<_>>()
                .join(" "),
        );
        Err(Error::invalid("file", message))
    }

    /// The configs with what the folders of the parts in files would say.
    pub fn configs(&self, configs: &Configs) -> Configs {
        let mut all = configs.clone();
        all.entry("transformer/config.json".into()).or_insert_with(|| json!({"guidance_embeds": self.guided}));
        if let Some(levels) = self.levels {
            all.insert("vae/config.json".into(), json!({"block_out_channels": vec![0; levels]}));
        }
        all
    }
}

/// How many levels the decoder has; each question looks at all names, so no more than any decoder has.
fn levels(header: &Header) -> usize {
    (0..8).take_while(|level| header.has_anywhere(&format!("decoder.up.{level}."))).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors_gate::tests::headed;

    const FLUX: [&str; 2] = ["double_blocks.0.img_attn.qkv.weight", "img_in.weight"];
    const CLIP: &str = "text_model.embeddings.token_embedding.weight";
    const T5: &str = "encoder.block.0.layer.0.SelfAttention.q.weight";
    const AE: [&str; 2] = ["decoder.mid.block_1.conv1.weight", "decoder.up.0.block.0.conv1.weight"];

    fn missing(files: &[(&str, &[&str])]) -> Result<Option<Vec<Part>>> {
        let weights = files.iter().map(|(path, names)| ((*path).to_owned(), headed(names))).collect();
        Ok(Layout::of(&weights, &Configs::new())?.map(|layout| layout.missing))
    }

    #[test]
    fn each_part_is_found_where_it_is() {
        assert_eq!(missing(&[("x.gguf", &FLUX)]).unwrap(), Some(vec![TextEncoder, TextEncoder2, Vae]));
        let given = [("x.safetensors", &FLUX[..]), ("text_encoder.safetensors", &[CLIP]), ("vae.safetensors", &AE)];
        assert_eq!(missing(&given).unwrap(), Some(vec![TextEncoder2]));
        let llama = "enc.blk.0.attn_q.weight";
        let packed = [("x.gguf", &FLUX[..]), ("text_encoder.safetensors", &[CLIP]), ("text_encoder_2.gguf", &[llama])];
        assert_eq!(missing(&packed).unwrap(), Some(vec![Vae]));
        let all_in_one = [
            "model.diffusion_model.double_blocks.0.x",
            "model.diffusion_model.img_in.weight",
            "text_encoders.clip_l.transformer.text_model.x",
            "text_encoders.t5xxl.transformer.encoder.block.0.x",
            "vae.decoder.mid.x",
        ];
        assert_eq!(missing(&[("vae.safetensors", &all_in_one)]).unwrap(), Some(vec![]), "whatever it is called");
        assert_eq!(missing(&[("x.safetensors", &["lora_unet_x.lora_down.weight"])]).unwrap(), None);
        for (what, files) in [
            ("a wrong part", [("x.safetensors", &FLUX[..]), ("vae.safetensors", &[T5])]),
            ("a language model", [("x.gguf", &FLUX), ("text_encoder_2.gguf", &["blk.0.attn_q.weight"])]),
            ("two mains", [("x.safetensors", &FLUX), ("y.safetensors", &AE)]),
            ("no denoiser", [("x.safetensors", &AE), ("text_encoder.safetensors", &[CLIP])]),
        ] {
            assert!(missing(&files).is_err(), "{what}");
        }
    }

    #[test]
    fn a_folder_holds_a_part_as_the_engine_reads_it() {
        let configs = Configs::from([("vae/config.json".to_owned(), json!({}))]);
        for (file, missing) in [("vae/model.safetensors", false), ("vae/model.gguf", true)] {
            let weights = BTreeMap::from([("x.gguf".to_owned(), headed(&FLUX)), (file.to_owned(), headed(&AE))]);
            let layout = Layout::of(&weights, &configs).unwrap().unwrap();
            assert_eq!(layout.missing.contains(&Vae), missing, "{file}");
        }
    }

    #[test]
    fn what_is_missing_is_told_with_the_remedy() {
        let weights = BTreeMap::from([("dev.gguf".to_owned(), headed(&FLUX))]);
        let layout = Layout::of(&weights, &Configs::new()).unwrap().unwrap();
        let told = layout.check().unwrap_err().to_string();
        for word in ["dev.gguf", "FLUX.1", "`text_encoder_2`", "--text-encoder-2 FILE", "parts_of", "--like"] {
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_denoiser_and_of_the_autoencoder() {
        let schnell = ("x.safetensors".to_owned(), headed(&FLUX));
        let weights = BTreeMap::from([schnell, ("vae.safetensors".to_owned(), headed(&AE))]);
        let layout = Layout::of(&weights, &Configs::new()).unwrap().unwrap();
        let defaults = layout.family.defaults(&layout.configs(&Configs::new())).unwrap();
        assert_eq!((defaults.num_inference_steps, defaults.size_multiple), (4, 2));
    }
}
