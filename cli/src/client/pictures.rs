//! A folder of pictures with captions, by the same rules as a form or an archive that the server receives
//! (`domain::dataset::folder`), and the dataset that is made of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use domain::dataset::folder::{self, Content, File, Kind, LITTER, LeftOut};
use domain::image_gate;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use super::resource::Dataset;
use super::upload::{picture_part, sent_name};
use super::{Client, path_segment};
use crate::failure::Failure;
use crate::meter::Meter;
use crate::output::{escaped, shown, tell};

/// Most files of one folder, so that a wrong path does not upload a whole disk.
const MAX_FILES: usize = 100_000;
/// Most names that are printed where nobody needs all of them.
const FEW: usize = 3;

/// A picture to train on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub path: PathBuf,
    /// Path within the folder.
    pub name: String,
    /// May be empty.
    pub caption: String,
}

/// The pictures of a folder, and the files that were left out.
#[derive(Debug)]
pub(crate) struct Pictures {
    pub pictures: Vec<Picture>,
    pub left_out: Vec<LeftOut>,
}

/// What became of the files of a folder.
#[derive(Debug, Default)]
pub(crate) struct Added {
    pub count: usize,
    /// Names of the pictures without one.
    pub without_caption: Vec<String>,
    pub left_out: Vec<LeftOut>,
}

impl Added {
    /// Prints the files that were left out, on stderr.
    pub(crate) fn report(&self) {
        self.lines().iter().for_each(|line| tell!("{line}"));
    }

    fn lines(&self) -> Vec<String> {
        let mut by_reason = BTreeMap::<(&str, bool), Vec<&str>>::new();
        for left in &self.left_out {
            by_reason.entry((&left.reason, left.is_used)).or_default().push(&left.file);
        }
        let mut lines = Vec::new();
        for ((reason, is_used), files) in by_reason {
            let left_out = if is_used { "" } else { "left out " };
            let most = if reason == LITTER { FEW } else { files.len() };
            lines.push(format!("{left_out}{}: {reason}", few(&files, most)));
        }
        if !self.without_caption.is_empty() {
            let names: Vec<&str> = self.without_caption.iter().map(String::as_str).collect();
            lines.push(format!("{} of {} pictures without caption: {}", names.len(), self.count, few(&names, FEW)));
        }
        lines
    }

    /// Adds the same as fields of an answer that is printed as JSON.
    pub(crate) fn add_to(&self, answer: &mut Value) {
        answer["without_caption"] = self.without_caption.len().into();
        answer["left_out"] =
            self.left_out.iter().map(|left| json!({ "file": left.file, "reason": left.reason })).collect();
    }
}

impl Pictures {
    /// Reads a folder and those below it. The pictures themselves are only listed.
    pub(crate) fn of(folder: &Path) -> Result<Self, Failure> {
        let mut paths = Vec::new();
        let mut files = Vec::new();
        list(folder, "", &mut paths, &mut files)?;
        let names: Vec<String> = files.iter().map(|file| folder::normal(&file.path)).collect();
        let sorted = folder::sort(files);
        let pictures: Vec<Picture> = sorted
            .pictures
            .into_iter()
            .map(|(index, caption)| Picture { path: paths[index].clone(), name: names[index].clone(), caption })
            .collect();
        if pictures.is_empty() {
            return Err(Failure::Usage(nothing(folder, &sorted.left_out)));
        }
        Ok(Self { pictures, left_out: sorted.left_out })
    }

    /// Creates a dataset of the pictures, named `name`, or `name-2` and so on if there is one already. If none of the
    /// pictures can be used, or the upload fails or is interrupted by Ctrl-C, it is deleted again.
    pub(crate) async fn create_dataset(&self, client: &Client, name: &str) -> Result<(Dataset, Added), Failure> {
        let free = free_name(name, &dataset_names(client).await?);
        if free != name {
            tell!("There is a dataset {name} already; the pictures become the dataset {free}.");
        }
        let dataset: Dataset = client.post("/v1/datasets", &json!({ "name": free })).await?;
        match unless_interrupted(self.send(client, &dataset.id, &AtomicUsize::new(0))).await {
            Ok(added) => Ok((dataset, added)),
            Err(failure) => {
                let _ = client.delete(&format!("/v1/datasets/{}", path_segment(&dataset.id))).await;
                Err(failure)
            }
        }
    }

    /// Adds the pictures to a dataset, one request each. Pictures that the server refuses are left out; if it refuses
    /// all, that is a failure. Those that were added before Ctrl-C stay.
    pub(crate) async fn add_to(&self, client: &Client, dataset: &str) -> Result<Added, Failure> {
        let count = AtomicUsize::new(0);
        match unless_interrupted(self.send(client, dataset, &count)).await {
            Err(Failure::Canceled(why)) => Err(Failure::Canceled(format!(
                "{why}: {} of {} pictures were added and stay in the dataset, perhaps also the one that was being \
                 sent. `pyrograph datasets show {dataset}` lists them.",
                count.into_inner(),
                self.pictures.len()
            ))),
            done => done,
        }
    }

