//! The gate for archives of pictures: `photo.png` with `photo.txt` beside it as its caption. Nothing is extracted to
//! disk and no name from the archive becomes a path. Entries are read one by one, counting the bytes that are really
//! decompressed, since a header may say anything. Not here: what a picture must be (`image_gate`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};

use bytes::Bytes;
use zip::ZipArchive;

use crate::{Error, Result, dataset, image_gate};

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
/// The longest allowed caption in bytes, at four bytes a character.
const MAX_CAPTION_BYTES: u64 = dataset::MAX_CAPTION_CHARS as u64 * 4 + 3;
const FIELD: &str = "archive";

/// One picture of the archive, not yet decoded.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub bytes: Bytes,
    pub caption: Option<String>,
}

struct Pair {
    name: String,
    picture: usize,
    caption: Option<usize>,
}

/// An open archive whose table of contents has been checked; iterate to read its pictures in the order of their names.
pub struct Archive {
    zip: ZipArchive<BufReader<File>>,
    pairs: std::vec::IntoIter<Pair>,
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
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            Error::unsupported(FIELD, format!("The file cannot be read as a zip archive: {error}."))
        })?;
        if zip.len() > MAX_ENTRIES {
            return Err(Error::too_large(
                FIELD,
                format!("The archive has {} entries; at most {MAX_ENTRIES} are taken.", zip.len()),
            ));
        }
        let pairs = pair_up(&mut zip)?;
        if pairs.is_empty() {
            return Err(Error::invalid(FIELD, "The archive holds no picture; put PNG, JPEG or WebP files in it."));
        }
        Ok(Self { zip, pairs: pairs.into_iter(), bytes_left: MAX_TOTAL_BYTES })
    }

    fn read(&mut self, index: usize, limit: u64) -> Result<Vec<u8>> {
        let mut entry = self.zip.by_index(index).map_err(unreadable)?;
        let name = entry.name().to_owned();
        let compressed = entry.compressed_size();
        let ratio_limit = compressed.saturating_mul(MAX_RATIO).max(RATIO_FREE_BYTES);
        let allowed = limit.min(ratio_limit).min(self.bytes_left);
        let mut bytes = Vec::new();
        (&mut entry)
            .take(allowed + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::invalid(FIELD, format!("`{name}` in the archive is damaged: {error}.")))?;
        let count = bytes.len() as u64;
        if count > ratio_limit {
            return Err(Error::too_large(
                FIELD,
                format!("`{name}` unpacks to more than {MAX_RATIO} times its size, as a zip bomb does."),
            ));
        }
        if count > limit {
            return Err(Error::too_large(FIELD, format!("`{name}` unpacks to more than {limit} bytes.")));
        }
        if count > self.bytes_left {
            return Err(Error::too_large(FIELD, "The archive unpacks to more than 8 GiB; split it."));
        }
        self.bytes_left -= count;
        Ok(bytes)
    }

    fn read_pair(&mut self, pair: Pair) -> Result<Entry> {
        let bytes = Bytes::from(self.read(pair.picture, image_gate::MAX_BYTES)?);
        let caption = match pair.caption {
            None => None,
            Some(index) => {
                let text = self.read(index, MAX_CAPTION_BYTES)?;
                let text = String::from_utf8(text)
                    .map_err(|_| Error::invalid(FIELD, format!("The caption of `{}` is not UTF-8 text.", pair.name)))?;
                Some(text.trim_start_matches('\u{feff}').trim().to_owned())
            }
        };
        Ok(Entry { name: pair.name, bytes, caption })
    }
}

impl Iterator for Archive {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.pairs.next()?;
        Some(self.read_pair(pair))
    }
}

