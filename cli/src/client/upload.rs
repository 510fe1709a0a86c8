//! Uploads local files: a folder of pictures with captions, a LoRA file, a diffusers folder. Files of any size are
//! streamed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use formats::{folder, json};
use futures::TryStreamExt as _;
use reqwest::Body;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::Client;
use super::resource::{Dataset, Input};
use crate::failure::Failure;
use crate::meter::Meter;

/// A longer caption file is refused before the upload; the server's limit is 10 000 characters.
const CAPTION_BYTES: u64 = 64 << 10;

/// A picture to train on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub path: PathBuf,
    /// The text of `photo.txt` beside `photo.png`; empty if there is none.
    pub caption: String,
}

/// The pictures of `folder`, by name: `photo.png` (or jpg, jpeg, webp) with its caption in `photo.txt`.
pub(crate) fn pictures(folder: &Path) -> Result<Vec<Picture>, Failure> {
    let cannot_read = |path: &Path| format!("could not read {}", path.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| cannot_read(folder))? {
        let path = entry.with_context(|| cannot_read(folder))?.path();
        let extension =
            path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
        if matches!(extension.as_str(), "png" | "jpg" | "jpeg" | "webp") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::Usage(format!("{} contains no pictures (png, jpg, jpeg, webp)", folder.display())));
    }
    paths
        .into_iter()
        .map(|path| {
            let text = path.with_extension("txt");
            let caption = match std::fs::metadata(&text) {
                Ok(metadata) if metadata.len() > CAPTION_BYTES => {
                    return Err(Failure::Usage(format!("{} is too long for a caption", text.display())));
                }
                Ok(_) => std::fs::read_to_string(&text).with_context(|| cannot_read(&text))?.trim().to_owned(),
                Err(_) => String::new(),
            };
            Ok(Picture { path, caption })
        })
        .collect()
}

/// Creates a dataset from `pictures`. If one of them is refused, the dataset is deleted again.
pub(crate) async fn create_dataset(client: &Client, name: &str, pictures: &[Picture]) -> Result<Dataset, Failure> {
    let dataset: Dataset = client.post("/v1/datasets", &json!({ "name": name })).await?;
    if let Err(failure) = add_pictures(client, &dataset.id, pictures).await {
        let _ = client.delete(&format!("/v1/datasets/{}", dataset.id)).await;
        return Err(failure);
    }
    Ok(dataset)
}

/// Adds `pictures` to a dataset, one request each, so that a refusal names its file.
pub(crate) async fn add_pictures(client: &Client, dataset: &str, pictures: &[Picture]) -> Result<(), Failure> {
    let meter = Meter::count("uploading pictures", pictures.len() as u64);
    for picture in pictures {
        let part = picture_part(&picture.path).await?;
        let mut form = Form::new().percent_encode_noop();
        if !picture.caption.is_empty() {
            form = form.text("caption", picture.caption.clone());
        }
        let added: Result<Value, _> =
            client.post_form(&format!("/v1/datasets/{dataset}/images"), form.part("image", part)).await;
        added.map_err(|failure| of_file(&picture.path, failure))?;
        meter.advance(1);
    }
    Ok(())
}

/// Uploads an input picture for generations. Returns its id.
pub(crate) async fn create_input(client: &Client, path: &Path) -> Result<String, Failure> {
    let form = Form::new().percent_encode_noop().part("image", picture_part(path).await?);
    let input: Input = client.post_form("/v1/inputs", form).await.map_err(|failure| of_file(path, failure))?;
    Ok(input.id)
}

async fn picture_part(path: &Path) -> Result<Part, Failure> {
    let part = file_part(path, &file_name(path)?, None).await?;
    Ok(part.mime_str(media_type(path)).context("not a media type")?)
}

/// A refusal that names the file.
fn of_file(path: &Path, failure: Failure) -> Failure {
    match failure {
        Failure::Refused(why) => Failure::Refused(format!("{}: {why}", path.display())),
        other => other,
    }
}

/// Uploads a diffusers folder, with the weights of `variant`, or a file as the model `name`, with further text fields
/// (`texts`) and separate `parts`. Returns the server's answer.
pub(crate) async fn import_model(
    client: &Client,
    path: &Path,
    name: &str,
    variant: Option<&str>,
    texts: &[(&'static str, &str)],
    parts: &[(&'static str, &str)],
) -> Result<Value, Failure> {
    let mut files: Vec<_> =
        model_files(path, variant)?.into_iter().map(|(inside, file)| ("file", inside, file)).collect();
    for (part, path) in parts {
        let path = Path::new(path);
        check_weights(path)?;
        files.push((*part, file_name(path)?, path.to_owned()));
    }
    let mut total = 0;
    for (.., file) in &files {
        total += std::fs::metadata(file).with_context(|| format!("could not read {}", file.display()))?.len();
    }
    let meter = Meter::bytes(format!("uploading {name}"), total);
    let mut form = Form::new().percent_encode_noop().text("name", name.to_owned());
    for (field, value) in texts {
        form = form.text(*field, (*value).to_owned());
    }
    for (field, inside, file) in &files {
        form = form.part(*field, file_part(file, inside, Some(&meter)).await?);
    }
    client.post_form("/v1/models", form).await
}

fn check_weights(path: &Path) -> Result<(), Failure> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors" | "gguf") => Ok(()),
        _ => Err(Failure::Usage(format!(
            "{} is not a .safetensors or .gguf file; pickles are never read",
            path.display()
        ))),
    }
}

/// The files of a model with their paths inside it: the file itself, or the files of a folder that a pipeline loads,
/// with the weights of `variant`.
fn model_files(path: &Path, variant: Option<&str>) -> Result<Vec<(String, PathBuf)>, Failure> {
    if !path.exists() {
        return Err(Failure::Usage(format!("there is no file or folder {}", path.display())));
    }
    if path.is_file() {
        check_weights(path)?;
        return Ok(vec![(file_name(path)?, path.to_owned())]);
    }
    let mut found = Vec::new();
    for entry in read_folder(path)? {
        let name = file_name(&entry)?;
        if entry.is_dir() {
            for inner in read_folder(&entry)? {
                found.push((format!("{name}/{}", file_name(&inner)?), inner));
            }
        } else {
            found.push((name, entry));
        }
    }
    found.retain(|(_, file)| file.is_file());
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let refused = |reason: String| Failure::Usage(format!("{}: {reason}", path.display()));
    let chosen = if names.contains(&folder::INDEX) {
        let index = path.join(folder::INDEX);
        let text = std::fs::read(&index).with_context(|| format!("could not read {}", index.display()))?;
        let index = json::read(&text).map_err(|error| refused(format!("{} is not JSON: {error}", folder::INDEX)))?;
        folder::pipeline(&names, &index, variant).map_err(refused)?
    } else {
        vec![folder::single(&names).map_err(refused)?]
    };
    let chosen: Vec<String> = chosen.into_iter().map(str::to_owned).collect();
    found.retain(|(name, _)| chosen.contains(name));
    Ok(found)
}

/// The entries of a folder by name, without hidden ones.
fn read_folder(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut entries = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("could not read {}", folder.display()))?;
    entries.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| !name.starts_with('.')));
    entries.sort();
    Ok(entries)
}

