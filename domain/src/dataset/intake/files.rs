//! The files of a folder, as they arrive in any order: pictures are stored at once, texts are kept until the last file
//! is there, and then each picture gets its caption.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Intake, MAX_PICTURES};
use crate::dataset::folder::{self, Content, File, Kind, LeftOut};
use crate::{Error, Result};

/// Most reasons that one message repeats.
const REASONS_TOLD: usize = 50;

/// Files of a folder that arrived.
#[derive(Default)]
pub(super) struct Files {
    files: Vec<File>,
    /// What became of each picture, by the index of its file.
    pictures: HashMap<usize, Picture>,
    text_bytes: u64,
}

enum Picture {
    /// Index of the example.
    Stored(usize),
    /// Why it is left out.
    Refused(String),
}

impl Intake {
    /// Takes a file of a folder by its path within it; `field` is the field that an error names. A file that cannot be
    /// used is left out, and is not an error. Errors: `TooLarge` for too many files or too much text.
    pub async fn add_file(&mut self, field: &str, path: &str, bytes: Bytes) -> Result<()> {
        self.check_room(field)?;
        let kind = folder::kind(path);
        if let Some(limit) = kind.text_limit() {
            self.files.text_bytes += bytes.len() as u64;
            if bytes.len() as u64 > limit {
                return self.leave_out(field, path, &format!("It has more than {limit} bytes."));
            }
            if self.files.text_bytes > folder::MAX_TEXT_BYTES {
                return Err(Error::too_large(field, "The captions have more than 64 MiB together."));
            }
        }
        let content = match kind {
            Kind::Caption => Content::Caption(Ok(bytes.into())),
            Kind::Table => Content::Table(bytes.into()),
            Kind::Other(reason) => Content::Nothing(reason),
            Kind::Picture => {
                let picture = match self.add(field, bytes, "").await {
                    Ok(()) => Picture::Stored(self.rows.examples.len() - 1),
                    Err(
                        Error::Invalid { message, .. }
                        | Error::Unsupported { message, .. }
                        | Error::TooLarge { message, .. },
                    ) => Picture::Refused(message),
                    Err(error) => return Err(error),
                };
                self.files.pictures.insert(self.files.files.len(), picture);
                Content::Picture
            }
        };
        self.files.files.push(File { path: path.to_owned(), content });
        Ok(())
    }

    /// Lists a file of a folder that cannot be read, with the reason. Errors: `TooLarge` for too many files.
    pub fn leave_out(&mut self, field: &str, path: &str, reason: &str) -> Result<()> {
        self.check_room(field)?;
        let content = match folder::kind(path) {
            Kind::Picture => {
                self.files.pictures.insert(self.files.files.len(), Picture::Refused(reason.to_owned()));
                Content::Picture
            }
            Kind::Caption => Content::Caption(Err(reason.to_owned())),
            Kind::Table | Kind::Other(_) => Content::Nothing(reason.to_owned()),
        };
        self.files.files.push(File { path: path.to_owned(), content });
        Ok(())
    }

    /// Gives the pictures their captions and sorts them by path, once the last file was added. Errors: `Invalid` if no
    /// picture can be used; the message repeats the reasons.
    pub async fn sort_files(&mut self, field: &str) -> Result<()> {
        let Files { files, mut pictures, .. } = std::mem::take(&mut self.files);
        let paths: Vec<String> = files.iter().map(|file| folder::normal(&file.path)).collect();
        let sorted = folder::sort(files);
        self.left_out.extend(sorted.left_out);
        let mut stored: Vec<_> = std::mem::take(&mut self.rows.examples).into_iter().map(Some).collect();
        for (file, caption) in sorted.pictures {
            match pictures.remove(&file) {
                Some(Picture::Stored(example)) => {
                    let example = stored.get_mut(example).and_then(Option::take);
                    self.rows.examples.extend(example.map(|example| super::Example { caption, ..example }));
                }
                Some(Picture::Refused(reason)) => self.left_out.push(LeftOut::new(&paths[file], reason)),
                None => return Err(Error::internal("a picture of a folder was not stored")),
            }
        }
        // Pictures whose captions cannot be read.
        let unused: Vec<String> = stored.into_iter().flatten().map(|example| example.storage_key).collect();
        unused.iter().for_each(|key| self.deposit.release(key));
        self.storage.discard(unused).await;
        self.left_out.sort();
        self.left_out.dedup();
        if self.rows.examples.is_empty() {
            return Err(Error::invalid(field, nothing_to_learn_from(&self.left_out)));
        }
        Ok(())
    }

    fn check_room(&self, field: &str) -> Result<()> {
        if self.files.files.len() >= MAX_PICTURES {
            return Err(Error::too_large(field, format!("At most {MAX_PICTURES} files are taken at once.")));
        }
        Ok(())
    }
}

/// The message for a folder without a picture that can be used.
fn nothing_to_learn_from(left_out: &[LeftOut]) -> String {
    let told: Vec<String> = left_out
        .iter()
        .filter(|left| left.reason != folder::LITTER)
        .take(REASONS_TOLD)
        .map(|left| format!("`{}`: {}", left.file, left.reason))
        .collect();
    let more = left_out.len().saturating_sub(REASONS_TOLD);
    let more = if more > 0 { format!(" And {more} more.") } else { String::new() };
    format!("There is no picture that can be used. {}{more}", told.join(" ")).trim().to_owned()
}
