//! The machine that was measured.

use std::process::Command;

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// The GPU's name, or the processor's if no GPU was used.
    pub device: String,
    /// Version of the NVIDIA driver; empty without one.
    pub driver: String,
    pub pyrograph: String,
    pub burn: String,
    /// Start of the run, RFC 3339.
    pub started: String,
}

impl Machine {
    /// `cpu`: whether the CPU is measured.
    pub(crate) fn look(cpu: bool) -> Self {
        let card = if cpu { String::new() } else { ask_driver("name,driver_version") };
        let (device, driver) = card.split_once(", ").map_or_else(|| (processor(), ""), |(a, b)| (a.to_owned(), b));
        Self {
            device,
            driver: driver.to_owned(),
            pyrograph: env!("CARGO_PKG_VERSION").into(),
            burn: BURN.into(),
            started: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        }
    }

    /// The name as a part of a file name.
    pub(crate) fn short_name(&self) -> String {
        let name = self.device.to_lowercase().replace("nvidia", "");
        let words = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.take(3).collect::<Vec<_>>().join("-")
    }
}

/// As in the workspace's Cargo.toml.
const BURN: &str = "0.22.1";

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    name.unwrap_or("unknown CPU").trim().to_owned()
}

/// A property of the first GPU from nvidia-smi; empty without one.
fn ask_driver(what: &str) -> String {
    let asked = Command::new("nvidia-smi").arg(format!("--query-gpu={what}")).arg("--format=csv,noheader").output();
    let told = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    told.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_for_a_file() {
        let machine = |device: &str| Machine { device: device.into(), ..Machine::look(true) };
        assert_eq!(machine("NVIDIA H200").short_name(), "h200");
        assert_eq!(machine("NVIDIA GeForce RTX 4090").short_name(), "geforce-rtx-4090");
    }

    #[test]
    fn the_version_of_burn_is_the_one_that_is_built() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("burn = {{ version = \"={BURN}\"")));
    }
}
