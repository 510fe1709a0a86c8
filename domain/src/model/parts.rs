//! Checkpoints in files rather than in diffusers' folders: a file with the denoiser, and each other part in that file,
//! in one beside it (`vae.safetensors`), or in a folder beside it (`vae/`). Where each part is, is detected from the
//! names of tensors; `formats` checks whether they fit.

use std::collections::{BTreeMap, BTreeSet};

use formats::detect::{self, Denoiser};
use formats::folder::{self, Folder};
use formats::networks::agreement;
use formats::{Configs, Header, Traits, scaling, single_file};
pub use formats::{Part, named_as};
use serde_json::Value;

use crate::weights_gate::invalid;
use crate::{Error, Result};

/// A checkpoint in files.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    /// Path of the file with the denoiser.
    pub main: &'a str,
    pub denoiser: Denoiser,
    /// Parts that are in none of the files.
    pub missing: Vec<Part>,
    parts: Vec<(Part, Place<'a>)>,
    /// Sentences for the user about what has no effect.
    pub notes: Vec<String>,
}

/// Where a part is.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    /// The file with the denoiser, or one of the part's own.
    File(&'a str, &'a Header),
    /// A folder with its config.
    Folder,
}

impl<'a> Layout<'a> {
    /// The checkpoint that the files make up; `None` if they hold no denoiser, such as a LoRA. Errors: `Invalid` for
    /// several files without a denoiser, for a denoiser that is not supported, and for a file without the part that it
    /// is named for.
    pub(crate) fn of(weights: &'a BTreeMap<String, Header>, configs: &Configs) -> Result<Option<Self>> {
        let roots: Vec<(&str, &Header)> =
            weights.iter().filter(|(path, _)| !path.contains('/')).map(|(path, header)| (&path[..], header)).collect();
        let mains: Vec<_> =
            roots.iter().filter(|(path, _)| roots.len() == 1 || Part::of_file(path).is_none()).collect();
        let [(main, header)] = mains[..] else {
            if mains.is_empty() && weights.keys().chain(configs.keys()).any(|path| path.contains('/')) {
                let message = "The checkpoint is not complete: `model_index.json` is missing.";
                return Err(Error::invalid("file", message));
            }
            let message = "Send one .safetensors file (a LoRA or a checkpoint), perhaps with its text encoders and VAE \
                           as parts of their own, or a checkpoint's folder with its model_index.json.";
            return Err(Error::invalid("file", message));
        };
        let found = detect::denoiser(header).map_err(invalid)?;
        let Some(denoiser) = found else {
            return match weights.len() {
                1 => Ok(None),
                _ => {
                    let what = detect::other_file(header);
                    let message = format!("`{main}` holds no denoiser that the other parts belong to: {what}.");
                    Err(Error::invalid("file", message))
                }
            };
        };
        let family = denoiser.family;
        let notes = roots.iter().filter_map(|(_, header)| scaling::notes(header)).collect();
        let parts = vec![(family.denoiser(), Place::File(main, header))];
        let mut layout = Layout { main, denoiser, missing: vec![], notes, parts };
        for (path, header) in &roots {
            let checked = scaling::check(header);
            checked.map_err(|reason| Error::invalid("file", format!("`{path}`: {reason}.")))?;
        }
        for part in Part::SEPARABLE {
            let apart = roots.iter().find(|(path, _)| path != main && Part::of_file(path) == Some(part));
            if let Some((path, apart)) = apart
                && family.place_of(part, apart).is_none()
            {
                let what = detect::other_file(apart);
                let message = format!("`{path}` holds no {} of {}: {what}.", part.as_str(), family.title());
                return Err(Error::invalid(part.as_str(), message));
            }
            let place = if configs.contains_key(&format!("{}/config.json", part.as_str())) {
                Some(Place::Folder)
            } else {
                let inside = family.place_of(part, header).map(|_| Place::File(main, header));
                apart.map(|(path, header)| Place::File(path, header)).or(inside)
            };
            match place {
                _ if !family.parts().contains(&part) => {}
                Some(place) => layout.parts.push((part, place)),
                None => layout.missing.push(part),
            }
        }
        Ok(Some(layout))
    }

    /// Whether the engine can load every part. `weights` and `configs` are those of [`Layout::of`]. Errors: `Invalid`
    /// with the parts that are missing and how to supply them, or with the tensors of a part that do not fit. Returns
    /// the config of each network.
    pub(crate) fn check(&self, weights: &BTreeMap<String, Header>, configs: &Configs) -> Result<BTreeMap<Part, Value>> {
        self.check_missing()?;
        let family = self.denoiser.family;
        let paths: BTreeSet<&str> = weights.keys().chain(configs.keys()).map(String::as_str).collect();
        let inside = Folder { paths: &paths, configs, weights };
        let mut networks = BTreeMap::new();
        for (part, place) in &self.parts {
            let config = match place {
                Place::File(path, header) => single_file::check(header, family, *part).map_err(|reason| {
                    let field = if *path == self.main { "file" } else { part.as_str() };
                    Error::invalid(field, format!("`{path}`: {reason}."))
                })?,
                Place::Folder => {
                    inside.check_network(family, *part).cloned().map_err(|reason| Error::invalid("file", reason))?
                }
            };
            networks.insert(*part, config);
        }
        agreement::check(family, &networks).map_err(|reason| Error::invalid("file", folder::misfit(reason)))?;
        Ok(networks)
    }

