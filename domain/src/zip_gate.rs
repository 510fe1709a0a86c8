//! The gate for archives of pictures and captions. Nothing is extracted to disk and no name from the archive becomes a
//! path. Entries are read one by one, counting the bytes that are really decompressed, since a header may say anything.
//! An entry that cannot be used is passed on with the reason; an archive that attacks is refused as a whole. Not here:
//! what the files are (`dataset::folder`), or what a picture must be (`image_gate`).

mod repeated;

use std::fs::File;
use std::io::{BufReader, Read};

use bytes::Bytes;
use zip::ZipArchive;

use crate::dataset::folder::{self, Kind};
use crate::{Error, Result, image_gate};

/// Largest archive, in bytes.
pub const MAX_ARCHIVE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Most entries, folders included.
pub const MAX_ENTRIES: usize = 10_000;
/// Most bytes decompressed from one archive.
pub const MAX_TOTAL_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Most bytes decompressed per compressed byte; pictures are compressed already and stay near 1.
pub const MAX_RATIO: u64 = 100;
/// Files up to this size, in bytes, are exempt from the ratio.
const RATIO_FREE_BYTES: u64 = 64 * 1024;
const FIELD: &str = "archive";

/// One file of the archive.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    /// The bytes, or why they cannot be used.
    pub content: Result<Bytes, String>,
}

/// A file by the table of contents.
struct Listed {
    name: String,
    index: usize,
    /// Why it cannot be read.
    refused: Option<&'static str>,
}

/// An open archive whose table of contents has been checked; iterate to read its files in the order of their names.
pub struct Archive {
    /// The name of each entry behind which another of the same name follows. Only the last is read.
    pub repeated: Vec<String>,
    zip: ZipArchive<BufReader<File>>,
    files: std::vec::IntoIter<Listed>,
    bytes_left: u64,
}

impl Archive {
    /// Reads the table of contents. Blocking. Errors: `TooLarge` over a limit, `Unsupported` if it is not a zip
    /// archive, `Invalid` otherwise.
    pub fn open(file: File) -> Result<Self> {
        let bytes = file.metadata().map_err(Error::internal)?.len();
        if bytes > MAX_ARCHIVE_BYTES {
            return Err(Error::too_large(FIELD, "The archive is larger than 2 GiB; split it."));
        }
        let table = file.try_clone().map_err(Error::internal)?;
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            Error::unsupported(FIELD, format!("The file cannot be read as a zip archive: {error}."))
        })?;
        if zip.len() > MAX_ENTRIES {
            return Err(Error::too_large(
                FIELD,
                format!("The archive has {} entries; at most {MAX_ENTRIES} are taken.", zip.len()),
            ));
        }
        let repeated = repeated::names(table, zip.central_directory_start()).map_err(unreadable)?;
        let files = list(&mut zip)?;
        Ok(Self { repeated, zip, files: files.into_iter(), bytes_left: MAX_TOTAL_BYTES })
    }

    /// The bytes of a file. Errors: those of an archive that is to be refused; within, why only this file cannot be
    /// used.
    fn read(&mut self, index: usize, limit: u64) -> Result<Result<Bytes, String>> {
        let mut entry = match self.zip.by_index(index) {
            Ok(entry) => entry,
            Err(error) => return Ok(Err(format!("It is damaged: {error}."))),
        };
        let name = entry.name().to_owned();
        let compressed = entry.compressed_size();
        let ratio_limit = compressed.saturating_mul(MAX_RATIO).max(RATIO_FREE_BYTES);
        let allowed = limit.min(ratio_limit).min(self.bytes_left);
        let mut bytes = Vec::new();
        if let Err(error) = (&mut entry).take(allowed + 1).read_to_end(&mut bytes) {
            return Ok(Err(format!("It is damaged: {error}.")));
        }
        let count = bytes.len() as u64;
        if count > ratio_limit {
            return Err(Error::too_large(
                FIELD,
                format!("`{name}` unpacks to more than {MAX_RATIO} times its size, as a zip bomb does."),
            ));
        }
        if count > limit {
            return Ok(Err(format!("It has more than {limit} bytes.")));
        }
        if count > self.bytes_left {
            return Err(Error::too_large(FIELD, "The archive unpacks to more than 8 GiB; split it."));
        }
        self.bytes_left -= count;
        Ok(Ok(bytes.into()))
    }

    fn entry(&mut self, file: Listed) -> Result<Entry> {
        let kind = folder::kind(&file.name);
        let content = match (file.refused, &kind) {
            (_, Kind::Other(reason)) => Err(reason.clone()),
            (Some(reason), _) => Err(reason.to_owned()),
            (None, _) => self.read(file.index, kind.text_limit().unwrap_or(image_gate::MAX_BYTES))?,
        };
        Ok(Entry { name: file.name, content })
    }
}