/// A form part with the name `name` that streams `file`.
async fn file_part(file: &Path, name: &str, meter: Option<&Meter>) -> Result<Part, Failure> {
    let cannot_read = || format!("could not read {}", file.display());
    let open = tokio::fs::File::open(file).await.with_context(cannot_read)?;
    let metadata = open.metadata().await.with_context(cannot_read)?;
    if !metadata.is_file() {
        return Err(Failure::Usage(format!("{} is not a file", file.display())));
    }
    let length = metadata.len();
    let count = meter.map(Meter::counter);
    let pieces = ReaderStream::with_capacity(open, 256 << 10).inspect_ok(move |piece| {
        if let Some(count) = &count {
            count(piece.len() as u64);
        }
    });
    Ok(Part::stream_with_length(Body::wrap_stream(pieces), length).file_name(name.to_owned()))
}

/// The name of a file, if it can be sent in a form.
fn file_name(path: &Path) -> Result<String, Failure> {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if !name.contains(['"', '\r', '\n', '\\']) => Ok(name.to_owned()),
        _ => {
            Err(Failure::Usage(format!("the file name of {} contains characters that cannot be sent", path.display())))
        }
    }
}

fn media_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        _ => "image/png",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_lies_beside_its_picture() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        file("b.JPG", "");
        file("a.png", "");
        file("a.txt", " a red fox\n");
        file("notes.md", "");
        let found = pictures(folder.path()).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|picture| (picture.path.file_name().unwrap().to_str().unwrap(), picture.caption.as_str()))
            .collect();
        assert_eq!(names, [("a.png", "a red fox"), ("b.JPG", "")]);
    }

    #[test]
    fn an_empty_folder_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let Err(Failure::Usage(why)) = pictures(folder.path()) else { panic!("an empty folder was taken") };
        assert!(why.contains(folder.path().to_str().unwrap()));
    }

    #[test]
    fn only_what_a_pipeline_is_loaded_from_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "model_index.json",
            "big.safetensors",
            "clip/model.safetensors",
            ".git/config",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "vae/old.bin",
            "safety_checker/model.safetensors",
            "tokenizer/merges.txt",
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        let index = r#"{"vae": ["a", "b"], "tokenizer": ["a", "b"], "safety_checker": ["a", "b"]}"#;
        std::fs::write(folder.path().join("model_index.json"), index).unwrap();
        let names = |variant| -> Vec<String> {
            model_files(folder.path(), variant).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        let common = ["model_index.json", "tokenizer/merges.txt", "vae/config.json"];
        assert_eq!(names(None), [&common[..], &["vae/diffusion_pytorch_model.safetensors"]].concat());
        assert_eq!(names(Some("fp16")), [&common[..], &["vae/diffusion_pytorch_model.fp16.safetensors"]].concat());
        let Err(Failure::Usage(why)) = model_files(folder.path(), Some("bf16")) else { panic!("no variant was taken") };
        assert!(why.contains("bf16"), "{why}");
        std::fs::remove_file(folder.path().join("model_index.json")).unwrap();
        let Err(Failure::Usage(why)) = model_files(folder.path(), None) else { panic!("several files were taken") };
        assert!(why.contains("model_index.json") && why.contains("big.safetensors"), "{why}");
    }

    #[tokio::test]
    async fn a_folder_is_no_picture_and_what_is_not_there_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let Err(Failure::Usage(why)) = picture_part(folder.path()).await else { panic!("a folder was taken") };
        assert!(why.contains(folder.path().to_str().unwrap()), "{why}");
        let missing = folder.path().join("x.safetensors");
        let Err(Failure::Usage(why)) = model_files(&missing, None) else { panic!("no file was taken") };
        assert!(why.contains("there is no file"), "{why}");
    }

    #[test]
    fn a_pickle_is_not_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let pickle = folder.path().join("lora.ckpt");
        std::fs::write(&pickle, "").unwrap();
        assert!(matches!(model_files(&pickle, None), Err(Failure::Usage(_))));
    }
}
