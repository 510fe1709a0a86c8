//! Modules of Stable Diffusion's UNets under the names of diffusers, which we use, and those of the original code (sgm,
//! ldm), which numbers blocks from the first convolution.

use super::flat::{consists_of, is_number, unflatten};

/// Residual blocks on each level of every published UNet. The original block numbers depend on it.
const PER_LEVEL: usize = 2;

/// Parts of diffusers' names.
const DIFFUSERS: [&str; 35] = [
    "conv_in",
    "conv_out",
    "time_embedding",
    "add_embedding",
    "linear_1",
    "linear_2",
    "down_blocks",
    "mid_block",
    "up_blocks",
    "resnets",
    "attentions",
    "downsamplers",
    "upsamplers",
    "conv",
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "norm",
    "proj_in",
    "proj_out",
    "transformer_blocks",
    "attn1",
    "attn2",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "ff",
    "net",
    "proj",
    "norm1",
    "norm2",
    "norm3",
    "conv_norm_out",
];

/// Additional parts of the original names.
const ORIGINAL: [&str; 13] = [
    "input_blocks",
    "middle_block",
    "output_blocks",
    "in_layers",
    "out_layers",
    "emb_layers",
    "skip_connection",
    "op",
    "time_embed",
    "label_emb",
    "out",
    "norm_out",
    "norm_in",
];

/// Modules outside of the blocks: the original name and ours.
const TOP: [(&str, &str); 7] = [
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
];

/// Modules of a residual block: the original name and ours.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Our path of a module whose name contains only underscores.
pub(super) fn from_flat(flat: &str) -> Option<String> {
    from_dotted(&unflatten(flat, &[&DIFFUSERS[..], &ORIGINAL[..]].concat())?)
}

/// Our path of a module with a dotted name of either kind.
pub(super) fn from_dotted(name: &str) -> Option<String> {
    if let Some(path) = from_original(name) {
        return Some(path);
    }
    // Old versions of diffusers stored the factors of attention in a "processor", and named `to_out` without its
    // number.
    let mut path = name.replace(".processor.", ".");
    if path.ends_with(".to_out") {
        path.push_str(".0");
    }
    let begins = ["down_blocks.", "mid_block.", "up_blocks.", "time_embedding.", "add_embedding."];
    let known = ["conv_in", "conv_norm_out", "conv_out"].contains(&&*path)
        || begins.iter().any(|begin| path.starts_with(begin));
    (known && consists_of(&path, &DIFFUSERS)).then_some(path)
}

fn from_original(name: &str) -> Option<String> {
    if let Some((_, ours)) = TOP.iter().find(|(theirs, _)| *theirs == name) {
        return Some((*ours).to_owned());
    }
    let (block, rest) = name.split_once('.')?;
    let (number, rest) = rest.split_once('.')?;
    let number: usize = is_number(number).then(|| number.parse().ok())??;
    if block == "middle_block" {
        return match number {
            0 | 2 => Some(format!("mid_block.resnets.{}.{}", number / 2, resnet(rest)?)),
            1 => Some(format!("mid_block.attentions.0.{}", attention(rest)?)),
            _ => None,
        };
    }
    let (ours, at) = match block {
        "input_blocks" => ("down_blocks", number.checked_sub(1)?),
        "output_blocks" => ("up_blocks", number),
        _ => return None,
    };
    let (level, layer) = (at / (PER_LEVEL + 1), at % (PER_LEVEL + 1));
    let (_, inner) = rest.split_once('.').filter(|(index, _)| is_number(index))?;
    Some(match (ours, inner) {
        ("down_blocks", "op") => format!("down_blocks.{level}.downsamplers.0.conv"),
        ("up_blocks", "conv") => format!("up_blocks.{level}.upsamplers.0.conv"),
        _ => match resnet(inner) {
            Some(inner) => format!("{ours}.{level}.resnets.{layer}.{inner}"),
            None => format!("{ours}.{level}.attentions.{layer}.{}", attention(inner)?),
        },
    })
}

