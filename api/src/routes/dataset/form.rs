//! The form of `POST /v1/datasets/{id}/images`.

use axum::http::StatusCode;
use domain::dataset::MAX_CAPTION_CHARS;
use domain::dataset::folder::{self, Kind};
use domain::dataset::intake::{Intake, MAX_PICTURES};
use domain::{Error, image_gate, zip_gate};
use tokio::io::AsyncWriteExt;
use utoipa::ToSchema;

use crate::extract::{Multipart, Part, too_long};
use crate::problem::{Problem, Result};

/// The longest allowed caption in bytes, at four bytes a character.
const CAPTION_BYTES: u64 = MAX_CAPTION_CHARS as u64 * 4;
/// Most refused pictures of one request that are named.
const NAMED: usize = 100;

/// The form: pictures, each with an optional caption; or the files of a folder; or one archive.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the form; its parts are read one by one")]
pub(super) struct ImagesForm {
    /// PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF; at most 25 MiB, 8192 pixels a side and 40 megapixels each.
    #[schema(value_type = Option<Vec<String>>, format = Binary)]
    image: Option<Vec<Vec<u8>>>,
    /// Captions of at most 10 000 characters. Each belongs to the picture before it in the form, or to the next picture
    /// if the one before has a caption already or there is no picture before. As many captions as pictures, before or
    /// behind all of them, belong to them in their order.
    caption: Option<Vec<String>>,
    /// The files of a folder, each with its path as file name: pictures, captions (`fox.txt` or `fox.caption` beside
    /// `fox.png`, or a `metadata.jsonl` or `metadata.csv`) and others, which are left out.
    #[schema(value_type = Option<Vec<String>>, format = Binary)]
    file: Option<Vec<Vec<u8>>>,
    /// A zip archive of such a folder; at most 2 GiB and 10 000 entries.
    #[schema(value_type = Option<String>, format = Binary)]
    archive: Option<Vec<u8>>,
}

/// What a form adds; its parts cannot be mixed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Pictures,
    Folder,
    Archive,
}

fn unprocessable(field: &str, message: &str) -> Problem {
    Problem::field(StatusCode::UNPROCESSABLE_ENTITY, field, message)
}

/// Reads the form to its end. Errors: all pictures that are refused, or the first other problem.
pub(super) async fn take_images(form: &mut Multipart, intake: &mut Intake) -> Result<()> {
    let mut way = None;
    let mut parts = Vec::new();
    let mut refused = Vec::new();
    while let Some(part) = form.next().await? {
        let this = match part.name() {
            "image" | "caption" => Way::Pictures,
            "file" => Way::Folder,
            "archive" if way == Some(Way::Archive) => {
                return Err(unprocessable("archive", "Send one archive."));
            }
            "archive" => Way::Archive,
            other => {
                return Err(unprocessable(
                    other,
                    "There is no such part; send `image` and `caption` parts, `file` parts, or one `archive`.",
                ));
            }
        };
        if way.is_some_and(|way| way != this) {
            return Err(unprocessable(part.name(), "Send either pictures, or the files of a folder, or one archive."));
        }
        way = Some(this);
        match this {
            Way::Archive => intake.add_archive(spool(part).await?).await?,
            Way::Folder => take_file(part, intake).await?,
            Way::Pictures if part.name() == "image" => {
                parts.push(None);
                let picture = take_picture(part, intake, !refused.is_empty());
                if let Some(problem) = picture.await? {
                    refused.push(problem);
                    if refused.len() == NAMED {
                        break;
                    }
                }
            }
            Way::Pictures => {
                let text = part.text(CAPTION_BYTES).await?;
                if !refused.is_empty() {
                    continue;
                }
                if parts.len() >= 2 * MAX_PICTURES {
                    return Err(unprocessable("caption", "There are more captions than pictures can be."));
                }
                parts.push(Some(text));
            }
        }
    }
    if let Some(problem) = Problem::of_all(refused) {
        return Err(problem);
    }
    if way == Some(Way::Folder) {
        intake.sort_files("file").await?;
    }
    if way == Some(Way::Pictures) {
        intake.caption_all(&pair(parts)?)?;
    }
    Ok(())
}

