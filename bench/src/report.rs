//! The figures of a run as JSON and as a table: each of ours with its peers and its lower bound.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::figure::{Figure, OURS};
use crate::floor;
use crate::machine::Machine;
use crate::section::Section;

/// How a section ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ending {
    pub section: Section,
    pub how: String,
    pub seconds: f64,
}

impl Ending {
    pub(crate) const GOOD: &str = "done";
}

#[derive(Serialize)]
pub(crate) struct Report<'a> {
    machine: &'a Machine,
    sections: &'a [Ending],
    figures: Vec<Row>,
}

/// One of our figures with its comparisons.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    ours: Figure,
    /// The peers' figures, and the ratio to ours: above 1 the peer is better.
    peers: BTreeMap<String, Peer>,
    /// Milliseconds at the GPU's peak rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<f64>,
}

#[derive(Serialize)]
struct Peer {
    value: f64,
    ratio: f64,
}

impl<'a> Report<'a> {
    pub(crate) fn of(machine: &'a Machine, figures: Vec<Figure>, sections: &'a [Ending]) -> Self {
        let roof = floor::roof(&machine.device);
        let (ours, theirs): (Vec<Figure>, Vec<Figure>) = figures.into_iter().partition(|figure| figure.by == OURS);
        let rows = ours.into_iter().map(|ours| {
            let same = theirs.iter().filter(|peer| peer.name == ours.name && peer.unit == ours.unit);
            // For rates more is better, for times less.
            let ratio = |theirs: f64| if ours.unit.ends_with("/s") { theirs / ours.value } else { ours.value / theirs };
            let peers =
                same.map(|peer| (peer.by.clone(), Peer { value: peer.value, ratio: ratio(peer.value) })).collect();
            let floor = ours.flop.zip(roof).map(|(flop, roof)| flop / 1e9 / roof);
            Row { ours, peers, floor }
        });
        Self { machine, sections, figures: rows.collect() }
    }

    /// The failures, one sentence each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let bad = self.figures.iter().map(|row| &row.ours).filter(|figure| figure.is_bad());
        let bad = bad.map(|figure| {
            format!("{} is {:.1e}, above {:.0e}", figure.name, figure.value, figure.limit.unwrap_or_default())
        });
        let ours = self.sections.iter().filter(|ending| ending.section != Section::Peers && ending.how != Ending::GOOD);
        bad.chain(ours.map(|ending| format!("section {} {}", ending.section.name(), ending.how))).collect()
    }

    /// Writes both files and returns the path of the table.
    pub(crate) fn write(&self, folder: &Path, tiny: bool) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let date = self.machine.started.split('T').next().unwrap_or_default();
        let rehearsal = if tiny { "-rehearsal" } else { "" };
        let path = folder.join(format!("{}-{date}{rehearsal}", self.machine.short_name()));
        let (json, table) = (path.with_extension("json"), path.with_extension("md"));
        std::fs::write(&json, format!("{:#}\n", serde_json::to_value(self)?))?;
        std::fs::write(&table, self.table(tiny)).with_context(|| table.display().to_string())?;
        Ok(table)
    }

    fn table(&self, tiny: bool) -> String {
        let Machine { device, driver, pyrograph, burn, started } = self.machine;
        let mut text = format!("# {device}, {started}\n\nPyrograph {pyrograph}, Burn {burn}");
        if !driver.is_empty() {
            let _ = write!(text, ", driver {driver}");
        }
        text.push_str(". Random weights N(0, 0.02), batch 1; medians after warm-up.");
        if tiny {
            text.push_str(" **A rehearsal at a tiny size: the figures mean nothing.**");
        }
        text.push_str(
            "\n\n| section | figure | ours | peers (ratio) | floor (times) | limit |\n|---|---|---|---|---|---|\n",
        );
        for Row { ours, peers, floor } in &self.figures {
            let peers: Vec<String> = peers
                .iter()
                .map(|(by, peer)| format!("{by}: {} ({:.2}×)", short(peer.value, &ours.unit), peer.ratio))
                .collect();
            let floor = floor.map_or_else(String::new, |floor| format!("{floor:.1} ms ({:.1}×)", ours.value / floor));
            let limit = ours.limit.map_or_else(String::new, |limit| {
                format!("≤ {limit:.0e}{}", if ours.is_bad() { " **broken**" } else { "" })
            });
            let note = if ours.note.is_empty() { String::new() } else { format!(" ({})", ours.note) };
            let _ = writeln!(
                text,
                "| {} | {}{note} | {} | {} | {floor} | {limit} |",
                ours.section,
                ours.name,
                short(ours.value, &ours.unit),
                peers.join("; "),
            );
        }
        text.push_str(
            "\nRatio: how many times as good the peer is. Floor: operations by formula at the rate of cuBLAS on this \
             card.\n",
        );
        for Ending { section, how, seconds } in self.sections {
            let _ = write!(text, "\n- {}: {how}, {seconds:.0} s", section.name());
        }
        text.push('\n');
        text
    }
}

fn short(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        small if small < 1e-2 => return format!("{value:.1e} {unit}").trim().to_owned(),
        large if large >= 100.0 => 0,
        _ => 2,
    };
    format!("{value:.digits$} {unit}").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(figure: Figure, by: &str) -> Figure {
        Figure { by: by.into(), ..figure }
    }

    #[test]
    fn ratios_show_how_much_better_the_peer_is() {
        let machine = Machine { device: "NVIDIA H200".into(), ..Machine::look(true) };
        let figures = vec![
            Figure::ours("step", 300.0, "ms").of_flop(79e12),
            peer(Figure::ours("step", 150.0, "ms"), "torch"),
            Figure::ours("product", 200.0, "TFLOP/s"),
            peer(Figure::ours("product", 700.0, "TFLOP/s"), "torch"),
            Figure::ours("t5 in f32", f64::NAN, "").at_most(1e-3),
        ];
        let endings = [Ending { section: Section::Kernels, how: "stopped after 50 s".into(), seconds: 50.0 }];
        let report = Report::of(&machine, figures, &endings);
        assert_eq!(report.figures.len(), 3);
        assert_eq!(report.figures[0].peers["torch"].ratio, 2.0);
        assert_eq!(report.figures[0].floor, Some(100.0));
        assert_eq!(report.figures[1].peers["torch"].ratio, 3.5);
        assert_eq!(report.faults().len(), 2, "{:?}", report.faults());
        let table = report.table(false);
        assert!(table.contains("torch: 150 ms (2.00×)") && table.contains("100.0 ms (3.0×)"), "{table}");
    }
}
