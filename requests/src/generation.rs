//! The parameters of a generation.

use formats::Scheduler;
use serde::{Deserialize, Serialize};

use crate::{OutputFormat, PromptSyntax};

/// The parameters of a generation, validated and complete.
// Stored as JSON in its row: a new field needs a default, so that older rows can be read. `P` refers to a picture: an
// object in the row, a file in the order to an engine, a URL in a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GenerationParams<P> {
    pub prompt: String,
    pub negative_prompt: Option<String>,
    /// How the prompts are read.
    #[serde(default)]
    pub prompt_syntax: PromptSyntax,
    /// Picture `i` uses `seed + i`.
    pub num_images: u32,
    /// Number of denoising steps.
    pub num_inference_steps: u32,
    pub guidance_scale: f64,
    pub true_cfg_scale: f64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The picture that the generation starts from.
    // Inline, since utoipa loses `Option` in a reference to a type parameter.
    #[cfg_attr(feature = "schema", schema(inline))]
    pub image: Option<P>,
    /// The mask: `image` is repainted where it is white.
    #[cfg_attr(feature = "schema", schema(inline))]
    pub mask: Option<P>,
    /// Denoising strength, 0 to 1: how much of `image` may change. Null without `image`.
    pub strength: Option<f64>,
    /// The scheduler that the request chose; null means the model's own.
    pub scheduler: Option<Scheduler>,
    /// Number of last layers of the CLIP text encoders that are skipped.
    pub clip_skip: Option<u32>,
    /// Number of steps between two previews; null means no previews.
    pub preview_every: Option<u32>,
    /// File format of the pictures.
    #[serde(default)]
    pub output_format: OutputFormat,
    /// Quality of the files, 1 to 100; null for PNG, which is lossless.
    pub output_quality: Option<u8>,
}

impl<P> GenerationParams<P> {
    /// One PNG of `prompt` from noise, with `size` as width and height in pixels. Guidance and all other options are
    /// off.
    pub fn new(prompt: impl Into<String>, num_inference_steps: u32, size: [u32; 2]) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: None,
            prompt_syntax: PromptSyntax::default(),
            num_images: 1,
            num_inference_steps,
            guidance_scale: 1.0,
            true_cfg_scale: 1.0,
            width: size[0],
            height: size[1],
            image: None,
            mask: None,
            strength: None,
            scheduler: None,
            clip_skip: None,
            preview_every: None,
            output_format: OutputFormat::Png,
            output_quality: None,
        }
    }

    /// The same parameters with other references to the pictures.
    pub fn with_pictures<Q>(self, image: Option<Q>, mask: Option<Q>) -> GenerationParams<Q> {
        GenerationParams {
            prompt: self.prompt,
            negative_prompt: self.negative_prompt,
            prompt_syntax: self.prompt_syntax,
            num_images: self.num_images,
            num_inference_steps: self.num_inference_steps,
            guidance_scale: self.guidance_scale,
            true_cfg_scale: self.true_cfg_scale,
            width: self.width,
            height: self.height,
            image,
            mask,
            strength: self.strength,
            scheduler: self.scheduler,
            clip_skip: self.clip_skip,
            preview_every: self.preview_every,
            output_format: self.output_format,
            output_quality: self.output_quality,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A row written by version 0.1, which had no output formats and omitted absent options.
    #[test]
    fn an_older_row_is_read() {
        let row = json!({
            "prompt": "a fox", "negative_prompt": null, "num_images": 2, "num_inference_steps": 4,
            "guidance_scale": 3.5, "true_cfg_scale": 1.0, "width": 64, "height": 32,
            "image": {"sha256": "aa"}, "strength": 0.6, "scheduler": "dpmpp_2m_karras", "preview_every": 2,
        });
        let params: GenerationParams<Value> = serde_json::from_value(row).unwrap();
        let expected = GenerationParams {
            num_images: 2,
            guidance_scale: 3.5,
            image: Some(json!({"sha256": "aa"})),
            strength: Some(0.6),
            scheduler: Some(Scheduler::Dpmpp2mKarras),
            preview_every: Some(2),
            ..GenerationParams::new("a fox", 4, [64, 32])
        };
        assert_eq!(params, expected);
        let again = serde_json::to_value(&params).unwrap();
        assert_eq!(serde_json::from_value::<GenerationParams<Value>>(again).unwrap(), expected);
    }
}
