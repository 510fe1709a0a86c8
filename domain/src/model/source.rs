//! Sources of a model's files: a URL, a repository of the Hugging Face Hub, a folder of the workers, or uploads. Here:
//! the types, whether a source is well formed, and how its secret query string is removed. Not here: fetching the
//! files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

mod stated;

use self::stated::Stated;
use super::file_path::{check_path, plain};
use super::parts::Part;
use crate::limits::MAX_FILES;
use crate::{Caller, Error, Result, Scope, UploadId, object};

const MAX_URL_BYTES: usize = 2048;
const MAX_NAME_BYTES: usize = 96;
const MAX_REVISION_BYTES: usize = 128;
const MAX_PATH_BYTES: usize = 1000;
const MAX_VARIANT_BYTES: usize = 32;

/// Sources of parts (text encoders, VAE) that are supplied separately from the denoiser. Each source has one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// The text encoder: CLIP, or OpenCLIP for Stable Diffusion 2.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<Source>,
    /// The second text encoder: T5 for FLUX.1, OpenCLIP for Stable Diffusion XL.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub text_encoder_2: Option<Source>,
    /// The autoencoder (VAE).
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub vae: Option<Source>,
}

impl Parts {
    /// The parts that are supplied.
    pub fn each(&self) -> impl Iterator<Item = (Part, &Source)> {
        let parts = [&self.text_encoder, &self.text_encoder_2, &self.vae];
        Part::SEPARABLE.into_iter().zip(parts).filter_map(|(part, source)| Some((part, source.as_ref()?)))
    }

    /// Without the secret query strings, and the query strings.
    pub(crate) fn without_queries(self) -> (Self, BTreeMap<Part, String>) {
        let mut queries = BTreeMap::new();
        let mut shown = |part, source: Option<Source>| {
            let (source, query) = source?.without_query();
            queries.extend(query.map(|query| (part, query)));
            Some(source)
        };
        let parts = Self {
            text_encoder: shown(Part::TextEncoder, self.text_encoder),
            text_encoder_2: shown(Part::TextEncoder2, self.text_encoder_2),
            vae: shown(Part::Vae, self.vae),
        };
        (parts, queries)
    }
}

/// The source of a model's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields, try_from = "Stated")]
pub enum Source {
    /// One safetensors or GGUF file behind a URL.
    Url {
        /// URL of the file: `https`, at an address of the public internet; the operator may allow others. The query
        /// string is used and never shown.
        #[schema(
            max_length = 2048,
            pattern = r"^[Hh][Tt]{2}[Pp][Ss]?://[^/\s\\][^\s\\]*$",
            example = "https://example.com/clay.safetensors"
        )]
        url: String,
        /// Expected SHA-256 of the file, lower-case hex.
        #[schema(pattern = "^[0-9a-f]{64}$")]
        sha256: Option<String>,
    },
    /// A repository of the Hugging Face Hub: a diffusers folder, or one safetensors or GGUF file.
    HuggingFace {
        #[schema(
            pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$",
            example = "owner/name"
        )]
        repo: String,
        /// Branch, tag or commit; `main` by default. It is resolved to a commit first.
        #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$", example = "main")]
        revision: String,
        /// Files to take. If absent, those that the pipeline needs, or the one file of weights.
        #[schema(min_items = 1, max_items = 200)]
        files: Option<Vec<String>>,
        /// Variant of the weights, if there are several: `fp16` selects `model.fp16.safetensors`. If absent, the plain
        /// ones.
        #[schema(pattern = "^[A-Za-z0-9_]{1,32}$", example = "fp16")]
        variant: Option<String>,
    },
    /// A file or folder on the workers' machines, below the folder that their operator allowed.
    Path {
        /// Path relative to that folder.
        #[schema(
            min_length = 1,
            max_length = 1000,
            pattern = r"^[^\u0000-\u001f\u007f./\\][^\u0000-\u001f\u007f]*$",
            example = "flux/clay.safetensors"
        )]
        path: String,
    },
    /// Files that were uploaded in parts: one safetensors or GGUF file; that and `text_encoder.safetensors` and so on;
    /// or those of a diffusers folder.
    Upload {
        #[schema(min_items = 1, max_items = 200)]
        files: Vec<UploadedFile>,
    },
}

