//! Writes a picture as PNG that tells how it was made.
//!
//! Two text chunks: `parameters`, the line that AUTOMATIC1111's web UI writes and many tools read, and `pyrograph`, a
//! JSON object with everything needed to make the picture again. Nothing that differs between two runs of the same
//! request (time, host) goes in, so that a retry writes the same bytes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use diffusion::WeightStorage;
use serde_json::json;

use crate::protocol::Generate;

/// What the request leaves to the model.
pub(super) struct Recipe {
    /// A1111's name of the model's own solver.
    pub solver: String,
    /// FLUX has two guidance scales, the others one.
    pub is_flux: bool,
    /// How the denoiser's weights are stored here, which changes pictures a little.
    pub weights: WeightStorage,
}

/// Writes `pixels` (RGB, 8 bit, row by row) to `path` and makes the file durable.
pub(super) fn write(
    path: &Path,
    pixels: &[u8],
    size: (u32, u32),
    order: &Generate,
    made: &Recipe,
    seed: u64,
) -> io::Result<()> {
    let png = encode(pixels, size, order, made, seed)?;
    let mut file = File::create_new(path)?;
    file.write_all(&png)?;
    file.sync_all()
}

fn encode(
    pixels: &[u8],
    size: (u32, u32),
    order: &Generate,
    made: &Recipe,
    seed: u64,
) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::with_capacity(pixels.len() / 2);
    let mut encoder = png::Encoder::new(&mut bytes, size.0, size.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in
        [("parameters", parameters(order, made, seed)), ("pyrograph", recipe(order, made, seed).to_string())]
    {
        // tEXt is Latin-1 by the PNG specification; other text needs the international chunk.
        if text.chars().all(|letter| u32::from(letter) < 256) {
            encoder.add_text_chunk(keyword.to_owned(), text)?;
        } else {
            encoder.add_itxt_chunk(keyword.to_owned(), text)?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}

fn recipe(order: &Generate, made: &Recipe, seed: u64) -> serde_json::Value {
    let loras: Vec<_> =
        order.loras.iter().map(|lora| json!({"name": lora.name, "sha256": lora.sha256, "scale": lora.scale})).collect();
    json!({
        "prompt": order.prompt,
        "negative_prompt": order.negative_prompt,
        "seed": seed,
        "num_inference_steps": order.num_inference_steps,
        "guidance_scale": order.guidance_scale,
        "true_cfg_scale": order.true_cfg_scale,
        "width": order.width,
        "height": order.height,
        "source": order.source.as_ref().map(|source| json!({
            "image_sha256": source.image_sha256, "mask_sha256": source.mask_sha256, "strength": source.strength,
        })),
        "scheduler": order.scheduler,
        "clip_skip": order.clip_skip,
        "model": {"name": order.base.name, "sha256": order.base.sha256},
        "loras": loras,
        "weights": made.weights.to_string(),
        "engine": concat!("pyrograph ", env!("CARGO_PKG_VERSION")),
    })
}

fn parameters(order: &Generate, made: &Recipe, seed: u64) -> String {
    let mut text = order.prompt.clone();
    for lora in &order.loras {
        let _ = write!(text, " <lora:{}:{}>", lora.name, lora.scale);
    }
    if let Some(negative) = &order.negative_prompt {
        let _ = write!(text, "\nNegative prompt: {negative}");
    }
    let solver = order.scheduler.as_deref().unwrap_or(&made.solver);
    let _ = write!(text, "\nSteps: {}, Sampler: {solver}", order.num_inference_steps);
    let _ = match made.is_flux {
        true => write!(text, ", CFG scale: {}, Distilled CFG Scale: {}", order.true_cfg_scale, order.guidance_scale),
        false => write!(text, ", CFG scale: {}", order.guidance_scale),
    };
    let _ = write!(
        text,
        ", Seed: {seed}, Size: {}x{}, Model hash: {}, Model: {}",
        order.width,
        order.height,
        short(&order.base.sha256),
        order.base.name,
    );
    if let Some(source) = &order.source {
        let _ = write!(text, ", Denoising strength: {}", source.strength);
    }
    if let Some(layers) = order.clip_skip {
        // Counted from 1 there, where 1 leaves nothing out.
        let _ = write!(text, ", Clip skip: {}", layers + 1);
    }
    if !order.loras.is_empty() {
        let hashes: Vec<_> = order.loras.iter().map(|l| format!("{}: {}", l.name, short(&l.sha256))).collect();
        let _ = write!(text, ", Lora hashes: \"{}\"", hashes.join(", "));
    }
    if made.weights != WeightStorage::Full {
        let _ = write!(text, ", Weights: {}", made.weights);
    }
    let _ = write!(text, ", Version: pyrograph {}", env!("CARGO_PKG_VERSION"));
    text
}

/// The first ten digits, as AUTOMATIC1111 shows hashes.
fn short(sha256: &str) -> &str {
    sha256.get(..10).unwrap_or(sha256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Adapter, Base};

    fn order(prompt: &str) -> Generate {
        Generate {
            request: 1,
            base: Base { folder: "/m".into(), name: "ember".into(), sha256: "ab".repeat(32) },
            loras: vec![Adapter { path: "/l".into(), name: "ink".into(), sha256: "cd".repeat(32), scale: 0.5 }],
            prompt: prompt.into(),
            negative_prompt: Some("blurry".into()),
            num_images: 1,
            num_inference_steps: 4,
            guidance_scale: 3.5,
            true_cfg_scale: 1.0,
            width: 2,
            height: 1,
            source: None,
            scheduler: None,
            clip_skip: None,
            seed: 7,
            preview_every: None,
            vae_approx: None,
            output_dir: "/o".into(),
        }
    }

    fn recipe() -> Recipe {
        Recipe { solver: "Euler".into(), is_flux: true, weights: WeightStorage::Full }
    }

    fn texts(path: &Path) -> (String, serde_json::Value) {
        let reader = png::Decoder::new(io::BufReader::new(File::open(path).unwrap())).read_info().unwrap();
        let info = reader.info();
        let find = |keyword: &str| {
            let plain = info.uncompressed_latin1_text.iter().find(|c| c.keyword == keyword).map(|c| c.text.clone());
            plain.unwrap_or_else(|| info.utf8_text.iter().find(|c| c.keyword == keyword).unwrap().get_text().unwrap())
        };
        (find("parameters"), serde_json::from_str(&find("pyrograph")).unwrap())
    }

    #[test]
    fn a_picture_tells_how_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        for (name, prompt) in [("latin", "a fox, caf\u{e9}"), ("other", "狐 on a hill")] {
            let path = folder.path().join(name);
            write(&path, &[1, 2, 3, 4, 5, 6], (2, 1), &order(prompt), &recipe(), 9).unwrap();
            let (parameters, recipe) = texts(&path);
            assert!(parameters.starts_with(&format!("{prompt} <lora:ink:0.5>\nNegative prompt: blurry\nSteps: 4,")));
            assert!(parameters.contains("Seed: 9, Size: 2x1, Model hash: ababababab, Model: ember"));
            assert_eq!(recipe["prompt"], prompt);
            assert_eq!(recipe["seed"], 9);
            assert_eq!(recipe["weights"], "full");
            assert!(!parameters.contains("Weights"), "the usual is not told");
            assert_eq!(recipe["loras"][0]["sha256"], "cd".repeat(32));
        }
    }

    #[test]
    fn stable_diffusion_tells_its_own_sampler() {
        let (mut order, sd) =
            (order("a fox"), Recipe { solver: "PLMS".into(), is_flux: false, weights: WeightStorage::Int8 });
        assert!(parameters(&order, &sd, 9).contains("Steps: 4, Sampler: PLMS, CFG scale: 3.5, Seed: 9"));
        (order.scheduler, order.clip_skip) = (Some("DPM++ 2M Karras".into()), Some(1));
        let text = parameters(&order, &sd, 9);
        assert!(text.contains("Sampler: DPM++ 2M Karras,") && text.contains("Clip skip: 2"), "{text}");
        assert!(text.contains(", Weights: int8, Version:"), "{text}");
    }

    #[test]
    fn the_same_request_writes_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["1", "2"].map(|name| folder.path().join(name));
        write(&one, &[0; 6], (2, 1), &order("a fox"), &recipe(), 7).unwrap();
        write(&two, &[0; 6], (2, 1), &order("a fox"), &recipe(), 7).unwrap();
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }
}
