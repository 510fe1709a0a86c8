//! What the files of a folder are to a dataset: pictures, their captions, or neither. One rule for a folder of the
//! command line, the files of a form and a zip archive. Nothing is left out in silence: each file that becomes no part
//! of an example is listed with the reason.
//!
//! A caption is in a text file beside its picture (`fox.txt`, `fox.caption` or `fox.png.txt`), or in a table of the
//! folder, as Hugging Face's `imagefolder` has it (`metadata.jsonl`, `metadata.csv`). Not here: what a picture must be
//! (`image_gate`), or reading the files.

mod table;
mod text;

use std::collections::HashMap;

pub use text::clean;
use unicode_normalization::UnicodeNormalization;

/// Largest file with one caption, in bytes: the longest caption at four bytes a character, and a byte order mark.
pub const MAX_CAPTION_BYTES: u64 = super::MAX_CAPTION_CHARS as u64 * 4 + 3;
/// Largest table of captions, in bytes.
pub const MAX_TABLE_BYTES: u64 = 16 * 1024 * 1024;
/// Most bytes of captions and tables of one folder.
pub const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;

/// Longest name that is repeated in an answer, in characters.
const SHOWN_NAME: usize = 255;
/// Why files of the system are left out.
pub const LITTER: &str = "A hidden file, or one that the operating system made.";

/// What a file is, by its path within the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Picture,
    /// A text that may be a caption.
    Caption,
    /// A table of captions.
    Table,
    /// Left out, for this reason.
    Other(String),
}

impl Kind {
    /// Most bytes that a text of this kind may have.
    pub fn text_limit(&self) -> Option<u64> {
        match self {
            Self::Caption => Some(MAX_CAPTION_BYTES),
            Self::Table => Some(MAX_TABLE_BYTES),
            Self::Picture | Self::Other(_) => None,
        }
    }
}

/// A file that became no part of an example, or of which a part did not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// Path within the folder.
    pub file: String,
    /// A sentence.
    pub reason: String,
    /// Whether the file is used, and only what the reason is about is not.
    pub is_used: bool,
}

impl LeftOut {
    pub fn new(file: &str, reason: impl Into<String>) -> Self {
        let mut shown: String = file.chars().take(SHOWN_NAME).collect();
        if shown.len() < file.len() {
            shown.push('…');
        }
        Self { file: shown, reason: reason.into(), is_used: false }
    }

    /// Of a file, or a folder, that is used in part.
    fn in_part(file: &str, reason: impl Into<String>) -> Self {
        Self { is_used: true, ..Self::new(file, reason) }
    }
}

/// A file of the folder, with the content that was read.
#[derive(Debug)]
pub struct File {
    pub path: String,
    pub content: Content,
}

#[derive(Debug)]
pub enum Content {
    Picture,
    /// Bytes of a text that may be a caption, or why they cannot be read, as a sentence.
    Caption(Result<Vec<u8>, String>),
    /// Bytes of a table of captions.
    Table(Vec<u8>),
    /// Left out, for this reason.
    Nothing(String),
}

/// The pictures of a folder, and the files that were left out.
#[derive(Debug, Default)]
pub struct Sorted {
    /// Index of the file, and its caption. By path.
    pub pictures: Vec<(usize, String)>,
    /// By path.
    pub left_out: Vec<LeftOut>,
}

/// A path as the rules below read it.
pub fn normal(path: &str) -> String {
    let path = path.replace('\\', "/");
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    parts.join("/")
}

/// What a file is, by its path.
pub fn kind(path: &str) -> Kind {
    let path = normal(path);
    if is_litter(&path) {
        return Kind::Other(LITTER.to_owned());
    }
    let name = path.rsplit('/').next().unwrap_or(&path).to_ascii_lowercase();
    if matches!(name.as_str(), "metadata.jsonl" | "metadata.csv") {
        return Kind::Table;
    }
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let not_read = |what: &str| Kind::Other(format!("{what} are not read; convert it to JPEG or PNG."));
    match ending {
        "png" | "jpg" | "jpeg" | "jpe" | "jfif" | "webp" | "gif" | "bmp" | "tif" | "tiff" => Kind::Picture,
        "txt" | "caption" => Kind::Caption,
        "heic" | "heif" | "hif" => not_read("HEIC pictures"),
        "avif" => not_read("AVIF pictures"),
        "jxl" => not_read("JPEG XL pictures"),
        "jp2" | "j2k" => not_read("JPEG 2000 pictures"),
        "psd" | "xcf" | "svg" | "ai" | "eps" => not_read("Files of drawing programs"),
        "dng" | "cr2" | "cr3" | "nef" | "arw" | "orf" | "rw2" | "raf" | "pef" | "srw" => not_read("Raw photos"),
        "mp4" | "mov" | "m4v" | "avi" | "mkv" | "webm" | "mpg" => Kind::Other("A video, not a picture.".to_owned()),
        "zip" | "gz" | "tar" | "tgz" | "7z" | "rar" | "xz" | "bz2" | "zst" => {
            Kind::Other("An archive; unpack it first.".to_owned())
        }
        _ => Kind::Other("Neither a picture nor a caption.".to_owned()),
    }
}

