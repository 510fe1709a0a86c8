//! A source as JSON states it. All kinds are read as one object: serde would report each mistake in an enum with its
//! tag inside as one of the whole.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{Source, UploadedFile};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stated {
    kind: Kind,
    url: Option<String>,
    sha256: Option<String>,
    repo: Option<String>,
    revision: Option<String>,
    files: Option<Vec<File>>,
    variant: Option<String>,
    path: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Url,
    HuggingFace,
    Path,
    Upload,
}

enum File {
    OfRepository(String),
    Uploaded(UploadedFile),
}

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FileVisitor;

        impl<'de> Visitor<'de> for FileVisitor {
            type Value = File;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path within the repository, or an object with `path` and `upload`")
            }

            fn visit_str<E>(self, path: &str) -> Result<File, E> {
                Ok(File::OfRepository(path.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<File, A::Error> {
                UploadedFile::deserialize(MapAccessDeserializer::new(map)).map(File::Uploaded)
            }
        }

        deserializer.deserialize_any(FileVisitor)
    }
}

impl TryFrom<Stated> for Source {
    /// A message as serde's own, with the field's name in it.
    type Error = String;

    fn try_from(stated: Stated) -> Result<Self, String> {
        let Stated { kind, url, sha256, repo, revision, files, variant, path } = stated;
        let foreign = [
            ("url", url.is_some(), &[Kind::Url][..]),
            ("sha256", sha256.is_some(), &[Kind::Url]),
            ("repo", repo.is_some(), &[Kind::HuggingFace]),
            ("revision", revision.is_some(), &[Kind::HuggingFace]),
            ("files", files.is_some(), &[Kind::HuggingFace, Kind::Upload]),
            ("variant", variant.is_some(), &[Kind::HuggingFace]),
            ("path", path.is_some(), &[Kind::Path]),
        ];
        if let Some((field, ..)) = foreign.into_iter().find(|(_, there, kinds)| *there && !kinds.contains(&kind)) {
            return Err(format!("unknown field `{field}`; a source of this kind has no such field"));
        }
        Ok(match kind {
            Kind::Url => Source::Url { url: required("url", url)?, sha256 },
            Kind::HuggingFace => Source::HuggingFace {
                repo: required("repo", repo)?,
                revision: revision.unwrap_or_else(|| "main".to_owned()),
                files: files.map(|files| each(files, File::of_repository)).transpose()?,
                variant,
            },
            Kind::Path => Source::Path { path: required("path", path)? },
            Kind::Upload => Source::Upload { files: each(required("files", files)?, File::uploaded)? },
        })
    }
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("missing field `{field}`"))
}

fn each<T>(files: Vec<File>, read: fn(File) -> Result<T, &'static str>) -> Result<Vec<T>, String> {
    let files = files.into_iter().enumerate();
    files.map(|(at, file)| read(file).map_err(|message| format!("invalid field `files[{at}]`: {message}"))).collect()
}

impl File {
    fn of_repository(self) -> Result<String, &'static str> {
        match self {
            File::OfRepository(path) => Ok(path),
            File::Uploaded(_) => Err("it is an object, and has to be a path within the repository"),
        }
    }

    fn uploaded(self) -> Result<UploadedFile, &'static str> {
        match self {
            File::Uploaded(file) => Ok(file),
            File::OfRepository(_) => Err("it is a text, and has to be an object with `path` and `upload`"),
        }
    }
}
