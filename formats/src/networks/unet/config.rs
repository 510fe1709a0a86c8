//! `unet/config.json`, and which of its many options are supported.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Limits on levels, and on residual blocks per level.
pub(crate) const MAX_LEVELS: usize = 8;
pub(crate) const MAX_LAYERS: usize = 64;
/// Limit on the transformer blocks of all levels together. Stable Diffusion XL has 70.
pub(crate) const MAX_TRANSFORMER_BLOCKS: usize = 512;

/// The UNet's `config.json`, with the defaults of diffusers' `UNet2DConditionModel`.
///
/// Reference: <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/models/unets/unet_2d_condition.py#L178-L496>
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Side of the training latents.
    pub sample_size: Option<usize>,
    /// 4, or 9 if the input also has a mask and the latents of the masked picture.
    pub in_channels: usize,
    pub out_channels: usize,
    /// Channels of each level from the finest to the coarsest. Each level but the last halves the size.
    pub block_out_channels: Vec<usize>,
    /// `DownBlock2D`, or `CrossAttnDownBlock2D` for a level with cross-attention.
    pub down_block_types: Vec<String>,
    /// From the coarsest level to the finest: `UpBlock2D` or `CrossAttnUpBlock2D`.
    pub up_block_types: Vec<String>,
    /// Residual blocks per down block. An up block has one more.
    pub layers_per_block: PerLevel,
    /// The number of heads, despite its name: a mistake of the first release that every published config repeats.
    pub attention_head_dim: PerLevel,
    /// The number of heads under its correct name, which takes precedence.
    pub num_attention_heads: Option<PerLevel>,
    /// Width of the prompt embeddings.
    pub cross_attention_dim: PerLevel,
    /// Transformer blocks between the input and output projection.
    pub transformer_layers_per_block: PerLevel,
    /// Whether files store these projections as matrices instead of 1×1 convolutions. The network is the same.
    pub use_linear_projection: bool,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    /// `text_time` if a pooled prompt and sizes are added to the time embedding.
    pub addition_embed_type: Option<String>,
    /// Number of sinusoids per size.
    pub addition_time_embed_dim: Option<usize>,
    /// Width of the pooled prompt and the sinusoids of all sizes together.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Whether cosines come before sines.
    pub flip_sin_to_cos: bool,
    pub freq_shift: usize,
    /// Width of the embedded guidance scale of latent consistency models.
    pub time_cond_proj_dim: Option<usize>,
    /// All other fields. [`Config::check`] accepts only their usual values.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// One number for all levels, or one per level from the finest to the coarsest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    All(usize),
    Each(Vec<usize>),
    /// Any other type, which [`Config::check`] rejects.
    Other(Value),
}

impl PerLevel {
    /// The number for `level`; 0 for a level that does not exist.
    pub fn at(&self, level: usize) -> usize {
        match self {
            Self::All(number) => *number,
            Self::Each(numbers) => numbers.get(level).copied().unwrap_or_default(),
            Self::Other(_) => 0,
        }
    }
}