fn is_litter(path: &str) -> bool {
    path.split('/').any(is_litter_part)
}

fn is_litter_part(part: &str) -> bool {
    part.starts_with('.')
        || ["__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"]
            .contains(&part.to_ascii_lowercase().as_str())
}

/// The file, or the folder with its slash, that is litter: a folder is listed once for all that is in it.
fn litter(path: &str) -> &str {
    let mut end = 0;
    for part in path.split_inclusive('/') {
        end += part.len();
        if is_litter_part(part.trim_end_matches('/')) {
            break;
        }
    }
    &path[..end]
}

/// Gives each picture its caption, and lists the other files.
///
/// A picture whose caption cannot be read is left out, too: it would be trained without.
pub fn sort(files: Vec<File>) -> Sorted {
    let mut files: Vec<(usize, String, Content)> =
        files.into_iter().enumerate().map(|(index, file)| (index, normal(&file.path), file.content)).collect();
    files.sort_by(|a, b| a.1.cmp(&b.1));
    let mut sorted = Sorted::default();
    let mut captions = Captions::default();
    let mut tables = Vec::new();
    let mut pictures = Vec::new();
    for (index, path, content) in files {
        match content {
            Content::Picture => pictures.push((index, path)),
            Content::Caption(bytes) => captions.add(path, bytes),
            Content::Table(bytes) => tables.push((path, bytes)),
            Content::Nothing(reason) if reason == LITTER => sorted.left_out.push(LeftOut::new(litter(&path), reason)),
            Content::Nothing(reason) => sorted.left_out.push(LeftOut::new(&path, reason)),
        }
    }
    let mut rows = table::Rows::read(tables, &mut sorted.left_out);
    let mut unused_rows: HashMap<String, usize> = HashMap::new();
    for (index, path) in &pictures {
        let row = rows.of(path);
        match captions.of(path) {
            Some(Err(reason)) => sorted.left_out.push(LeftOut::new(path, reason)),
            found => {
                let beside = found.and_then(Result::ok);
                if let (Some(beside), Some(row)) = (&beside, row)
                    && *beside != row.caption
                {
                    *unused_rows.entry(row.table.clone()).or_default() += 1;
                }
                let caption = beside.or_else(|| row.map(|row| row.caption.clone())).unwrap_or_default();
                match super::check_caption(&caption) {
                    Ok(()) => sorted.pictures.push((*index, caption)),
                    Err(error) => sorted.left_out.push(LeftOut::new(path, text::sentence(error))),
                }
            }
        }
    }
    for (table, count) in unused_rows {
        let reason = format!("Captions not used, since the pictures have another one in a file beside them: {count}.");
        sorted.left_out.push(LeftOut::in_part(&table, reason));
    }
    rows.unused(&mut sorted.left_out);
    sorted.left_out.extend(captions.unused());
    sorted.left_out.extend(repeats(&pictures));
    sorted.left_out.sort();
    sorted.left_out.dedup();
    sorted
}

/// Notes on folders such as `10_fox`, in which kohya's trainer repeats each picture ten times.
fn repeats(pictures: &[(usize, String)]) -> Vec<LeftOut> {
    let folders = pictures.iter().filter_map(|(_, path)| path.rsplit_once('/').map(|(folder, _)| folder));
    let counts = |folder: &&str| {
        let name = folder.rsplit('/').next().unwrap_or(folder);
        name.split_once('_').is_some_and(|(count, _)| count.parse::<u32>().is_ok_and(|count| count != 1))
    };
    let mut noted: Vec<LeftOut> = folders
        .filter(counts)
        .map(|folder| {
            let reason = "The number of repeats in a folder's name is not used: each of its pictures is one example.";
            LeftOut::in_part(&format!("{folder}/"), reason)
        })
        .collect();
    noted.dedup();
    noted
}

/// A path as it is compared: in lower case, and composed, since a Mac writes `ü` as two characters.
fn key(path: &str) -> String {
    composed(path).to_lowercase()
}

