//! One measured number, and the file that it is appended to at once.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};

/// A measurement: what, by which program, in which unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub section: String,
    /// The same for us and for peers, so that they share a row of the report.
    pub name: String,
    #[serde(deserialize_with = "or_nan")]
    pub value: f64,
    /// `ms`, `s`, `GiB`, `GB/s`, `TFLOP/s`, or empty for a relative error.
    pub unit: String,
    /// `pyrograph`, or a peer with its version.
    pub by: String,
    /// Upper limit of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// Floating-point operations of the timed code, from which the lower bound of its time follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flop: Option<f64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// JSON writes NaN as null; a failed measurement must not vanish.
fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Our name in `by`.
pub(crate) const OURS: &str = "pyrograph";

impl Figure {
    /// A figure of ours. The [`Figures`] that write it fill in its section.
    pub(crate) fn ours(name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self {
            section: String::new(),
            name: name.into(),
            value,
            unit: unit.into(),
            by: OURS.into(),
            limit: None,
            flop: None,
            note: String::new(),
        }
    }

    pub(crate) fn at_most(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }

    pub(crate) fn of_flop(mut self, flop: f64) -> Self {
        self.flop = Some(flop);
        self
    }

    pub(crate) fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether it exceeds its limit; NaN always does.
    pub(crate) fn is_bad(&self) -> bool {
        self.limit.is_some_and(|limit| self.value.is_nan() || self.value > limit)
    }
}

/// The figures of one section, a line of JSON each.
pub(crate) struct Figures {
    section: String,
    file: File,
}

impl Figures {
    pub(crate) fn append(path: &Path, section: &str) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { section: section.into(), file: file.with_context(|| path.display().to_string())? })
    }

    /// Writes it to disk at once, since later code may never finish.
    pub(crate) fn put(&mut self, mut figure: Figure) -> Result<()> {
        figure.section.clone_from(&self.section);
        eprintln!("{:>12} {:<34} {:>12.5} {} {}", figure.section, figure.name, figure.value, figure.unit, figure.note);
        self.file.write_all(format!("{}\n", serde_json::to_string(&figure)?).as_bytes())?;
        Ok(self.file.sync_data()?)
    }
}

/// All figures of a file, without an incomplete last line.
pub(crate) fn read(path: &Path) -> Vec<Figure> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_also_if_it_is_no_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures.jsonl");
        let mut figures = Figures::append(&path, "goldens").unwrap();
        figures.put(Figure::ours("good", 1e-7, "").at_most(1e-3)).unwrap();
        figures.put(Figure::ours("broken", f64::NAN, "").at_most(1e-3)).unwrap();
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"section\": \"gol").unwrap();
        let read = read(&path);
        let bad: Vec<bool> = read.iter().map(Figure::is_bad).collect();
        assert_eq!(bad, [false, true], "{read:?}");
    }
}
