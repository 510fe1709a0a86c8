//! Tags of extra networks: `<lora:name:0.8>`.
//!
//! References: `extra_networks.py`, and `extensions-builtin/Lora/extra_networks_lora.py` in the same repository:
//! <https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/82a973c/modules/extra_networks.py>

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// A LoRA that a prompt names.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraTag {
    /// The name as it is written.
    pub name: String,
    /// The weight on the denoiser.
    pub scale: f64,
    /// The weight on the text encoders, if it is another one.
    pub text_encoder_scale: Option<f64>,
}

impl fmt::Display for LoraTag {
    /// The tag as A1111 reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, scale, text_encoder_scale } = self;
        match text_encoder_scale {
            Some(text_encoder) => write!(f, "<lora:{name}:{text_encoder}:{scale}>"),
            None => write!(f, "<lora:{name}:{scale}>"),
        }
    }
}

/// The extra networks that a prompt names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Networks {
    /// In the order of the prompt. Errors: a sentence about a tag that cannot be understood.
    pub loras: Vec<Result<LoraTag, String>>,
    /// Tags of hypernetworks.
    pub hypernetworks: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lora,
    Hypernetwork,
}

struct Tag<'a> {
    kind: Kind,
    /// Its place in the prompt.
    place: Range<usize>,
    /// The text between the first colon and the closing bracket.
    arguments: &'a str,
}

/// The text without its tags. If there are any, white space at both ends is removed too, so that a tag at the end
/// leaves no trace.
pub(super) fn words(prompt: &str) -> Cow<'_, str> {
    let mut words = String::new();
    let mut done = 0;
    for tag in tags(prompt) {
        words.push_str(&prompt[done..tag.place.start]);
        done = tag.place.end;
    }
    if done == 0 {
        return Cow::Borrowed(prompt);
    }
    words.push_str(&prompt[done..]);
    Cow::Owned(words.trim().to_owned())
}

/// The networks that the tags name.
pub(super) fn read(prompt: &str) -> Networks {
    let mut networks = Networks::default();
    for tag in tags(prompt) {
        let text = &prompt[tag.place.clone()];
        match tag.kind {
            Kind::Lora => networks.loras.push(lora(tag.arguments).map_err(|why| format!("`{text}`: {why}"))),
            Kind::Hypernetwork => networks.hypernetworks.push(text.to_owned()),
        }
    }
    networks
}

/// The tags of kinds that A1111 knows; other text in angle brackets is words.
fn tags(prompt: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        while let Some(start) = prompt[from..].find('<').map(|at| from + at) {
            from = start + 1;
            let (kind, rest) = prompt[from..].split_once(':')?;
            let kind = match kind.to_ascii_lowercase().as_str() {
                "lora" | "lyco" => Kind::Lora,
                "hypernet" => Kind::Hypernetwork,
                _ => continue,
            };
            let arguments = prompt.len() - rest.len();
            let end = rest.find('>').map(|at| arguments + at)?;
            from = end + 1;
            return Some(Tag { kind, place: start..from, arguments: &prompt[arguments..end] });
        }
        None
    })
}

