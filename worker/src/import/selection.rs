//! Which further files of a folder or repository belong to a model. `formats::folder` chooses those that a pipeline is
//! loaded from. Pure: it sees names only.

/// Whether `path` is the text of a licence.
pub(crate) fn is_license(path: &str) -> bool {
    let name = path.to_ascii_lowercase();
    let stem = name.strip_suffix(".md").or_else(|| name.strip_suffix(".txt")).unwrap_or(&name);
    matches!(stem, "license" | "licence" | "copying")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_by_name() {
        assert!(["LICENSE", "license.md", "LICENCE.txt"].iter().all(|path| is_license(path)));
        assert!(!["vae/LICENSE", "LICENSE.py", "README.md"].iter().any(|path| is_license(path)));
    }
}