impl Iterator for Archive {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let file = self.files.next()?;
        Some(self.entry(file))
    }
}

/// The files by name, without folders. Errors: `Invalid` if entries share their bytes.
fn list(zip: &mut ZipArchive<BufReader<File>>) -> Result<Vec<Listed>> {
    let mut files = Vec::new();
    let mut spans = Vec::new();
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(unreadable)?;
        if entry.is_dir() {
            continue;
        }
        let refused = match () {
            () if entry.is_symlink() || !entry.is_file() => Some("A link, not a file."),
            () if entry.encrypted() => Some("It is encrypted."),
            () => None,
        };
        spans.push((entry.data_start(), entry.data_start().saturating_add(entry.compressed_size())));
        files.push(Listed { name: entry.name().to_owned(), index, refused });
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(Error::invalid(FIELD, "Entries of the archive share the same bytes, as in a zip bomb."));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::invalid(FIELD, format!("The archive is damaged: {error}."))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive(entries: &[(&str, &[u8])]) -> File {
        let mut writer = zip::ZipWriter::new(tempfile::tempfile().unwrap());
        for (name, bytes) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        let mut file = writer.finish().unwrap();
        file.rewind().unwrap();
        file
    }

    fn refusal(entries: &[(&str, &[u8])]) -> String {
        let error = match Archive::open(archive(entries)) {
            Err(error) => error,
            Ok(archive) => archive.collect::<Result<Vec<_>>>().unwrap_err(),
        };
        error.to_string()
    }

    #[test]
    fn passes_on_what_is_used_and_the_reason_for_the_rest() {
        let large = vec![b'x'; folder::MAX_CAPTION_BYTES as usize + 1];
        let entries: Vec<_> = Archive::open(archive(&[
            ("b.txt", b"a ball"),
            ("b.png", b"two"),
            ("folder/a.JPG", b"one"),
            ("__MACOSX/._b.png", b"litter"),
            ("inner.zip", b"x"),
            ("long.txt", &large),
        ]))
        .unwrap()
        .collect::<Result<_>>()
        .unwrap();
        let seen: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.content.as_deref().ok())).collect();
        assert_eq!(
            seen,
            [
                ("__MACOSX/._b.png", None),
                ("b.png", Some(&b"two"[..])),
                ("b.txt", Some(b"a ball")),
                ("folder/a.JPG", Some(b"one")),
                ("inner.zip", None),
                ("long.txt", None),
            ]
        );
        assert!(entries[5].content.as_ref().unwrap_err().contains("more than 40003 bytes"));
    }

    #[test]
    fn refuses_bombs_and_strangers() {
        let zeros = vec![0u8; 4 << 20];
        assert!(refusal(&[("a.png", &zeros)]).contains("zip bomb"));
        let mut junk = tempfile::tempfile().unwrap();
        junk.write_all(b"not a zip at all").unwrap();
        assert!(matches!(Archive::open(junk), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn a_second_entry_of_the_same_name_is_told() {
        let mut bytes = Vec::new();
        archive(&[("a.png", b"one"), ("b.png", b"two"), ("c.txt", b"")]).read_to_end(&mut bytes).unwrap();
        while let Some(at) = bytes.windows(5).position(|window| window == b"b.png") {
            bytes[at] = b'a';
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let archive = Archive::open(file).unwrap();
        assert_eq!(archive.repeated, ["a.png"]);
        let read: Vec<_> = archive.map(|entry| entry.unwrap().content.unwrap()).collect();
        assert_eq!(read, [&b"two"[..], b""]);
    }

    #[test]
    fn a_damaged_entry_does_not_spoil_the_others() {
        let mut file = archive(&[("a.png", b"the first picture"), ("b.png", b"the second")]);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let stored = bytes.windows(5).position(|window| window == b"a.png").unwrap() + 5;
        bytes[stored + 2] ^= 0xff;
        let mut damaged = tempfile::tempfile().unwrap();
        damaged.write_all(&bytes).unwrap();
        damaged.rewind().unwrap();
        let entries: Vec<_> = Archive::open(damaged).unwrap().collect::<Result<_>>().unwrap();
        assert!(entries[0].content.as_ref().unwrap_err().contains("damaged"));
        assert_eq!(entries[1].content.as_deref(), Ok(&b"the second"[..]));
    }

    #[test]
    fn refuses_more_entries_than_allowed() {
        let names: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("{n}.png")).collect();
        let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        assert!(refusal(&entries).contains("entries"));
    }
}