/// The captions of the pictures, from the order of the parts: `None` is a picture. A caption belongs to the picture
/// before it, or to the next one if the one before has a caption already or there is none. As many captions as
/// pictures, before or behind all of them, belong to them in their order: generated clients send all parts of one name
/// together.
fn pair(parts: Vec<Option<String>>) -> Result<Vec<String>> {
    let pictures = parts.iter().filter(|part| part.is_none()).count();
    let turns = parts.windows(2).filter(|two| two[0].is_none() != two[1].is_none()).count();
    if turns == 1 && pictures > 1 && parts.len() == 2 * pictures {
        return Ok(parts.into_iter().flatten().collect());
    }
    let mut captions: Vec<Option<String>> = Vec::with_capacity(pictures);
    let mut next = None;
    for part in parts {
        match (part, captions.last_mut()) {
            (None, _) => captions.push(next.take()),
            (Some(_), _) if next.is_some() => {
                return Err(unprocessable("caption", "There are two captions for one picture."));
            }
            (Some(text), Some(last @ None)) => *last = Some(text),
            (Some(text), _) => next = Some(text),
        }
    }
    match next {
        Some(_) => Err(unprocessable("caption", "There is no picture for this caption.")),
        None => Ok(captions.into_iter().map(Option::unwrap_or_default).collect()),
    }
}

/// Adds one picture; with `check_only`, after another was refused, it only looks whether this one is refused, too.
async fn take_picture(part: Part<'_>, intake: &mut Intake, check_only: bool) -> Result<Option<Problem>> {
    let name = part.file_name();
    let Some(bytes) = part.bytes_if_small(image_gate::MAX_BYTES).await? else {
        return Ok(Some(of_file(too_long("image", image_gate::MAX_BYTES), name)));
    };
    let taken = if check_only {
        image_gate::check("image", bytes).await.map(drop)
    } else {
        intake.add("image", bytes, "").await
    };
    match taken {
        Ok(()) => Ok(None),
        Err(error @ (Error::Invalid { .. } | Error::Unsupported { .. } | Error::TooLarge { .. })) => {
            Ok(Some(of_file(error.into(), name)))
        }
        Err(error) => Err(error.into()),
    }
}

/// The same problem with the name of the file that it is about.
fn of_file(mut problem: Problem, name: Option<String>) -> Problem {
    if let (Some(name), Some(error)) = (name.filter(|name| !name.is_empty()), problem.errors.first_mut()) {
        error.message = format!("`{name}`: {}", error.message);
        problem.detail = format!("{}: {}", error.field, error.message);
    }
    problem
}

/// Takes a file of a folder.
async fn take_file(part: Part<'_>, intake: &mut Intake) -> Result<()> {
    let Some(path) = part.file_name().filter(|path| !path.is_empty()) else {
        return Err(unprocessable("file", "A file needs its path within the folder as its file name."));
    };
    let kind = folder::kind(&path);
    let limit = match kind {
        // Nobody reads it.
        Kind::Other(_) => 0,
        _ => kind.text_limit().unwrap_or(image_gate::MAX_BYTES),
    };
    match (kind, part.bytes_if_small(limit).await?) {
        (Kind::Other(_), _) => intake.add_file("file", &path, axum::body::Bytes::new()).await?,
        (_, Some(bytes)) => intake.add_file("file", &path, bytes).await?,
        (_, None) => intake.leave_out("file", &path, &format!("It has more than {limit} bytes."))?,
    }
    Ok(())
}

/// Writes an archive to an unnamed temporary file, since a zip is read from its end.
async fn spool(mut part: Part<'_>) -> Result<std::fs::File> {
    let temporary = tokio::task::spawn_blocking(tempfile::tempfile).await;
    let file = temporary.map_err(Error::internal)?.map_err(Error::unavailable)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut bytes = 0;
    while let Some(chunk) = part.chunk().await? {
        bytes += chunk.len() as u64;
        if bytes > zip_gate::MAX_ARCHIVE_BYTES {
            return Err(Problem::field(
                StatusCode::PAYLOAD_TOO_LARGE,
                "archive",
                "The archive is larger than 2 GiB; split it.",
            ));
        }
        file.write_all(&chunk).await.map_err(Error::unavailable)?;
    }
    file.flush().await.map_err(Error::unavailable)?;
    Ok(file.into_std().await)
}