    /// As [`Pictures::add_to`], without Ctrl-C. `count` is that of the pictures that were added until now.
    async fn send(&self, client: &Client, dataset: &str, count: &AtomicUsize) -> Result<Added, Failure> {
        let meter = Meter::count("uploading pictures", self.pictures.len() as u64);
        let mut added = Added { left_out: self.left_out.clone(), ..Added::default() };
        let images = format!("/v1/datasets/{}/images", path_segment(dataset));
        for picture in &self.pictures {
            let mut form = Form::new().percent_encode_noop();
            if !picture.caption.is_empty() {
                form = form.text("caption", picture.caption.clone());
            }
            let form = form.part("image", picture_part(&picture.path).await?);
            match client.offer_form::<Value>(&images, form).await? {
                Ok(_) => {
                    added.count += 1;
                    count.store(added.count, Ordering::Relaxed);
                    if picture.caption.is_empty() {
                        added.without_caption.push(picture.name.clone());
                    }
                }
                Err(why) => {
                    // The server names the file as well.
                    let named = format!("`{}`: ", sent_name(&picture.path));
                    let reason = why.strip_prefix(&named).unwrap_or(&why);
                    added.left_out.push(LeftOut::new(&picture.name, reason));
                }
            }
            meter.advance(1);
        }
        added.left_out.sort();
        if added.count == 0 {
            let reasons: Vec<String> = added.left_out.iter().map(|left| format!("\n  {}", reason_of(left))).collect();
            return Err(Failure::Refused(format!("No picture can be used:{}", reasons.concat())));
        }
        Ok(added)
    }
}

/// The first of `names`, at most `most`.
fn few(names: &[&str], most: usize) -> String {
    let shown = names[..most.min(names.len())].join(", ");
    if names.len() > most { format!("{shown} and {} more", names.len() - most) } else { shown }
}

/// The message for a folder without a picture.
fn nothing(folder: &Path, left_out: &[LeftOut]) -> String {
    let told = left_out.iter().filter(|left| left.reason != LITTER).map(|left| format!("\n  {}", reason_of(left)));
    let told: Vec<String> = told.collect();
    format!("{} contains no pictures{}", shown(folder), told.concat())
}

/// One line about a file that was left out.
fn reason_of(left: &LeftOut) -> String {
    escaped(&format!("{}: {}", left.file, left.reason)).into_owned()
}

/// Lists the files of a folder, with the texts. `within` is the path of `folder` within the whole.
fn list(folder: &Path, within: &str, paths: &mut Vec<PathBuf>, files: &mut Vec<File>) -> Result<(), Failure> {
    let cannot_read = |path: &Path| format!("could not read {}", shown(path));
    for entry in std::fs::read_dir(folder).with_context(|| cannot_read(folder))? {
        let entry = entry.with_context(|| cannot_read(folder))?;
        let path = entry.path();
        let name = format!("{within}{}", entry.file_name().to_string_lossy());
        let is_link = entry.file_type().with_context(|| cannot_read(&path))?.is_symlink();
        let is_folder = path.is_dir();
        if is_folder && !is_link && folder::kind(&name) != Kind::Other(LITTER.to_owned()) {
            list(&path, &format!("{name}/"), paths, files)?;
            continue;
        }
        if files.len() == MAX_FILES {
            return Err(Failure::Usage(format!("{} contains more than {MAX_FILES} files", shown(folder))));
        }
        let (name, content) = match folder::kind(&name) {
            // Of such a folder only the name is of interest.
            Kind::Other(reason) if is_folder && reason == LITTER => (format!("{name}/*"), Content::Nothing(reason)),
            _ if is_folder => (name, Content::Nothing("A link to a folder.".to_owned())),
            _ if !path.exists() => (name, Content::Nothing("A link to nothing.".to_owned())),
            // It is not opened: a named pipe would wait for a program that writes to it.
            _ if !path.is_file() => (name, Content::Nothing("Not a file.".to_owned())),
            Kind::Other(reason) => (name, Content::Nothing(reason)),
            Kind::Picture => {
                let length = std::fs::metadata(&path).with_context(|| cannot_read(&path))?.len();
                (name, image_gate::too_large(length).map_or(Content::Picture, Content::Nothing))
            }
            kind @ (Kind::Caption | Kind::Table) => {
                let limit = kind.text_limit().unwrap_or_default();
                let length = std::fs::metadata(&path).with_context(|| cannot_read(&path))?.len();
                let too_long = format!("It has more than {limit} bytes.");
                let text = || std::fs::read(&path).with_context(|| cannot_read(&path));
                match kind {
                    Kind::Caption if length > limit => (name, Content::Caption(Err(too_long))),
                    Kind::Caption => (name, Content::Caption(Ok(text()?))),
                    _ if length > limit => (name, Content::Nothing(too_long)),
                    _ => (name, Content::Table(text()?)),
                }
            }
        };
        paths.push(path);
        files.push(File { path: name, content });
    }
    Ok(())
}

