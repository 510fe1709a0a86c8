//! Uploads local files: an input picture, a LoRA file, a diffusers folder. Files of any size are streamed. Not here: a
//! folder of pictures with captions (`pictures`).

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use domain::model::config_beside;
use domain::{image_gate, weights_gate};
use formats::{Sniffer, folder, json};
use futures::TryStreamExt as _;
use reqwest::Body;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use tokio_util::io::ReaderStream;

use super::Client;
use super::resource::{Input, PictureInfo};
use crate::failure::Failure;
use crate::meter::Meter;
use crate::output::{shown, tell};

/// Uploads an input picture for generations. Returns its id.
pub(crate) async fn create_input(client: &Client, path: &Path) -> Result<String, Failure> {
    let form = Form::new().percent_encode_noop().part("image", picture_part(path).await?);
    let input: Input = client.post_form("/v1/inputs", form).await.map_err(|failure| of_file(path, failure))?;
    Ok(input.id)
}

/// What a picture's file records about how it was made, translated for `model` if it is given.
pub(crate) async fn read_picture(client: &Client, path: &Path, model: Option<&str>) -> Result<PictureInfo, Failure> {
    Client::understand(picture_info(client, path, model).await?)
}

/// As [`read_picture`], the whole answer.
pub(crate) async fn picture_info(client: &Client, path: &Path, model: Option<&str>) -> Result<Value, Failure> {
    let mut form = Form::new().percent_encode_noop().part("image", picture_part(path).await?);
    if let Some(model) = model {
        form = form.text("model", model.to_owned());
    }
    client.post_form("/v1/picture-info", form).await.map_err(|failure| of_file(path, failure))
}

/// A form part with a picture.
///
/// # Errors
/// `Usage` unless it is a file, `Refused` for a file that is too large for a picture.
pub(super) async fn picture_part(path: &Path) -> Result<Part, Failure> {
    if let Some(why) = image_gate::too_large(file_size(path)?) {
        return Err(of_file(path, Failure::Refused(why)));
    }
    let part = file_part(path, &sent_name(path), None).await?;
    Ok(part.mime_str(media_type(path)).context("not a media type")?)
}