/// `name`, `name:weight`, `name:text encoder:denoiser`; the weights may also be named, `te=0.5` and `unet=0.8`.
fn lora(arguments: &str) -> Result<LoraTag, String> {
    let (mut positional, mut text_encoder, mut denoiser) = (Vec::new(), None, None);
    for item in arguments.split(':').map(str::trim) {
        match item.split_once('=') {
            Some(("te", weight)) => text_encoder = Some(number(weight)?),
            Some(("unet", weight)) => denoiser = Some(number(weight)?),
            Some(("dyn", _)) => return Err("cutting a LoRA to a lower rank is not supported.".into()),
            _ => positional.push(item),
        }
    }
    let (name, weights) = match positional.split_first() {
        Some((name, weights)) if !name.is_empty() => (*name, weights),
        _ => return Err("the name of the LoRA is missing.".into()),
    };
    if weights.len() > 2 {
        return Err("a LoRA has at most two weights, for the text encoders and for the denoiser.".into());
    }
    let text_encoder = match (text_encoder, weights.first()) {
        (Some(weight), _) => weight,
        (None, Some(weight)) => number(weight)?,
        (None, None) => 1.0,
    };
    let scale = match (denoiser, weights.get(1)) {
        (Some(weight), _) => weight,
        (None, Some(weight)) => number(weight)?,
        (None, None) => text_encoder,
    };
    let text_encoder_scale = (text_encoder != scale).then_some(text_encoder);
    Ok(LoraTag { name: name.to_owned(), scale, text_encoder_scale })
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| format!("`{text}` is not a weight, as 0.8 is one."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, scale: f64, text_encoder_scale: Option<f64>) -> LoraTag {
        LoraTag { name: name.into(), scale, text_encoder_scale }
    }

    #[test]
    fn a_prompt_names_loras_and_weights() {
        for (text, expected) in [
            ("<lora:ink:0.8>", tag("ink", 0.8, None)),
            ("<lora:ink>", tag("ink", 1.0, None)),
            ("<lora:ink.safetensors:-1>", tag("ink.safetensors", -1.0, None)),
            ("<lora:ink:0.5:0.8>", tag("ink", 0.8, Some(0.5))),
            ("<lora:ink:0.5:0.5>", tag("ink", 0.5, None)),
            ("<lora:ink:te=0:unet=1>", tag("ink", 1.0, Some(0.0))),
            ("<lora:ink:0.5:unet=0.8>", tag("ink", 0.8, Some(0.5))),
            ("<lora:ink:unet=0.8>", tag("ink", 0.8, Some(1.0))),
            ("<lyco: My ink : .5 >", tag("My ink", 0.5, None)),
            ("<LoRA:ink:1e-1>", tag("ink", 0.1, None)),
            ("< <lora:ink:1>", tag("ink", 1.0, None)),
            ("<b>:<lora:ink:1>", tag("ink", 1.0, None)),
        ] {
            assert_eq!(read(text).loras, [Ok(expected)], "{text}");
        }
        let networks = read("<lora:a:1> fox <hypernet:b:1><lyco:a:2>");
        assert_eq!(networks.loras, [Ok(tag("a", 1.0, None)), Ok(tag("a", 2.0, None))]);
        assert_eq!(networks.hypernetworks, ["<hypernet:b:1>"]);
    }

    #[test]
    fn a_tag_is_written_as_it_is_read() {
        for text in ["<lora:ink:0.8>", "<lora:ink:0:1>", "<lora:ink:-0.25:2>"] {
            assert_eq!(read(text).loras[0].as_ref().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_tag_that_makes_no_sense_is_named() {
        for text in
            ["<lora:>", "<lora: :1>", "<lora:ink:much>", "<lora:ink:NaN>", "<lora:ink:1:2:3>", "<lora:ink:dyn=4>"]
        {
            let loras = read(&format!("{text} <lora:ink:1>")).loras;
            let [Err(why), Ok(_)] = &loras[..] else { panic!("{text}: {loras:?}") };
            assert!(why.contains(text), "{why}");
        }
    }

    #[test]
    fn tags_leave_no_trace() {
        for (text, expected) in [
            ("a fox <lora:ink:0.5>", "a fox"),
            ("<lora:ink:0.5> a fox", "a fox"),
            ("a <lora:ink>fox", "a fox"),
            ("a fox, <lora:ink:1>, snow", "a fox, , snow"),
            ("<hypernet:x:1>", ""),
            (" a <b> fox ", " a <b> fox "),
            ("5 < 7: a fox", "5 < 7: a fox"),
            ("a <lora:ink", "a <lora:ink"),
            ("a <foo:bar> 狐", "a <foo:bar> 狐"),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }
}