/// The accepted values of other fields, as JSON. `upcast_attention` is not listed: the softmax is always f32 here, and
/// diffusers' fast attention ignores the field too.
const USUAL: [(&str, &str); 25] = [
    ("act_fn", r#"["silu", "swish"]"#),
    ("attention_type", r#"["default"]"#),
    ("center_input_sample", "[false]"),
    ("class_embed_type", "[null]"),
    ("class_embeddings_concat", "[false]"),
    ("conv_in_kernel", "[3]"),
    ("conv_out_kernel", "[3]"),
    ("cross_attention_norm", "[null]"),
    ("downsample_padding", "[1]"),
    ("dual_cross_attention", "[false]"),
    ("encoder_hid_dim", "[null]"),
    ("encoder_hid_dim_type", "[null]"),
    ("mid_block_only_cross_attention", "[null, false]"),
    ("mid_block_scale_factor", "[1]"),
    ("mid_block_type", r#"["UNetMidBlock2DCrossAttn"]"#),
    ("num_class_embeds", "[null]"),
    ("only_cross_attention", "[false]"),
    ("resnet_out_scale_factor", "[1]"),
    ("resnet_skip_time_act", "[false]"),
    ("resnet_time_scale_shift", r#"["default"]"#),
    ("reverse_transformer_layers_per_block", "[null]"),
    ("time_embedding_act_fn", "[null]"),
    ("time_embedding_dim", "[null]"),
    ("time_embedding_type", r#"["positional"]"#),
    ("timestep_post_act", "[null]"),
];

impl Default for Config {
    fn default() -> Self {
        let types = |names: [&str; 4]| names.map(str::to_owned).to_vec();
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: types([
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ]),
            up_block_types: types(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
            layers_per_block: PerLevel::All(2),
            attention_head_dim: PerLevel::All(8),
            num_attention_heads: None,
            cross_attention_dim: PerLevel::All(1280),
            transformer_layers_per_block: PerLevel::All(1),
            use_linear_projection: false,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            flip_sin_to_cos: true,
            freq_shift: 0,
            time_cond_proj_dim: None,
            others: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Number of levels. Each is half the size of the previous one.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Width of the time embedding.
    pub fn time_width(&self) -> usize {
        4 * self.channels(0)
    }

    /// Width of the prompt embeddings.
    pub fn text_width(&self) -> usize {
        self.cross_attention_dim.at(0)
    }

    /// Total width of the added conditions, and the number of sinusoids per size among them.
    pub fn added(&self) -> Option<(usize, usize)> {
        self.addition_embed_type.as_ref()?;
        self.projection_class_embeddings_input_dim.zip(self.addition_time_embed_dim)
    }

    /// Channels of `level`; 0 if it does not exist.
    pub fn channels(&self, level: usize) -> usize {
        self.block_out_channels.get(level).copied().unwrap_or_default()
    }

    /// Number of heads of each attention of `level`.
    pub fn heads(&self, level: usize) -> usize {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).at(level)
    }

    /// Whether the down block of `level` has cross-attention.
    pub fn attends_down(&self, level: usize) -> bool {
        self.down_block_types.get(level).is_some_and(|kind| kind == "CrossAttnDownBlock2D")
    }

    /// Whether the up block of `level` has cross-attention.
    pub fn attends_up(&self, level: usize) -> bool {
        let mut from_the_finest = self.up_block_types.iter().rev();
        from_the_finest.nth(level).is_some_and(|kind| kind == "CrossAttnUpBlock2D")
    }

    /// Number of transformer blocks in the whole network.
    fn transformer_blocks(&self) -> usize {
        let attentions = |level: usize| {
            let layers = self.layers_per_block.at(level);
            let (down, up) = (self.attends_down(level), self.attends_up(level));
            layers * usize::from(down) + (layers + 1) * usize::from(up) + usize::from(level + 1 == self.levels())
        };
        (0..self.levels()).map(|level| attentions(level) * self.transformer_layers_per_block.at(level)).sum()
    }

    /// Checks that a network of this shape can be built.
    ///
    /// # Errors
    /// A part of a sentence that names the unsupported field.
    pub fn check(&self) -> Result<(), String> {
        for (name, usual) in USUAL {
            let Some(value) = self.others.get(name) else { continue };
            let usual: Vec<Value> = serde_json::from_str(usual).unwrap_or_default();
            if !usual.iter().any(|usual| same(usual, value)) {
                return Err(refused(name, value));
            }
        }
        let levels = self.levels();
        let size = |number: usize| (1..=1 << 14).contains(&number);
        let each = |numbers: &PerLevel, fine: &dyn Fn(usize) -> bool| match numbers {
            PerLevel::All(number) => fine(*number),
            PerLevel::Each(numbers) => numbers.len() == levels && numbers.iter().all(|number| fine(*number)),
            PerLevel::Other(_) => false,
        };
        let types = |types: &[String], known: [&str; 2]| {
            types.len() == levels && types.iter().all(|name| known.contains(&name.as_str()))
        };
        let groups = self.norm_num_groups;
        let heads_divide = (0..levels)
            .filter(|level| self.attends_down(*level) || self.attends_up(*level) || level + 1 == levels)
            .all(|level| self.heads(level) > 0 && self.channels(level).is_multiple_of(self.heads(level)));
        let layered = each(&self.layers_per_block, &|layers| (1..=MAX_LAYERS).contains(&layers));
        let sinusoids = |channels: usize| size(channels) && channels / 2 > self.freq_shift;
        let one_width = |width| size(width) && width == self.text_width();
        let heads = if self.num_attention_heads.is_some() { "num_attention_heads" } else { "attention_head_dim" };
        let added = self.addition_embed_type.is_some();
        let checks = [
            ("in_channels", size(self.in_channels)),
            ("out_channels", size(self.out_channels)),
            ("norm_num_groups", size(groups)),
            (
                "block_out_channels",
                (1..=MAX_LEVELS).contains(&levels)
                    && self
                        .block_out_channels
                        .iter()
                        .all(|channels| size(*channels) && channels.is_multiple_of(groups)),
            ),
            ("freq_shift", sinusoids(self.channels(0))),
            ("down_block_types", types(&self.down_block_types, ["DownBlock2D", "CrossAttnDownBlock2D"])),
            ("up_block_types", types(&self.up_block_types, ["UpBlock2D", "CrossAttnUpBlock2D"])),
            ("layers_per_block", layered),
            (heads, each(self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim), &size) && heads_divide),
            ("cross_attention_dim", each(&self.cross_attention_dim, &one_width)),
            (
                "transformer_layers_per_block",
                layered
                    && each(&self.transformer_layers_per_block, &|layers| layers <= MAX_LAYERS)
                    && self.transformer_blocks() <= MAX_TRANSFORMER_BLOCKS,
            ),
            ("addition_embed_type", self.addition_embed_type.as_ref().is_none_or(|kind| kind == "text_time")),
            ("addition_time_embed_dim", !added || self.addition_time_embed_dim.is_some_and(sinusoids)),
            (
                "projection_class_embeddings_input_dim",
                !added || self.projection_class_embeddings_input_dim.is_some_and(size),
            ),
            ("time_cond_proj_dim", self.time_cond_proj_dim.is_none_or(size)),
        ];
        match checks.into_iter().find(|(_, fine)| !fine) {
            None => Ok(()),
            Some((name, _)) => {
                let all = serde_json::to_value(self).unwrap_or_default();
                Err(refused(name, all.get(name).unwrap_or(&Value::Null)))
            }
        }
    }
}

fn same(usual: &Value, value: &Value) -> bool {
    // 1 and 1.0 are the same number.
    usual == value || usual.as_f64().is_some_and(|number| value.as_f64() == Some(number))
}

fn refused(name: &str, value: &Value) -> String {
    format!("no UNet can be built whose {name} is {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn nothing_said_is_what_diffusers_builds() {
        let config = config("{}");
        config.check().unwrap();
        assert_eq!((config.time_width(), config.text_width(), config.heads(3)), (1280, 1280, 8));
        assert!(config.attends_down(0) && !config.attends_down(3) && config.attends_up(0) && !config.attends_up(3));
    }

    #[test]
    fn the_published_shapes_are_fine() {
        config(
            r#"{"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true,
            "upcast_attention": true, "mid_block_scale_factor": 1, "dual_cross_attention": false, "dropout": 0.0}"#,
        )
        .check()
        .unwrap();
        let xl = config(
            r#"{"block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
            "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "num_attention_heads": null}"#,
        );
        xl.check().unwrap();
        assert_eq!(xl.added(), Some((2816, 256)));
        assert_eq!((xl.attends_up(0), xl.attends_up(2)), (false, true));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (name, value) in [
            ("class_embed_type", r#""projection""#),
            ("only_cross_attention", "[true, true, true, false]"),
            ("reverse_transformer_layers_per_block", "[[1, 2], [1]]"),
            ("transformer_layers_per_block", "[[1, 2], [1]]"),
            ("transformer_layers_per_block", "64"),
            ("mid_block_type", "null"),
            ("time_embedding_type", r#""fourier""#),
            ("resnet_out_scale_factor", "1.5"),
            ("down_block_types", r#"["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]"#),
            ("up_block_types", r#"["UpBlock2D"]"#),
            ("attention_head_dim", "7"),
            ("num_attention_heads", "[1, 2, 3, 0]"),
            ("norm_num_groups", "0"),
            ("block_out_channels", "[]"),
            ("block_out_channels", "[320, 640, 1280, 1281]"),
            ("layers_per_block", "[2, 2]"),
            ("cross_attention_dim", "[768, 768, 768, 1024]"),
            ("addition_embed_type", r#""image""#),
            ("freq_shift", "160"),
        ] {
            let error = config(&format!(r#"{{"{name}": {value}}}"#)).check().unwrap_err();
            assert!(error.contains(&format!("whose {name} is")), "{name} {value}: {error}");
        }
        let error = config(r#"{"addition_embed_type": "text_time"}"#).check().unwrap_err();
        assert!(error.contains("addition_time_embed_dim"), "{error}");
    }
}
