//! Models on the worker's own disk, below the one folder that the operator allowed. Links are followed and must end
//! inside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use domain::import::MAX_LICENSE_BYTES;
use domain::model::parts::named_as;
use domain::model::{CONFIG_FILE, config_beside};
use formats::folder::{self, INDEX};
use formats::json;

use super::download::DownloadError;
use super::selection;
use super::{Found, Place, Wanted};

/// How many levels of subfolders of a model's folder are searched.
const DEPTH: usize = 2;
/// Maximum number of entries in a model's folder.
const ENTRIES: usize = 10_000;

/// The files of the model at `path` below `allowed`; the model will be called `name`.
pub(crate) fn find(allowed: Option<&Path>, path: &str, name: &str) -> Result<Found, DownloadError> {
    let allowed = allowed.ok_or_else(|| {
        DownloadError::Final(
            "The operator has allowed no folder to import from (PYROGRAPH_IMPORT_DIR of the workers).".into(),
        )
    })?;
    let missing = |_| DownloadError::Final(format!("There is no `{path}` in the folder that may be imported from."));
    let allowed = allowed.canonicalize().map_err(missing)?;
    let inside = Inside { allowed: &allowed };
    let root = inside.resolve(&allowed.join(path)).map_err(missing)?;
    if root.is_file() {
        let mut files = vec![wanted(named_as(name, path), path, root).map_err(missing)?];
        if let Some(config) = inside.config_beside(&allowed.join(path)) {
            files.push(wanted(CONFIG_FILE.to_owned(), CONFIG_FILE, config).map_err(missing)?);
        }
        return Ok(Found { files, license: None });
    }
    let mut found = Vec::new();
    inside.collect(&root, "", DEPTH, &mut found).map_err(missing)?;
    let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    let place = |path: &str| found.iter().find(|(found, _)| found == path).map(|(_, place)| place.as_path());
    let chosen = match place(INDEX) {
        None => selection::with_config(vec![folder::single(&paths).map_err(DownloadError::Final)?], &paths),
        Some(index) => {
            let index = json::read(&fs::read(index).map_err(missing)?)
                .map_err(|error| DownloadError::Final(format!("{INDEX} is not JSON: {error}.")))?;
            folder::pipeline(&paths, &index, None).map_err(DownloadError::Final)?
        }
    };
    let mut files = Vec::with_capacity(chosen.len());
    for path in &chosen {
        let within = selection::path_within(name, path, &chosen);
        let Some(place) = place(path) else { continue };
        files.push(wanted(within, path, place.to_owned()).map_err(missing)?);
    }
    let license = paths.iter().find(|path| selection::is_license(path)).and_then(|path| place(path));
    let small = license.filter(|place| fs::metadata(place).is_ok_and(|about| about.len() <= MAX_LICENSE_BYTES as u64));
    let license = small.and_then(|place| fs::read(place).ok()).and_then(super::license);
    Ok(Found { files, license })
}

fn wanted(path: String, called: &str, place: PathBuf) -> io::Result<Wanted> {
    let bytes = fs::metadata(&place)?.len();
    Ok(Wanted { path, called: called.to_owned(), place: Place::Local(place), bytes: Some(bytes), sha256: None })
}

struct Inside<'a> {
    allowed: &'a Path,
}

impl Inside<'_> {
    /// The resolved `path`, if it is inside the folder.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let real = path.canonicalize()?;
        if real.starts_with(self.allowed) { Ok(real) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// PEFT's config that belongs to a file of weights, if it is inside the folder.
    fn config_beside(&self, weights: &Path) -> Option<PathBuf> {
        let (folder, weights) = (weights.parent()?, weights.file_name()?.to_str()?);
        let mut found = Vec::new();
        self.collect(folder, "", 1, &mut found).ok()?;
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let config = config_beside(weights, &names)?;
        found.iter().find(|(name, _)| name == config).map(|(_, place)| place.clone())
    }

    fn collect(&self, folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            // A link that leaves the folder is treated as missing.
            let Ok(place) = self.resolve(&entry.path()) else { continue };
            let path = format!("{prefix}{name}");
            if place.is_file() {
                found.push((path, place));
            } else if place.is_dir() && depth > 1 {
                self.collect(&place, &format!("{path}/"), depth - 1, found)?;
            }
            if found.len() > ENTRIES {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        found.sort();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_allowed_folder() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.safetensors"), "x").unwrap();
        let allowed = tempfile::tempdir().unwrap();
        fs::create_dir(allowed.path().join("models")).unwrap();
        fs::write(allowed.path().join("models/clay.safetensors"), "x").unwrap();
        fs::write(allowed.path().join("models/LICENSE"), "yours").unwrap();
        std::os::unix::fs::symlink(outside.path(), allowed.path().join("out")).unwrap();
        std::os::unix::fs::symlink(
            allowed.path().join("models/clay.safetensors"),
            allowed.path().join("linked.safetensors"),
        )
        .unwrap();

        let find = |path: &str| find(Some(allowed.path()), path, "clay");
        for inside in ["models", "models/clay.safetensors", "linked.safetensors"] {
            let found = find(inside).unwrap();
            assert_eq!(found.files[0].path, "clay.safetensors", "{inside}");
        }
        assert_eq!(find("models").unwrap().license.as_deref(), Some("yours"));
        let name = outside.path().file_name().unwrap().to_str().unwrap();
        for outside in
            ["out", "out/secret.safetensors", "../", &format!("models/../../{name}/secret.safetensors"), "nothing"]
        {
            assert!(matches!(find(outside), Err(DownloadError::Final(_))), "{outside}");
        }
        assert!(matches!(super::find(None, "models", "clay"), Err(DownloadError::Final(_))));
    }
}