fn resnet(inner: &str) -> Option<&'static str> {
    RESNET.iter().find(|(theirs, _)| *theirs == inner).map(|(_, ours)| *ours)
}

/// The layers inside of attention have the same names everywhere.
fn attention(inner: &str) -> Option<&str> {
    let begins = ["norm", "proj_in", "proj_out"].contains(&inner) || inner.starts_with("transformer_blocks.");
    (begins && consists_of(inner, &DIFFUSERS)).then_some(inner)
}

/// The original name of one of our modules. In Stable Diffusion 1 and 2 the first upsampler does not follow an
/// attention; in XL all do. `first_up_has_attention` distinguishes these cases.
pub fn to_original(path: &str, first_up_has_attention: bool) -> Option<String> {
    if let Some((theirs, _)) = TOP.iter().find(|(_, ours)| *ours == path) {
        return Some((*theirs).to_owned());
    }
    let parts: Vec<&str> = path.splitn(5, '.').collect();
    let resnet = |inner: &str| RESNET.iter().find(|(_, ours)| *ours == inner).map(|(theirs, _)| *theirs);
    if let ["mid_block", kind, number, ..] = parts[..] {
        let inner = path.splitn(4, '.').nth(3)?;
        return match (kind, number) {
            ("resnets", "0") => Some(format!("middle_block.0.{}", resnet(inner)?)),
            ("resnets", "1") => Some(format!("middle_block.2.{}", resnet(inner)?)),
            ("attentions", "0") => Some(format!("middle_block.1.{inner}")),
            _ => None,
        };
    }
    let [block, level, kind, layer, inner] = parts[..] else { return None };
    let (level, layer) = (level.parse::<usize>().ok()?, layer.parse::<usize>().ok()?);
    let at = level.checked_mul(PER_LEVEL + 1)?;
    Some(match (block, kind) {
        ("down_blocks", "resnets") => format!("input_blocks.{}.0.{}", 1 + at + layer, resnet(inner)?),
        ("down_blocks", "attentions") => format!("input_blocks.{}.1.{inner}", 1 + at + layer),
        ("down_blocks", "downsamplers") => format!("input_blocks.{}.0.op", 1 + at + PER_LEVEL),
        ("up_blocks", "resnets") => format!("output_blocks.{}.0.{}", at + layer, resnet(inner)?),
        ("up_blocks", "attentions") => format!("output_blocks.{}.1.{inner}", at + layer),
        ("up_blocks", "upsamplers") => {
            let index = if level > 0 || first_up_has_attention { 2 } else { 1 };
            format!("output_blocks.{}.{index}.conv", at + PER_LEVEL)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_numbers_are_those_of_stable_diffusion() {
        for (original, ours) in [
            (
                "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
                "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            ),
            ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
            ("input_blocks.1.0.in_layers.2", "down_blocks.0.resnets.0.conv1"),
            ("middle_block.2.out_layers.3", "mid_block.resnets.1.conv2"),
            ("middle_block.1.proj_in", "mid_block.attentions.0.proj_in"),
            ("output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
            ("output_blocks.8.0.skip_connection", "up_blocks.2.resnets.2.conv_shortcut"),
            ("out.2", "conv_out"),
        ] {
            assert_eq!(from_dotted(original).as_deref(), Some(ours));
            assert_eq!(from_flat(&original.replace('.', "_")).as_deref(), Some(ours));
            assert_eq!(to_original(ours, true).as_deref(), Some(original));
        }
        assert_eq!(to_original("up_blocks.0.upsamplers.0.conv", false).as_deref(), Some("output_blocks.2.1.conv"));
    }

    #[test]
    fn old_processors_are_the_layers_themselves() {
        let to_out = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0";
        assert_eq!(
            from_dotted("mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out").as_deref(),
            Some(to_out)
        );
        assert_eq!(from_dotted(to_out).as_deref(), Some(to_out));
        assert_eq!(from_dotted("mid_block.attentions.0.unknown"), None);
        assert_eq!(from_dotted("input_blocks.0.1.op"), None);
    }
}