/// A file that was uploaded in parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadedFile {
    /// Path of the file within the model. A file outside of folders may have any name.
    #[schema(
        max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f./\\][^\u0000-\u001f\u007f\\]*$",
        example = "vae/config.json"
    )]
    pub path: String,
    /// Identifier of the upload.
    pub upload: UploadId,
}

impl Source {
    /// Checks that it is well formed. The worker finds out whether anything is there, and may be read. Errors:
    /// `Invalid`, about the field `named` of the request.
    pub(crate) fn check(&self, named: &str) -> Result<()> {
        let invalid = |field: &str, message: &str| Err(Error::invalid(format!("{named}.{field}"), message));
        match self {
            Self::Url { url, .. } if let Err(message) = check_url(url) => invalid("url", &message),
            Self::Url { sha256: Some(sha256), .. } if !is_sha256(sha256) => {
                invalid("sha256", "It has 64 characters of 0-9 and a-f.")
            }
            Self::HuggingFace { repo, .. } if !is_repo(repo) => invalid("repo", "A repository is named `owner/name`."),
            Self::HuggingFace { revision, .. }
                if revision.len() > MAX_REVISION_BYTES || !is_word(revision, |byte| b"._/-".contains(&byte)) =>
            {
                invalid("revision", "A revision is the name of a branch or tag, or a commit.")
            }
            Self::HuggingFace { files: Some(files), .. }
                if files.is_empty() || files.len() > MAX_FILES || files.iter().any(|file| !is_path(file)) =>
            {
                invalid("files", "They are 1 to 200 paths within the repository.")
            }
            Self::HuggingFace { variant: Some(variant), .. }
                if variant.is_empty()
                    || variant.len() > MAX_VARIANT_BYTES
                    || !variant.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
            {
                invalid("variant", "It has 1 to 32 letters and digits, such as `fp16`.")
            }
            Self::Path { path } if !is_local_path(path) => invalid(
                "path",
                "It is a path relative to the folder that the operator allowed, such as `flux/clay.safetensors`.",
            ),
            Self::Upload { files } if !(1..=MAX_FILES).contains(&files.len()) => {
                invalid("files", &format!("There are {} of them; 1 to {MAX_FILES} are taken.", files.len()))
            }
            Self::Upload { files } => files.iter().enumerate().try_for_each(|(position, file)| {
                check_path(&plain(&file.path))
                    .map_err(|message| Error::invalid(format!("{named}.files[{position}].path"), message))
            }),
            _ => Ok(()),
        }
    }

    /// Errors: `Forbidden` for a file of a worker's disk, unless the caller manages the installation.
    pub(crate) fn check_caller(&self, caller: &Caller) -> Result<()> {
        if matches!(self, Self::Path { .. }) { caller.require(Scope::Admin) } else { Ok(()) }
    }

    /// Whether nothing of it comes over the network.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Path { .. } | Self::Upload { .. })
    }

    /// Whether it may be a part, which is one file.
    pub(crate) fn may_be_one_file(&self) -> bool {
        match self {
            Self::HuggingFace { files, .. } => files.as_ref().is_none_or(|files| files.len() == 1),
            Self::Upload { files } => files.len() == 1,
            Self::Url { .. } | Self::Path { .. } => true,
        }
    }

    /// The uploads that it consists of.
    pub fn uploads(&self) -> impl Iterator<Item = UploadId> {
        let files = if let Self::Upload { files } = self { files.as_slice() } else { &[] };
        files.iter().map(|file| file.upload)
    }

    /// The source without its secret query string, and the query string.
    pub(crate) fn without_query(mut self) -> (Self, Option<String>) {
        let mut query = None;
        if let Self::Url { url, .. } = &mut self
            && let Some((address, rest)) = url.split_once('?')
        {
            query = Some(rest.to_owned());
            *url = address.to_owned();
        }
        (self, query)
    }
}