/// Runs `work`, which Ctrl-C ends.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::Canceled("interrupted".to_owned())),
    }
}

/// The names of all datasets.
pub(crate) async fn dataset_names(client: &Client) -> Result<Vec<String>, Failure> {
    let datasets = client.list("/v1/datasets").await?;
    datasets.into_iter().map(|dataset| Ok(Client::understand::<Dataset>(dataset)?.name)).collect()
}

/// `name`, or the first of `name-2`, `name-3` and so on that is not `taken`.
pub(crate) fn free_name(name: &str, taken: &[String]) -> String {
    let names = std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
    let mut free = names.filter(|name| !taken.contains(name));
    free.next().unwrap_or_else(|| name.to_owned())
}

/// The id of the dataset that `text` names: its id, or a name that no other has.
pub(crate) async fn find_dataset(client: &Client, text: &str) -> Result<String, Failure> {
    if uuid::Uuid::try_parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let mut ids = Vec::new();
    for dataset in client.list("/v1/datasets").await? {
        let dataset: Dataset = Client::understand(dataset)?;
        if dataset.name == text {
            ids.push(dataset.id);
        }
    }
    match ids.as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(Failure::Refused(format!("There is no dataset `{text}`."))),
        several => Err(Failure::Usage(format!(
            "there are {} datasets named `{text}`; name one by its id: {}",
            several.len(),
            several.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_with_those_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        file("b.JPG", b"");
        file("a.png", b"");
        file("a.txt", b"\xef\xbb\xbf a red fox\r\n");
        file("in/c.gif", b"");
        file("in/c.caption", b"an owl");
        file("long.png", b"");
        file("long.txt", &vec![b'x'; folder::MAX_CAPTION_BYTES as usize + 1]);
        file(".git/config", b"");
        file("._a.png", b"");
        file("notes.md", b"");
        file("large.png", b"");
        std::fs::File::create(folder.path().join("large.png")).unwrap().set_len(3 << 30).unwrap();
        for pipe in ["pipe.png", "a.caption"] {
            let pipe = folder.path().join(pipe);
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("a.png"), folder.path().join("link.png")).unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("round")).unwrap();
        let found = Pictures::of(folder.path()).unwrap();
        let names: Vec<_> =
            found.pictures.iter().map(|picture| (picture.name.as_str(), picture.caption.as_str())).collect();
        assert_eq!(names, [("a.png", "a red fox"), ("b.JPG", ""), ("in/c.gif", "an owl"), ("link.png", "")]);
        let left: Vec<_> = found.left_out.iter().map(|left| left.file.as_str()).collect();
        let expected = ["._a.png", ".git/", "a.caption", "large.png", "long.png", "notes.md", "pipe.png", "round"];
        assert_eq!(left, expected);
        let why = |name: &str| &found.left_out.iter().find(|left| left.file == name).unwrap().reason;
        assert!(why("pipe.png") == "Not a file." && why("large.png").contains("3221225472 bytes"));
    }

    #[test]
    fn a_report_names_what_is_missing() {
        let mut added = Added { count: 20, ..Added::default() };
        added.without_caption = ["a", "b", "c", "d", "e"].map(|name| format!("{name}.png")).into();
        let repeats = LeftOut { is_used: true, ..LeftOut::new("10_dog/", "The repeats are not used.") };
        added.left_out = vec![repeats, LeftOut::new("x.heic", "HEIC.")];
        let lines = [
            "left out x.heic: HEIC.",
            "10_dog/: The repeats are not used.",
            "5 of 20 pictures without caption: a.png, b.png, c.png and 2 more",
        ];
        assert_eq!(added.lines(), lines);
    }

    #[test]
    fn a_second_dataset_gets_a_name_of_its_own() {
        assert_eq!(free_name("ink", &[]), "ink");
        assert_eq!(free_name("ink", &["ink".to_owned(), "ink-2".to_owned()]), "ink-3");
    }

    #[test]
    fn a_folder_without_pictures_is_refused_by_name_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("photo.heic"), "").unwrap();
        let Err(Failure::Usage(why)) = Pictures::of(folder.path()) else { panic!("it was taken") };
        assert!(why.contains(folder.path().to_str().unwrap()) && why.contains("photo.heic: HEIC"), "{why}");
    }
}