/// Finds the pictures with their captions, and refuses files that do not belong in such an archive.
fn pair_up(zip: &mut ZipArchive<BufReader<File>>) -> Result<Vec<Pair>> {
    let mut pictures = BTreeMap::<String, (String, usize)>::new();
    let mut captions = BTreeMap::<String, (String, usize)>::new();
    let mut spans = Vec::new();
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(unreadable)?;
        let name = entry.name().to_owned();
        if entry.is_dir() || is_litter(&name) {
            continue;
        }
        if entry.is_symlink() || !entry.is_file() {
            return Err(Error::invalid(FIELD, format!("`{name}` in the archive is a link, not a file.")));
        }
        if entry.encrypted() {
            return Err(Error::invalid(FIELD, format!("`{name}` in the archive is encrypted.")));
        }
        spans.push((entry.data_start(), entry.data_start().saturating_add(entry.compressed_size())));
        let (stem, extension) = name.rsplit_once('.').unwrap_or((&name, ""));
        let (group, stem) = (
            match extension.to_ascii_lowercase().as_str() {
                "png" | "jpg" | "jpeg" | "webp" => &mut pictures,
                "txt" => &mut captions,
                "zip" | "gz" | "tar" | "tgz" | "7z" | "rar" | "xz" | "bz2" | "zst" => {
                    return Err(Error::invalid(FIELD, format!("`{name}` is an archive inside the archive.")));
                }
                _ => {
                    return Err(Error::invalid(
                        FIELD,
                        format!("`{name}` is neither a PNG, JPEG or WebP picture nor a .txt caption."),
                    ));
                }
            },
            stem.to_owned(),
        );
        if let Some((first, _)) = group.insert(stem, (name.clone(), index)) {
            return Err(Error::invalid(
                FIELD,
                format!("`{first}` and `{name}` differ only in their ending; give each picture its own name."),
            ));
        }
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(Error::invalid(FIELD, "Entries of the archive share the same bytes, as in a zip bomb."));
    }
    let pairs = pictures
        .into_iter()
        .map(|(stem, (name, picture))| Pair { name, picture, caption: captions.remove(&stem).map(|(_, index)| index) })
        .collect();
    let is_caption = |(name, _): &(String, usize)| !is_about_the_whole(name);
    match captions.into_values().find(is_caption) {
        Some((name, _)) => {
            Err(Error::invalid(FIELD, format!("The caption `{name}` has no picture of the same name beside it.")))
        }
        None => Ok(pairs),
    }
}

/// Files that macOS and Windows add to archives, and that people write about their datasets.
fn is_litter(name: &str) -> bool {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let lower = file.to_ascii_lowercase();
    name.starts_with("__MACOSX/")
        || file.starts_with("._")
        || matches!(file, ".DS_Store" | "Thumbs.db" | "desktop.ini")
        || lower.ends_with(".md")
        || matches!(lower.as_str(), "license" | "licence" | "readme")
}

/// Texts that are not captions if there is no picture of the same name.
fn is_about_the_whole(name: &str) -> bool {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name).to_ascii_lowercase();
    matches!(file.as_str(), "license.txt" | "licence.txt" | "readme.txt")
}

fn unreadable(error: zip::result::ZipError) -> Error {
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
    fn pairs_pictures_with_captions_by_name() {
        let entries: Vec<_> = Archive::open(archive(&[
            ("b.txt", "\u{feff} a blue ball \n".as_bytes()),
            ("b.png", b"two"),
            ("folder/a.JPG", b"one"),
            ("__MACOSX/._b.png", b"litter"),
            ("README.md", b"about the pictures"),
            ("LICENSE.txt", b"theirs"),
            ("folder/readme.png", b"three"),
            ("folder/readme.txt", b"a book"),
        ]))
        .unwrap()
        .collect::<Result<_>>()
        .unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[2].caption.as_deref(), Some("a book"), "of a picture that is called so");
        assert_eq!((entries[0].name.as_str(), entries[0].caption.as_deref()), ("b.png", Some("a blue ball")));
        assert_eq!((entries[1].name.as_str(), entries[1].caption.as_deref()), ("folder/a.JPG", None));
    }

    #[test]
    fn refuses_bombs_strangers_and_loners() {
        let zeros = vec![0u8; 4 << 20];
        assert!(refusal(&[("a.png", &zeros)]).contains("zip bomb"));
        assert!(refusal(&[("a.png", b"x"), ("inner.zip", b"x")]).contains("archive inside"));
        assert!(refusal(&[("a.png", b"x"), ("run.sh", b"x")]).contains("run.sh"));
        assert!(refusal(&[("a.png", b"x"), ("b.txt", b"x")]).contains("no picture"));
        assert!(refusal(&[("a.png", b"x"), ("a.jpg", b"x")]).contains("differ only"));
        assert!(refusal(&[("folder.txt/", b"")]).contains("no picture") || refusal(&[]).contains("no picture"));
        assert!(refusal(&[("a.png", b"x"), ("a.txt", b"\xff\xfe")]).contains("UTF-8"));
        let mut junk = tempfile::tempfile().unwrap();
        junk.write_all(b"not a zip at all").unwrap();
        assert!(matches!(Archive::open(junk), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn refuses_more_entries_than_allowed() {
        let names: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("{n}.png")).collect();
        let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        assert!(refusal(&entries).contains("entries"));
    }
}
