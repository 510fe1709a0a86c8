//! Files that commands write: completely, or not at all. Until it is complete, a file has a random name in the same
//! folder, so that it replaces nothing and two commands do not write to one file.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use tempfile::{Builder, NamedTempFile, TempPath};

use crate::failure::Failure;
use crate::output::shown;

/// Refuses to replace a file, unless the user asks for it, and a link to nothing.
pub(crate) fn check_free(file: &Path, overwrite: bool) -> Result<(), Failure> {
    if file.is_symlink() && !file.exists() {
        return Err(Failure::Usage(format!("{} is a link to nothing", shown(file))));
    }
    if overwrite || !file.is_file() {
        return Ok(());
    }
    Err(exists(file))
}

/// The refusal to replace `file`.
pub(crate) fn exists(file: &Path) -> Failure {
    Failure::Usage(format!("{} exists; name another file or give --overwrite", shown(file)))
}

/// Checks that `file` can be written, before the work whose result it will hold. Creates missing folders.
///
/// # Errors
/// A part of the path is a file or a link to nothing, or the system refuses a file there, with its reason.
pub(crate) fn check_writable(file: &Path) -> Result<(), Failure> {
    for (index, path) in file.ancestors().enumerate().filter(|(_, path)| !path.as_os_str().is_empty()) {
        let refused = |why: &str| Err(Failure::Usage(format!("{} {why}", shown(path))));
        match fs::metadata(path) {
            Ok(found) if index > 0 && !found.is_dir() => return refused("is a file, not a folder"),
            Err(_) if path.is_symlink() => return refused("is a link to nothing"),
            _ => {}
        }
    }
    part_of(file).with_context(|| format!("could not write {}", shown(file)))?;
    Ok(())
}

/// A new file in the folder of `file`, which is created if it is missing. It is deleted when it is dropped. Its
/// permissions are those of any new file.
pub(crate) fn part_of(file: &Path) -> io::Result<(File, TempPath)> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let builder = &mut Builder::new();
    let builder = builder.prefix(".pyrograph-part-").permissions(Permissions::from_mode(0o666));
    builder.tempfile_in(folder).map(NamedTempFile::into_parts)
}

/// Gives a complete file its name. A file that has the same bytes stays. The error is
/// [`io::ErrorKind::AlreadyExists`] for a file that must not be replaced, also one that was created since
/// [`check_free`].
pub(crate) fn finish(part: TempPath, file: &Path, overwrite: bool) -> io::Result<()> {
    if overwrite {
        return part.persist(file).map_err(|error| error.error);
    }
    match part.persist_noclobber(file) {
        Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists && are_equal(&taken.path, file)? => Ok(()),
        named => named.map_err(|error| error.error),
    }
}

fn are_equal(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(fs::metadata(a)?.len() == fs::metadata(b)?.len() && fs::read(a)? == fs::read(b)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_that_is_being_written_replaces_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("owl.png");
        std::fs::write(folder.path().join("owl.png.part"), "the user's").unwrap();
        let [(mut first, first_part), (mut second, second_part)] = [part_of(&file).unwrap(), part_of(&file).unwrap()];
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        finish(first_part, &file, false).unwrap();
        let refused = finish(second_part, &file, false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&file).unwrap(), b"first");
        let (mut same, same_part) = part_of(&file).unwrap();
        same.write_all(b"first").unwrap();
        finish(same_part, &file, false).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["owl.png", "owl.png.part"], "nothing is left behind");
        assert_eq!(std::fs::read(folder.path().join("owl.png.part")).unwrap(), b"the user's");
        let usual = std::fs::metadata(folder.path().join("owl.png.part")).unwrap().permissions();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions(), usual);

        let (mut third, third_part) = part_of(&file).unwrap();
        third.write_all(b"third").unwrap();
        finish(third_part, &file, true).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"third");
    }
}