fn composed(path: &str) -> String {
    path.nfc().collect()
}

/// A path without its ending.
fn stem_of(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(stem, _)| stem)
}

/// Text files by the picture that they describe.
#[derive(Default)]
struct Captions {
    texts: Vec<Text>,
    /// By [`key`] of the path without the ending of a text: `fox` or `fox.png`.
    by_stem: HashMap<String, Vec<usize>>,
}

struct Text {
    path: String,
    bytes: Result<Vec<u8>, String>,
    fate: Fate,
}

enum Fate {
    Unused,
    Used,
    /// Another text came first for this picture.
    Second {
        picture: String,
        first: String,
    },
}

impl Captions {
    fn add(&mut self, path: String, bytes: Result<Vec<u8>, String>) {
        self.by_stem.entry(key(stem_of(&path))).or_default().push(self.texts.len());
        self.texts.push(Text { path, bytes, fate: Fate::Unused });
    }

    /// The caption beside a picture. Errors: why it cannot be read, as a sentence.
    fn of(&mut self, picture: &str) -> Option<Result<String, String>> {
        // The longer name first, then `.txt` before `.caption`, then the same case.
        let mut found: Vec<usize> = Vec::new();
        for stem in [picture, stem_of(picture)] {
            let mut here = self.by_stem.get(&key(stem)).cloned().unwrap_or_default();
            here.sort_by_key(|index| {
                let path = &self.texts[*index].path;
                (path.to_ascii_lowercase().ends_with(".caption"), stem_of(path) != stem)
            });
            found.extend(here);
        }
        let first = *found.first()?;
        let first_path = self.texts[first].path.clone();
        for other in found.into_iter().skip(1) {
            if matches!(self.texts[other].fate, Fate::Unused) && self.texts[other].bytes != self.texts[first].bytes {
                self.texts[other].fate = Fate::Second { picture: picture.to_owned(), first: first_path.clone() };
            } else if matches!(self.texts[other].fate, Fate::Unused) {
                self.texts[other].fate = Fate::Used;
            }
        }
        self.texts[first].fate = Fate::Used;
        let name = first_path.rsplit('/').next().unwrap_or(&first_path);
        Some(match &self.texts[first].bytes {
            Ok(bytes) => text::read(bytes).map_err(|why| format!("Its caption `{name}` {why}.")),
            Err(why) => Err(format!("Its caption `{name}` cannot be read. {why}")),
        })
    }