/// Errors: a sentence.
fn check_url(text: &str) -> Result<(), String> {
    if text.len() > MAX_URL_BYTES {
        return Err(format!("It has {} characters; at most {MAX_URL_BYTES} are taken.", text.len()));
    }
    // The parser would leave such characters out, or correct them.
    if text.contains(|character: char| character.is_whitespace() || character.is_control() || character == '\\') {
        return Err("It holds a space, a line break or a backslash; write a space as `%20`.".to_owned());
    }
    let lower = text.to_ascii_lowercase();
    let host = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://"));
    if host.is_none_or(|host| host.starts_with('/')) {
        return Err("It begins with `https://` and the name of a host.".to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("It is not a URL: {error}."))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("It holds a user name or a password, which are not taken.".to_owned());
    }
    Ok(())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_repo(repo: &str) -> bool {
    let name = |part: &str| part.len() <= MAX_NAME_BYTES && is_word(part, |byte| b"._-".contains(&byte));
    repo.split_once('/').is_some_and(|(owner, rest)| name(owner) && name(rest))
}

/// A letter or digit, then more of them or of `others`.
fn is_word(text: &str, others: impl Fn(u8) -> bool) -> bool {
    text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others(byte))
}

fn is_path(path: &str) -> bool {
    path.len() <= MAX_PATH_BYTES
        && path.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && path.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// A path below a folder on the workers' machines, in letters of any language. Whether it stays below the folder is
/// checked when it is opened.
fn is_local_path(path: &str) -> bool {
    (1..=MAX_PATH_BYTES).contains(&path.chars().count())
        && !path.starts_with(['.', '/', '\\'])
        && path.chars().all(|character| character >= ' ' && character != '\u{7f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> Source {
        Source::Url { url: url.into(), sha256: None }
    }

    #[test]
    fn addresses_are_well_formed() {
        for good in [
            "https://example.com/a.safetensors",
            "http://[::1]:8080/x?y=z",
            "https://a.b",
            "https://a.b?y=1",
            "HTTPS://A.B/x",
            "https://münchen.example/x",
            "https://exa_mple.com/x",
        ] {
            assert!(url(good).check("source").is_ok(), "{good}");
        }
        for (bad, says) in [
            ("ftp://a/b", "begins with `https://`"),
            ("https://", "empty host"),
            ("https:///x", "name of a host"),
            ("https://user:pass@host/x", "password"),
            ("https://h/a b", "space"),
            ("https://h/a\\b", "backslash"),
            ("file:///etc/passwd", "begins with `https://`"),
            ("https://a.b:99999/x", "port"),
            ("https://a%b/x", "not a URL"),
        ] {
            let refused = url(bad).check("source").unwrap_err().to_string();
            assert!(refused.starts_with("source.url: ") && refused.contains(says), "{bad}: {refused}");
        }
        let repo = |repo: &str, revision: &str| Source::HuggingFace {
            repo: repo.into(),
            revision: revision.into(),
            files: None,
            variant: None,
        };
        assert!(repo("owner/name", "refs/pr/1").check("source").is_ok());
        for (name, revision) in [("name", "main"), ("../x", "main"), ("a/b/c", "main"), ("a/b", "../x"), ("a/b", "")] {
            assert!(repo(name, revision).check("source").is_err(), "{name} {revision}");
        }
    }

    #[test]
    fn an_uploaded_file_has_a_path_within_the_model() {
        let upload = |paths: &[&str]| {
            let files = paths.iter().map(|path| UploadedFile { path: (*path).into(), upload: UploadId::new() });
            Source::Upload { files: files.collect() }.check("source")
        };
        for good in ["ü.safetensors", "K2 (v2).SAFETENSORS", "x", "vae/config.json"] {
            assert!(upload(&[good]).is_ok(), "{good}");
        }
        for bad in ["a/../b.safetensors", "../x", "/x", ".x", "a b/c.json", "a/b/c/d/e"] {
            let refused = upload(&["x", bad]).unwrap_err().to_string();
            assert!(refused.starts_with("source.files[1].path: ") && refused.contains("`_` and `-`"), "{refused}");
        }
        assert!(upload(&[]).unwrap_err().to_string().starts_with("source.files: "));
    }

    #[test]
    fn query_strings_of_parts_are_kept_apart() {
        let parts = Parts { vae: Some(url("https://a.b/c?token=secret")), ..Parts::default() };
        let (shown, queries) = parts.without_queries();
        assert_eq!(shown, Parts { vae: Some(url("https://a.b/c")), ..Parts::default() });
        assert_eq!(queries, BTreeMap::from([(Part::Vae, "token=secret".to_owned())]));
    }

    #[test]
    fn a_query_string_is_kept_apart() {
        let (shown, query) = url("https://a.b/c?token=secret").without_query();
        assert_eq!((shown, query.as_deref()), (url("https://a.b/c"), Some("token=secret")));
        assert_eq!(url("https://a.b/c").without_query().1, None);
    }
}
