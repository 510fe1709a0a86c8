//! The paths of files within a model: what a file is called there, and what its name says about it.

use std::borrow::Cow;

const MAX_PATH_BYTES: usize = 200;
pub(super) const BINARY: &str = "application/octet-stream";

/// A file may have any name in its source; characters that are not plain become `-` in the model's folder.
pub(super) fn plain(path: &str) -> Cow<'_, str> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    if path.contains(['/', '\\']) || path.starts_with('.') || path.chars().all(allowed) {
        Cow::Borrowed(path)
    } else {
        path.chars().map(|character| if allowed(character) { character } else { '-' }).collect()
    }
}

/// The path within the model of a file that its sender calls `name`. Outside of folders, a file
/// that is no text is weights by any name: its content decides.
pub(super) fn within(name: &str) -> Cow<'_, str> {
    let path = plain(name);
    if path.contains('/') || media_type(&path).is_some() {
        return path;
    }
    let stem = path.rsplit_once('.').map_or(&*path, |(stem, _)| stem);
    Cow::Owned(formats::named_as(stem, &path))
}

/// The media type of a kind of file that models are made of, by its extension.
pub(super) fn media_type(path: &str) -> Option<&'static str> {
    match path.rsplit_once('.')?.1 {
        "safetensors" | "gguf" | "model" => Some(BINARY),
        "json" => Some("application/json"),
        "txt" | "md" => Some("text/plain; charset=utf-8"),
        _ => None,
    }
}

/// Plain relative paths only: segments of letters, digits, `.`, `_`, `-`, none of them beginning with a dot. Errors: a
/// sentence.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    let plain = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    if path.len() <= MAX_PATH_BYTES && path.split('/').count() <= 4 && path.split('/').all(plain) {
        return Ok(());
    }
    Err(format!(
        "`{path}` is not taken: a file in folders has a relative path such as `vae/config.json`, of letters, digits, \
         `.`, `_` and `-`, at most {MAX_PATH_BYTES} of them and three folders; no name begins with a dot."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for good in ["model_index.json", "vae/diffusion_pytorch_model.safetensors", "a/b/c/d.txt"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a//b", "a/../b", "a\\b", ".env", "a/.b", "a b", "a/b/c/d/e", "é"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lone_file_may_have_been_called_anything() {
        for (name, plain_name) in [
            ("My LoRA (v2).safetensors", "My-LoRA--v2-.safetensors"),
            ("Größe.gguf", "Gr--e.gguf"),
            ("plain.safetensors", "plain.safetensors"),
            ("K2.SAFETENSORS", "K2.safetensors"),
            ("K2.GGUF", "K2.gguf"),
            ("pytorch_lora_weights.bin", "pytorch_lora_weights.safetensors"),
            ("weights", "weights.safetensors"),
        ] {
            assert_eq!(within(name), plain_name);
            assert!(check_path(&within(name)).is_ok(), "{name}");
        }
        for path in ["a b/c.json", "../x y", ".a b", "a\\b c"] {
            assert!(check_path(&within(path)).is_err(), "{path}");
        }
    }
}