    fn unused(self) -> Vec<LeftOut> {
        let reason = |text: &Text| match &text.fate {
            Fate::Used => None,
            Fate::Unused => Some("A text without a picture of the same name.".to_owned()),
            Fate::Second { picture, first } => Some(format!("`{picture}` has its caption from `{first}`.")),
        };
        self.texts.iter().filter_map(|text| Some(LeftOut::new(&text.path, reason(text)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = Vec<(String, String)>;

    /// Sorts files of this path and text; returns path and caption of the pictures, and the files left out.
    fn sorted(files: &[(&str, &[u8])]) -> (Pairs, Pairs) {
        let read = |(path, bytes): &(&str, &[u8])| File {
            path: (*path).to_owned(),
            content: match kind(path) {
                Kind::Picture => Content::Picture,
                Kind::Caption => Content::Caption(Ok(bytes.to_vec())),
                Kind::Table => Content::Table(bytes.to_vec()),
                Kind::Other(reason) => Content::Nothing(reason),
            },
        };
        let sorted = sort(files.iter().map(read).collect());
        let pictures = sorted.pictures.into_iter().map(|(index, caption)| (files[index].0.to_owned(), caption));
        (pictures.collect(), sorted.left_out.into_iter().map(|left| (left.file, left.reason)).collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(path, caption)| ((*path).to_owned(), (*caption).to_owned())).collect()
    }

    #[test]
    fn captions_have_many_names() {
        let (pictures, left_out) = sorted(&[
            ("a.PNG", b""),
            ("a.TXT", b"\xef\xbb\xbf a fox\r\nin the snow\r\n"),
            ("b.jpeg", b""),
            ("b.caption", b"an owl"),
            ("c.jpeg", b""),
            ("c.jpeg.txt", b"a hare"),
            ("d.webp", b""),
            ("d.txt", b"\xff\xfeo\0w\0l\0"),
            ("e.gif", b""),
            ("e.txt", b"  \n"),
            ("in/Deep.tif", b""),
            ("in/deep.txt", b"a deer"),
            ("in\\f.bmp", b""),
            ("in\\f.Caption", b"a boar"),
        ]);
        assert_eq!(
            pictures,
            pairs(&[
                ("a.PNG", "a fox\nin the snow"),
                ("b.jpeg", "an owl"),
                ("c.jpeg", "a hare"),
                ("d.webp", "owl"),
                ("e.gif", ""),
                ("in/Deep.tif", "a deer"),
                ("in\\f.bmp", "a boar"),
            ])
        );
        assert_eq!(left_out, []);
    }

    #[test]
    fn names_are_compared_composed() {
        let (decomposed, composed) = ("Hu\u{308}ndin", "H\u{fc}ndin");
        for (of_picture, of_caption) in [(decomposed, composed), (composed, decomposed)] {
            let (picture, caption) = (format!("{of_picture}.png"), format!("{of_caption}.txt"));
            let (pictures, left_out) = sorted(&[(&picture, b""), (&caption, b"a dog")]);
            assert_eq!((pictures, left_out), (pairs(&[(&picture, "a dog")]), vec![]));
            let row = format!("{{\"file_name\": \"{of_caption}.png\", \"text\": \"a dog\"}}");
            let (pictures, left_out) = sorted(&[(&picture, b""), ("metadata.jsonl", row.as_bytes())]);
            assert_eq!((pictures, left_out), (pairs(&[(&picture, "a dog")]), vec![]));
        }
    }

    #[test]
    fn what_is_left_out_is_listed() {
        let (pictures, left_out) = sorted(&[
            ("fox.png", b""),
            ("._fox.png", b""),
            (".DS_Store", b""),
            ("__MACOSX/._fox.png", b""),
            ("Thumbs.db", b""),
            (".cache/old.png", b""),
            (".cache/in/older.png", b""),
            ("README.md", b""),
            ("notes.txt", b"about all"),
            ("photo.HEIC", b""),
            ("photo.dng", b""),
            ("clip.mp4", b""),
            ("more.zip", b""),
            ("broken.png", b""),
            ("broken.txt", b"\xe4hnlich"),
            ("long.png", b""),
            ("long.txt", "x".repeat(10_001).as_bytes()),
        ]);
        assert_eq!(pictures, pairs(&[("fox.png", "")]));
        let reasons: HashMap<_, _> = left_out.into_iter().collect();
        for litter in ["._fox.png", ".DS_Store", "__MACOSX/", "Thumbs.db", ".cache/"] {
            assert_eq!(reasons[litter], LITTER);
        }
        for (file, part) in [
            ("README.md", "Neither a picture"),
            ("notes.txt", "without a picture"),
            ("photo.HEIC", "HEIC"),
            ("photo.dng", "Raw"),
            ("clip.mp4", "video"),
            ("more.zip", "unpack"),
            ("broken.png", "`broken.txt` is not UTF-8"),
            ("long.png", "10001 characters"),
        ] {
            assert!(reasons[file].contains(part), "{file}: {}", reasons[file]);
        }
        assert_eq!(reasons.len(), 13);
    }

    #[test]
    fn pictures_that_differ_in_their_ending_are_two() {
        let (pictures, left_out) =
            sorted(&[("b.jpg", b""), ("b.png", b""), ("b.txt", b"both"), ("b.png.txt", b"one"), ("b.caption", b"?")]);
        assert_eq!(pictures, pairs(&[("b.jpg", "both"), ("b.png", "one")]));
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert!(left_out[0].0 == "b.caption" && left_out[0].1.contains("`b.txt`"), "{left_out:?}");
    }

    #[test]
    fn names_that_differ_in_case_only_keep_their_captions() {
        let (pictures, left_out) = sorted(&[("A.png", b""), ("a.png", b""), ("A.txt", b"large"), ("a.txt", b"small")]);
        assert_eq!(pictures, pairs(&[("A.png", "large"), ("a.png", "small")]));
        assert_eq!(left_out, []);
    }

    #[test]
    fn tables_name_their_pictures() {
        let (pictures, left_out) = sorted(&[
            (
                "train/metadata.jsonl",
                b"\xef\xbb\xbf{\"file_name\": \"a.png\", \"text\": \"a fox\"}\r\n\r\n{\"file_name\": \"in/b.png\", \"text\": \
                  \"an owl\"}\n{\"file_name\": \"no.png\", \"text\": \"?\"}\nnot json\n",
            ),
            ("train/a.png", b""),
            ("train/in/b.png", b""),
            ("train/in/b.txt", b"a hare"),
            ("test/metadata.csv", b"file_name,caption\nc.png,\"a deer, and\na \"\"boar\"\"\"\n"),
            ("test/c.png", b""),
            ("other/metadata.csv", b"file_name,label\nd.png,3\n"),
            ("other/d.png", b""),
        ]);
        assert_eq!(
            pictures,
            pairs(&[
                ("other/d.png", ""),
                ("test/c.png", "a deer, and\na \"boar\""),
                ("train/a.png", "a fox"),
                ("train/in/b.png", "a hare")
            ])
        );
        let listed: Vec<String> = left_out.iter().map(|(file, why)| format!("{file}: {why}")).collect();
        let listed = listed.join("\n");
        for part in
            ["other/metadata.csv: ", "`text`", "line 4", "line 5", "`no.png`", "another one in a file beside them: 1"]
        {
            assert!(listed.contains(part), "{part}: {listed}");
        }
    }

    #[test]
    fn tables_name_pictures_in_any_case() {
        let (pictures, left_out) = sorted(&[
            ("Photos/Metadata.CSV", b"file_name,text\nFOX.png,a fox\nowl.PNG,an owl\n"),
            ("photos/fox.PNG", b""),
            ("Photos/H\u{fc}ndin.jpg", b""),
            ("Photos/metadata.jsonl", "{\"file_name\": \"HU\u{308}NDIN.JPG\", \"text\": \"a dog\"}".as_bytes()),
            ("Photos/owl.png", b""),
            ("Photos/OWL.PNG", b""),
            ("Photos/owl.PNG", b""),
        ]);
        assert_eq!(
            pictures,
            pairs(&[
                ("Photos/H\u{fc}ndin.jpg", "a dog"),
                ("Photos/OWL.PNG", "an owl"),
                ("Photos/owl.PNG", "an owl"),
                ("Photos/owl.png", "an owl"),
                ("photos/fox.PNG", "a fox"),
            ])
        );
        assert_eq!(left_out, []);
        // The row in the same case counts.
        let table = b"file_name,text\nA.png,large\na.png,small\n";
        let (pictures, left_out) = sorted(&[("A.png", b""), ("a.png", b""), ("metadata.csv", table)]);
        assert_eq!((pictures, left_out), (pairs(&[("A.png", "large"), ("a.png", "small")]), vec![]));
    }

    #[test]
    fn the_first_caption_counts_and_the_others_are_listed() {
        let texts: [(&str, &[u8]); 7] = [
            ("in/fox.png.txt", b"1"),
            ("in/fox.png.caption", b"2"),
            ("in/fox.txt", b"3"),
            ("in/fox.caption", b"4"),
            ("in/metadata.jsonl", b"{\"file_name\": \"fox.png\", \"text\": \"5\"}"),
            ("in/metadata.csv", b"file_name,text\nfox.png,6\nFOX.png,7\n"),
            ("metadata.jsonl", b"{\"file_name\": \"in/fox.png\", \"text\": \"8\"}"),
        ];
        for (first, caption) in ["1", "2", "3", "4", "5", "6", "8"].into_iter().enumerate() {
            let mut files = vec![("in/fox.png", &b""[..])];
            // The order of the files does not matter.
            files.extend(texts[first..].iter().rev());
            let (pictures, left_out) = sorted(&files);
            assert_eq!(pictures, pairs(&[("in/fox.png", caption)]));
            let listed: Vec<_> = left_out.iter().map(|(file, _)| file.as_str()).collect();
            for (file, _) in texts.iter().skip(first + 1) {
                assert!(listed.contains(file), "{file}: {left_out:?}");
            }
        }
        let (_, left_out) = sorted(&[("in/fox.png", b""), texts[5], texts[6]]);
        assert_eq!(
            left_out,
            pairs(&[
                ("in/metadata.csv", "In line 3: `FOX.png` has its caption from line 2."),
                ("metadata.jsonl", "In line 1: `in/fox.png` has its caption from `in/metadata.csv`."),
            ])
        );
        // A text without words is a caption, too: the picture has none.
        let (pictures, left_out) = sorted(&[("in/fox.png", b""), ("in/fox.txt", b" "), texts[6]]);
        assert_eq!((pictures, left_out.len()), (pairs(&[("in/fox.png", "")]), 1));
    }

    #[test]
    fn repeats_are_not_used_and_that_is_said() {
        let (pictures, left_out) = sorted(&[("10_fox/a.png", b""), ("10_fox/b.png", b""), ("1_owl/c.png", b"")]);
        assert_eq!(pictures.len(), 3);
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].0 == "10_fox/" && left_out[0].1.contains("repeats"));
    }
}
