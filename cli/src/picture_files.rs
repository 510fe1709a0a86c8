//! Where `--output` puts the pictures of a generation: in a file, or in a folder by the id of the generation.

use std::path::{Path, PathBuf};

use requests::OutputFormat;

use crate::client::{Artifact, Client, Generation};
use crate::commands::Outcome;
use crate::failure::Failure;
use crate::output::shown;
use crate::whole_file;

/// Writes the pictures of a generation to `output`, which [`check_output`] has accepted. Returns their files.
pub(crate) async fn download(
    client: &Client,
    generation: &Generation,
    output: &Path,
    overwrite: bool,
) -> Result<Vec<PathBuf>, Failure> {
    check_free(output, generation.artifacts.iter().map(|artifact| artifact.position), overwrite)?;
    for artifact in &generation.artifacts {
        check_format(output, OutputFormat::of_extension(artifact.extension()))?;
    }
    let places = places(output, &generation.id, &generation.artifacts);
    for (artifact, place) in generation.artifacts.iter().zip(&places) {
        client.download(&artifact.url, place, overwrite).await?;
    }
    Ok(places)
}

/// Whether `output` is a folder: an existing one, or one by its name.
fn is_folder(output: &Path) -> bool {
    output.is_dir() || output.extension().is_none() || output.as_os_str().to_string_lossy().ends_with('/')
}

/// The format of the file `output`; `None` for a folder.
pub(crate) fn file_format(output: &Path) -> Option<OutputFormat> {
    let ending = output.extension()?.to_str()?;
    if is_folder(output) { None } else { OutputFormat::of_extension(ending) }
}

/// Refuses a file whose name ends in another format than that of its picture.
pub(crate) fn check_format(output: &Path, format: Option<OutputFormat>) -> Outcome {
    match (file_format(output), format) {
        (Some(of_name), Some(format)) if of_name != format => Err(Failure::Usage(format!(
            "--output {} is the name of a {} file, and the pictures are {}",
            shown(output),
            of_name.as_str(),
            format.as_str()
        ))),
        _ => Ok(()),
    }
}

/// Refuses an output that is not a folder or a picture file, so that no other file is overwritten.
pub(crate) fn check_output(output: &Path) -> Outcome {
    let shown = shown(output);
    if output.is_dir() || file_format(output).is_some() {
        return Ok(());
    }
    if !is_folder(output) {
        return Err(Failure::Usage(format!(
            "--output {shown} is not a folder and does not end in .png, .jpg or .webp; \
             end the name of a new folder with a dot in it with /"
        )));
    }
    // Without a trailing slash, which would hide a file.
    if output.components().as_path().exists() {
        Err(Failure::Usage(format!("--output {shown} is a file that does not end in .png, .jpg or .webp")))
    } else {
        Ok(())
    }
}

/// Checks that pictures can be written to `output`, which [`check_output`] has accepted. Creates missing folders.
pub(crate) fn check_writable(output: &Path) -> Outcome {
    if is_folder(output) {
        whole_file::check_writable(&output.join("picture.png"))
    } else {
        whole_file::check_writable(output)
    }
}

/// Refuses to replace the files of pictures at these `positions`. In a folder their names are new.
pub(crate) fn check_free(output: &Path, positions: impl ExactSizeIterator<Item = u32>, overwrite: bool) -> Outcome {
    if file_format(output).is_none() {
        return Ok(());
    }
    let count = positions.len();
    positions.into_iter().try_for_each(|position| whole_file::check_free(&numbered(output, position, count), overwrite))
}

/// The file of each picture.
fn places(output: &Path, generation: &str, artifacts: &[Artifact]) -> Vec<PathBuf> {
    let is_folder = is_folder(output);
    artifacts
        .iter()
        .map(|artifact| {
            if is_folder {
                return output.join(format!("{generation}-{}.{}", artifact.position, artifact.extension()));
            }
            numbered(output, artifact.position, artifacts.len())
        })
        .collect()
}

/// The file of one of `count` pictures. A single one takes the name as it is; several get their position before the
/// extension.
fn numbered(output: &Path, position: u32, count: usize) -> PathBuf {
    if count == 1 {
        return output.to_owned();
    }
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let extension = output.extension().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}-{position}.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_cannot_be_written_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file.png"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        for (output, reason) in [
            (at("file.png/more/"), "file.png is a file, not a folder"),
            (at("link"), "link is a link to nothing"),
            (at("link/owl.png"), "link is a link to nothing"),
        ] {
            let Err(Failure::Usage(why)) = check_writable(&output) else { panic!("{output:?} was taken") };
            assert!(why.contains(reason), "{why}");
        }
        let Err(Failure::Failed(_)) = check_writable(Path::new("/proc/pictures/")) else { panic!("/proc was taken") };
        check_writable(&at("new/")).unwrap();
        assert_eq!(std::fs::read_dir(at("new")).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_picture_that_is_there_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let owl = folder.path().join("owl.png");
        std::fs::write(folder.path().join("owl-1.png"), "older").unwrap();
        check_free(&owl, 0..1, false).unwrap();
        let Err(Failure::Usage(why)) = check_free(&owl, 0..2, false) else { panic!("owl-1.png is replaced") };
        assert!(why.contains("owl-1.png exists") && why.contains("--overwrite"), "{why}");
        check_free(&owl, 0..2, true).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("owl-2.png")).unwrap();
        let Err(Failure::Usage(why)) = check_free(&owl, 0..3, true) else { panic!("owl-2.png is written") };
        assert!(why.contains("owl-2.png is a link to nothing"), "{why}");
        check_free(folder.path(), 0..2, false).unwrap();
    }

    #[test]
    fn only_pictures_are_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("owl.txt"), "an owl").unwrap();
        std::fs::write(path("caption"), "an owl").unwrap();
        std::fs::create_dir(path("of.pictures")).unwrap();
        for wrong in ["owl.txt", "new.gif", "caption", "caption/"] {
            let Err(Failure::Usage(why)) = check_output(&path(wrong)) else { panic!("{wrong} was taken") };
            assert!(why.contains(path(wrong).to_str().unwrap()), "{why}");
        }
        for right in ["owl.png", "OWL.PNG", "owl.jpg", "owl.jpeg", "owl.webp", "of.pictures", "v1.0/", "new"] {
            check_output(&path(right)).unwrap();
        }
    }

    #[test]
    fn a_name_that_ends_in_another_format_is_refused() {
        for (output, format) in [("fox.png", OutputFormat::Webp), ("fox.jpg", OutputFormat::Png)] {
            let Err(Failure::Usage(why)) = check_format(Path::new(output), Some(format)) else {
                panic!("{output} was taken")
            };
            assert!(why.contains(output) && why.contains(format.as_str()), "{why}");
        }
        check_format(Path::new("fox.jpeg"), Some(OutputFormat::Jpeg)).unwrap();
        check_format(Path::new("new"), Some(OutputFormat::Webp)).unwrap();
    }

    #[test]
    fn pictures_go_where_the_user_points() {
        let artifact = |position| Artifact { url: String::new(), position, media_type: "image/png".into(), seed: None };
        let one = [artifact(0)];
        let two = [artifact(0), artifact(1)];
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(places(folder.path(), "g", &one), [folder.path().join("g-0.png")]);
        assert_eq!(places(Path::new("new/folder"), "g", &one), [Path::new("new/folder/g-0.png")]);
        assert_eq!(places(Path::new("fox.png"), "g", &one), [Path::new("fox.png")]);
        assert_eq!(places(Path::new("a/fox.png"), "g", &two), [Path::new("a/fox-0.png"), Path::new("a/fox-1.png")]);
    }
}
