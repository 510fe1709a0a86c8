//! What users call the files of an attempt. Errors of the engine and of the operating system name paths on this
//! machine, which mean nothing to the user and describe the installation. So every message passes through here before
//! it is stored.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Names by path.
#[derive(Debug, Default)]
pub(crate) struct Labels(Mutex<Vec<(String, String)>>);

impl Labels {
    /// Names a file or folder. A file inside a folder is called `name/path/inside`.
    pub(crate) fn add(&self, path: &Path, name: impl Into<String>) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.push((path.display().to_string(), name.into()));
        // A file inside a named folder may have its own name.
        names.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    }

    /// Hides a folder of this machine: files inside keep the rest of their path.
    pub(crate) fn hide(&self, folder: &Path) {
        self.add(folder, "");
    }

    /// The message with names in place of paths.
    pub(crate) fn apply(&self, message: &str) -> String {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().fold(message.to_owned(), |message, (path, name)| replaced(&message, path, name))
    }
}

fn replaced(message: &str, path: &str, name: &str) -> String {
    let mut parts = message.split(path);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for rest in parts {
        let goes_on = rest.starts_with(|next: char| next.is_alphanumeric() || "_-".contains(next));
        result += match (goes_on, name, rest.strip_prefix('/')) {
            // Another path that begins alike.
            (true, ..) => path,
            (false, "", Some(inside)) => {
                result += inside;
                continue;
            }
            (false, "", None) => "the worker's folder",
            (false, name, _) => name,
        };
        result += rest;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names() {
        let labels = Labels::default();
        labels.hide(Path::new("/data"));
        labels.hide(Path::new("/data/work/1"));
        labels.add(Path::new("/data/work/1/base"), "ember");
        labels.add(Path::new("/data/work/1/lora-0.safetensors"), "ink");
        for (message, wanted) in [
            ("/data/work/1/base/vae/config.json: no such file", "ember/vae/config.json: no such file"),
            ("/data/work/1/lora-0.safetensors: not a file", "ink: not a file"),
            (
                "/data/work/1/base: weights are missing; see /data/work/1/base.",
                "ember: weights are missing; see ember.",
            ),
            ("/data/work/1/base-2/x and /data/work/1/output/0.png", "base-2/x and output/0.png"),
            ("/data/cache/ab/abcd: Permission denied (os error 13)", "cache/ab/abcd: Permission denied (os error 13)"),
            ("/data: Read-only file system", "the worker's folder: Read-only file system"),
            ("/database is not ours", "/database is not ours"),
            ("nothing to say", "nothing to say"),
        ] {
            assert_eq!(labels.apply(message), wanted);
        }
    }
}