/// A refusal that names the file.
fn of_file(path: &Path, failure: Failure) -> Failure {
    match failure {
        Failure::Refused(why) => Failure::Refused(format!("{}: {why}", shown(path))),
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
    parts: &[(&'static str, &OsStr)],
) -> Result<Value, Failure> {
    let mut files: Vec<_> =
        model_files(path, variant)?.into_iter().map(|(inside, file)| ("file", inside, file)).collect();
    for (part, path) in parts {
        let path = Path::new(path);
        files.push((*part, sent_name(path), path.to_owned()));
    }
    let mut total = 0;
    for (_, inside, file) in &files {
        total += check_content(file, inside)?;
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

/// Checks the header of a file of weights, which the server would refuse only when it arrives. As on the server, any
/// name but that of a text may hold weights. `called` is its path within the model. Returns its size in bytes.
fn check_content(file: &Path, called: &str) -> Result<u64, Failure> {
    let cannot_read = || format!("could not read {}", shown(file));
    let bytes = file_size(file)?;
    let mut open = std::fs::File::open(file).with_context(cannot_read)?;
    if [".json", ".txt", ".md", ".model"].iter().any(|end| called.ends_with(end)) {
        return Ok(bytes);
    }
    let refused = |refusal| Failure::Refused(weights_gate::refused(refusal, called).to_string());
    let mut sniffer = Sniffer::default();
    while sniffer.wants() > 0 {
        let mut piece = Vec::new();
        if open.by_ref().take(sniffer.wants() as u64).read_to_end(&mut piece).with_context(cannot_read)? == 0 {
            break;
        }
        sniffer.push(&piece).map_err(refused)?;
    }
    sniffer.finish(bytes).map_err(refused)?;
    Ok(bytes)
}

/// The files of a model with their paths inside it: the file itself, or the files of a folder that a pipeline loads,
/// with the weights of `variant`.
fn model_files(path: &Path, variant: Option<&str>) -> Result<Vec<(String, PathBuf)>, Failure> {
    if !path.exists() {
        return Err(Failure::Usage(format!("there is no file or folder {}", shown(path))));
    }
    if path.is_file() {
        return with_config(path);
    }
    if !path.is_dir() {
        return Err(Failure::Usage(format!("{} is neither a file nor a folder", shown(path))));
    }
    let mut found = Vec::new();
    for entry in read_folder(path)? {
        let name = sent_name(&entry);
        if entry.is_dir() {
            for inner in read_folder(&entry)? {
                found.push((format!("{name}/{}", sent_name(&inner)), inner));
            }
        } else {
            found.push((name, entry));
        }
    }
    found.retain(|(_, file)| file.is_file());
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let refused = |reason: String| Failure::Usage(format!("{}: {reason}", shown(path)));
    let chosen = if names.contains(&folder::INDEX) {
        let index = path.join(folder::INDEX);
        let text = std::fs::read(&index).with_context(|| format!("could not read {}", shown(&index)))?;
        let index = json::read(&text).map_err(|error| refused(format!("{} is not JSON: {error}", folder::INDEX)))?;
        folder::pipeline(&names, &index, variant).map_err(refused)?
    } else {
        let weights = folder::single(&names).map_err(refused)?;
        tell!("{} has no {}; its one file of weights is taken: {weights}", path.display(), folder::INDEX);
        // The file may have a name that is no UTF-8.
        let file = found.iter().find(|(name, _)| name == weights).map(|(_, file)| file);
        return with_config(file.unwrap_or(&path.join(weights)));
    };
    let chosen: Vec<String> = chosen.into_iter().map(str::to_owned).collect();
    found.retain(|(name, _)| chosen.contains(name));
    Ok(found)
}

/// A file of weights, and PEFT's config beside it.
fn with_config(weights: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let name = sent_name(weights);
    let folder = weights.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = read_folder(folder)?;
    let names: Vec<&str> = beside.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let config = config_beside(&name, &names).map(|config| (config.to_owned(), folder.join(config)));
    Ok(std::iter::once((name, weights.to_owned())).chain(config).collect())
}

/// The entries of a folder by name, without hidden ones.
fn read_folder(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut entries = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("could not read {}", shown(folder)))?;
    entries.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    entries.sort();
    Ok(entries)
}

/// A form part with the name `name` that streams `file`.
async fn file_part(file: &Path, name: &str, meter: Option<&Meter>) -> Result<Part, Failure> {
    let cannot_read = || format!("could not read {}", shown(file));
    let length = file_size(file)?;
    let open = tokio::fs::File::open(file).await.with_context(cannot_read)?;
    let count = meter.map(Meter::counter);
    let pieces = ReaderStream::with_capacity(open, 256 << 10).inspect_ok(move |piece| {
        if let Some(count) = &count {
            count(piece.len() as u64);
        }
    });
    Ok(Part::stream_with_length(Body::wrap_stream(pieces), length).file_name(name.to_owned()))
}

/// The size of a file in bytes. It is not opened, since opening a named pipe waits for a program that writes to it.
fn file_size(path: &Path) -> Result<u64, Failure> {
    let metadata = std::fs::metadata(path).with_context(|| format!("could not read {}", shown(path)))?;
    if !metadata.is_file() {
        return Err(Failure::Usage(format!("{} is not a file", shown(path))));
    }
    Ok(metadata.len())
}

/// The name of a file as a form can carry it: quotation marks and ends of lines are escaped as browsers do, and what no
/// header can carry is replaced. The server needs the name for its messages, and the ending of a model's file.
pub(super) fn sent_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let sent = |c: char| match c {
        '"' => "%22".to_owned(),
        '\r' => "%0D".to_owned(),
        '\n' => "%0A".to_owned(),
        // The server would take a backslash for the end of a folder's name.
        '\\' => "_".to_owned(),
        c if c.is_control() => "_".to_owned(),
        c => c.to_string(),
    };
    name.chars().map(sent).collect()
}

fn media_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        _ => "image/png",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_lora_brings_its_config_along() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["adapter_model.safetensors", "adapter_config.json", "README.md", "training_args.bin"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        let sent = |path: &Path| -> Vec<String> {
            model_files(path, None).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        let both = ["adapter_model.safetensors", "adapter_config.json"];
        assert_eq!(sent(folder.path()), both);
        assert_eq!(sent(&folder.path().join(both[0])), both);
        std::fs::write(folder.path().join("ink.safetensors"), "").unwrap();
        assert_eq!(sent(&folder.path().join("ink.safetensors")), ["ink.safetensors"], "the config is not its own");
        assert!(matches!(model_files(folder.path(), None), Err(Failure::Usage(_))), "which of the two");
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

    #[tokio::test]
    async fn a_pipe_and_a_device_are_no_files_and_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("ink\n.safetensors");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let Err(Failure::Usage(why)) = picture_part(&pipe).await else { panic!("a pipe was taken") };
        assert!(why.contains(r"ink\n.safetensors is not a file"), "{why}");
        let Err(Failure::Usage(why)) = check_content(&pipe, "x.safetensors") else { panic!("a pipe was taken") };
        assert!(why.contains("is not a file"), "{why}");
        for path in [&pipe, Path::new("/dev/null")] {
            let Err(Failure::Usage(why)) = model_files(path, None) else { panic!("{path:?} was taken") };
            assert!(why.contains("is neither a file nor a folder"), "{why}");
        }
    }

    #[tokio::test]
    async fn what_is_too_large_for_a_picture_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.png");
        std::fs::File::create(&path).unwrap().set_len(3 << 30).unwrap();
        let Err(Failure::Refused(why)) = picture_part(&path).await else { panic!("it was taken") };
        assert!(why.contains("large.png: The picture has 3221225472 bytes"), "{why}");
    }

    #[test]
    fn every_name_can_be_sent() {
        use std::os::unix::ffi::OsStrExt as _;
        let sent = |name: &[u8]| sent_name(&Path::new("in").join(std::ffi::OsStr::from_bytes(name)));
        assert_eq!(sent("brûlé 鳥.png".as_bytes()), "brûlé 鳥.png");
        assert_eq!(sent(b"a \"b\".png"), "a %22b%22.png");
        assert_eq!(sent(b"a\r\nb.png"), "a%0D%0Ab.png");
        assert_eq!(sent(b"a\\b\x1b\x7f.png"), "a_b__.png");
        assert_eq!(sent(b"a\xff.png"), "a\u{fffd}.png");
    }

    #[test]
    fn weights_are_known_by_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let json = r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let weights = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[0; 4]].concat();
        let check = |name: &str, content: &[u8]| {
            let file = folder.path().join(name);
            std::fs::write(&file, content).unwrap();
            check_content(&file, name)
        };
        for name in ["lora.safetensors", "lora.bin", "lora"] {
            assert_eq!(check(name, &weights).unwrap(), weights.len() as u64);
            for (content, why) in [(&b"\x80\x02}q\0\0\0\0"[..], "a pickle"), (&weights[..60], "file"), (b"", "0 bytes")]
            {
                let Err(Failure::Refused(refused)) = check(name, content) else { panic!("{name}: {why} is sent") };
                assert!(refused.contains(&format!("`{name}`: ")) && refused.contains(why), "{refused}");
            }
        }
        assert_eq!(check("config.json", b"{}").unwrap(), 2);
    }
}
