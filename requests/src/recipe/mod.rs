//! How a picture was made, as its file records it. Written here: our own recipe as JSON, and the same as A1111's text
//! of parameters. Read here: both, and the records of ComfyUI and InvokeAI, into [`Settings`]. Where in a file the
//! texts are stored belongs to `formats::picture`; which models and inputs they mean, to `domain`.

mod a1111;
mod comfyui;
mod found;
mod invokeai;
mod pyrograph;
mod sampler;

pub use found::{Found, NamedLora, NamedModel, Program, Settings, Unmapped};
pub use pyrograph::{Digest, LoraDigest, ModelDigest, Recipe};

use formats::picture::Text;

/// Name of our JSON recipe among the texts of a file.
pub const RECIPE: &str = formats::picture::RECIPE;
/// Name of A1111's text of parameters among the texts of a file.
pub const PARAMETERS: &str = formats::picture::PARAMETERS;

/// Names under which files store A1111's text of parameters.
const A1111_TEXTS: [&str; 2] = [PARAMETERS, "UserComment"];
/// Most characters of a text that is quoted as unmapped.
const QUOTED: usize = 500;

/// Reads the texts of a picture. The first program whose record can be read wins, ours before the others; the rest is
/// listed as unmapped, except other records of the same settings.
pub fn read(texts: &[Text]) -> Found {
    let text = |names: &[&str]| texts.iter().find(|text| names.contains(&text.name.as_str()));
    let mut unmapped = Vec::new();
    let mut attempt = |names: &[&str], read: &dyn Fn(&str) -> Result<Found, String>| {
        let text = text(names)?;
        match read(&text.text) {
            Ok(found) => Some(found),
            Err(reason) => {
                unmapped.push(Unmapped::new(&text.name, quoted(&text.text), reason));
                None
            }
        }
    };
    let guidance = text(&A1111_TEXTS).and_then(|text| a1111::guidance(&text.text));
    let found = attempt(&[RECIPE], &|json: &str| pyrograph::read(json, guidance))
        .or_else(|| attempt(&["invokeai_metadata"], &invokeai::read))
        .or_else(|| attempt(&["sd-metadata"], &invokeai::read_older))
        // ComfyUI's extensions write A1111's text too, which is easier to read than a graph.
        .or_else(|| attempt(&A1111_TEXTS, &a1111::read))
        .or_else(|| attempt(&["prompt"], &comfyui::read))
        .or_else(|| attempt(&["workflow"], &comfyui::read_workflow));
    let mut found = found.unwrap_or_default();
    if found.program.is_none() {
        let known = |name: &str| unmapped.iter().any(|one| one.field == name);
        let others: Vec<_> = texts.iter().filter(|text| !known(&text.name)).collect();
        unmapped.extend(others.into_iter().map(|text| {
            Unmapped::new(&text.name, quoted(&text.text), "It is not a record of a program that is known here.")
        }));
    }
    found.unmapped.splice(0..0, unmapped);
    found
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
