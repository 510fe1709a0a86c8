//! How much memory this machine and its cards have: the default limit of an engine.

use std::path::Path;
use std::process::{Command, Stdio};

use bytesize::ByteSize;

use super::control_group::{self, SYSTEM};

/// 80% of the machine's memory, or 90% of the smallest card's; `None` if a card does not report its memory.
pub(super) fn usual(is_gpu: bool) -> Option<u64> {
    if is_gpu { Some(smallest_card()? / 10 * 9) } else { Some(of_this_machine() / 10 * 8) }
}

/// For text encoders beside a card: half of the machine's memory, since the page cache and other processes need some.
pub(super) fn usual_host() -> u64 {
    of_this_machine() / 2
}

/// A sentence, if this machine does not have so much memory.
pub(super) fn too_much(budget: u64) -> Option<String> {
    let there = of_this_machine();
    (budget > there).then(|| {
        format!(
            "--vram-budget is {}, and this machine has {}: the system may end the engine when memory runs out",
            ByteSize(budget),
            ByteSize(there)
        )
    })
}

/// The memory that the kernel reports, or less if a control group has a lower limit.
fn of_this_machine() -> u64 {
    const UNKNOWN: u64 = 8 << 30;
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?;
        Some(kib.parse::<u64>().ok()? * 1024)
    });
    machine.unwrap_or(UNKNOWN).min(control_group::memory(Path::new(SYSTEM)).unwrap_or(u64::MAX))
}

/// From the driver's own tool, which may number cards in another order than CUDA; so the smallest card counts.
fn smallest_card() -> Option<u64> {
    let mut tool = Command::new("nvidia-smi");
    tool.args(["--query-gpu=memory.total", "--format=csv,noheader,nounits"]).stdin(Stdio::null());
    smallest(&String::from_utf8(tool.output().ok()?.stdout).ok()?)
}

/// Parses lines with mebibytes.
fn smallest(lines: &str) -> Option<u64> {
    lines.lines().filter_map(|line| line.trim().parse::<u64>().ok()).min().map(|mebibytes| mebibytes << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_card_counts() {
        assert_eq!(smallest("81559\n24564\n"), Some(24564 << 20));
        assert_eq!(smallest("[N/A]\n"), None);
        assert_eq!(smallest(""), None);
    }

    #[test]
    fn a_machine_has_memory() {
        let usual = usual(false).unwrap();
        assert!(usual > 1 << 26);
        assert_eq!(too_much(usual), None);
        assert!(too_much(usual * 2).unwrap().contains("--vram-budget is"));
    }
}