    fn check_missing(&self) -> Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<_> = self.missing.iter().map(|part| format!("`{}`", part.as_str())).collect();
        let message = format!(
            "`{}` is a {} without its parts {}: give each as a file of its own under that name (on the command line \
             {}), or name a model to take them from as `parts_of` (--like MODEL).",
            self.main,
            self.denoiser.family.title(),
            missing.join(", "),
            self.missing
                .iter()
                .map(|part| format!("--{} FILE", part.as_str().replace('_', "-")))
                .collect::<Vec<_>>()
                .join(" "),
        );
        Err(Error::invalid("file", message))
    }

    /// Pixels per latent of the autoencoder, if it is in a file.
    fn vae_factor(&self) -> Option<u32> {
        self.parts.iter().find_map(|(part, place)| match place {
            Place::File(_, header) if *part == Part::Vae => detect::vae_factor(header),
            _ => None,
        })
    }

    /// What its defaults depend on: its tensors, and the configs of parts in folders.
    pub(crate) fn traits(&self, configs: &Configs) -> Traits {
        let folders = detect::traits_of_folder(self.denoiser.family, configs);
        Traits {
            guidance_embedded: self.denoiser.guidance_embedded,
            vae_factor: self.vae_factor().or(folders.vae_factor),
            ..folders
        }
    }
}

#[cfg(test)]
mod tests {
    use Part::{TextEncoder, TextEncoder2, Vae};
    use serde_json::json;

    use super::super::family;
    use super::super::family::tests::{headed, header};
    use super::*;

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
    fn a_denoiser_that_can_never_run_is_refused_by_its_name() {
        let first = "model.diffusion_model.input_blocks.0.0.weight";
        let refiner = ["conditioner.embedders.0.model.ln_final.weight", "model.diffusion_model.label_emb.0.0.weight"];
        for (header, what) in [
            (header(&[(first, &[320, 8, 3, 3])]), "InstructPix2Pix"),
            (header(&[(first, &[320, 5, 3, 3])]), "Stable Diffusion 2 with depth"),
            (header(&[(first, &[256, 7, 3, 3])]), "the upscaler of Stable Diffusion"),
            (headed(&[first, refiner[0], refiner[1]]), "the refiner of Stable Diffusion XL"),
        ] {
            let weights = BTreeMap::from([("x.safetensors".to_owned(), header)]);
            let message = Layout::of(&weights, &Configs::new()).unwrap_err();
            assert!(matches!(&message, Error::Invalid { field, .. } if field == "file"), "{message}");
            assert!(message.to_string().contains(what), "{message}");
        }
    }

    #[test]
    fn a_folder_with_a_config_holds_a_part_as_the_engine_reads_it() {
        let configs = Configs::from([("vae/config.json".to_owned(), json!({}))]);
        for (file, named) in [("vae/model.safetensors", "`vae/config.json`"), ("vae/model.gguf", "is missing")] {
            let weights = BTreeMap::from([("x.gguf".to_owned(), headed(&FLUX)), (file.to_owned(), headed(&AE))]);
            let layout = Layout::of(&weights, &configs).unwrap().unwrap();
            assert_eq!(layout.missing, [TextEncoder, TextEncoder2], "{file}");
            let layout = Layout { missing: vec![], parts: vec![(Vae, Place::Folder)], ..layout };
            let message = layout.check(&weights, &configs).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn a_part_whose_tensors_do_not_fit_is_named_with_its_file() {
        let weights =
            BTreeMap::from([("x.safetensors".to_owned(), headed(&FLUX)), ("vae.safetensors".to_owned(), headed(&AE))]);
        let layout = Layout::of(&weights, &Configs::new()).unwrap().unwrap();
        let refused = |part: Part, file: &str| {
            let place = Place::File(file, &weights[file]);
            let layout = Layout { missing: vec![], parts: vec![(part, place)], notes: vec![], ..layout };
            layout.check(&weights, &Configs::new()).unwrap_err()
        };
        for (part, file, field) in [(Part::Transformer, "x.safetensors", "file"), (Vae, "vae.safetensors", "vae")] {
            let error = refused(part, file);
            assert!(matches!(&error, Error::Invalid { field: named, .. } if named == field), "{error:?}");
            assert!(error.to_string().contains(&format!("`{file}`: taken for FLUX.1: ")), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_told_with_the_remedy() {
        let weights = BTreeMap::from([("dev.gguf".to_owned(), headed(&FLUX))]);
        let layout = Layout::of(&weights, &Configs::new()).unwrap().unwrap();
        let message = layout.check(&weights, &Configs::new()).unwrap_err().to_string();
        for word in ["dev.gguf", "FLUX.1", "`text_encoder_2`", "--text-encoder-2 FILE", "parts_of", "--like"] {
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_denoiser_and_of_the_autoencoder() {
        let schnell = ("x.safetensors".to_owned(), headed(&FLUX));
        let weights = BTreeMap::from([schnell, ("vae.safetensors".to_owned(), headed(&AE))]);
        let layout = Layout::of(&weights, &Configs::new()).unwrap().unwrap();
        let defaults =
            family::defaults(layout.denoiser.family, layout.traits(&Configs::new()), &Configs::new()).unwrap();
        assert_eq!((defaults.num_inference_steps, defaults.size_multiple), (4, 2));
    }
}
