//! The rehearsal of `just gpu-check`: every section on the CPU at a tiny size, each in its own process, up to the
//! report.

use std::process::Command;
use std::time::Instant;

use journeys::model::tiny_folder;
use journeys::process::binary;
use serde_json::Value;

fn gauge(folder: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(binary());
    // The repository's root.
    command
        .current_dir(tiny_folder().ancestors().nth(4).unwrap())
        .args(["gauge", "--tiny", "--device", "cpu"])
        .args(arguments);
    command.arg("--results").arg(folder).arg("--work").arg(folder.join("work"));
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

/// The run's report as JSON, and the table beside it.
fn report(folder: &std::path::Path) -> (Value, String) {
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let with = |extension: &str| files.iter().find(|file| file.extension().is_some_and(|e| e == extension)).unwrap();
    (
        serde_json::from_slice(&std::fs::read(with("json")).unwrap()).unwrap(),
        std::fs::read_to_string(with("md")).unwrap(),
    )
}

#[test]
fn a_rehearsal_measures_everything() {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    // Without the peers: the Python packages differ between machines.
    let (good, said) = gauge(folder.path(), &["--python", "/bin/false"]);
    println!("{said}\n{:.1} s", start.elapsed().as_secs_f64());
    assert!(good, "{said}");
    let (report, table) = report(folder.path());
    let figures = report["figures"].as_array().unwrap();
    let has =
        |name: &str| figures.iter().any(|figure| figure["name"] == name && figure["value"].as_f64().unwrap() > 0.0);
    for name in [
        "transformer in f32",
        "vae decoder in bf16",
        "step 64 px",
        "text encoders",
        "decoder 32 px",
        "loading weights",
        "training step 64 px",
        "sdxl guided step 64 px",
        "sd15 guided step 32 px",
        "product 64×64×64",
        "attention 2×32×32",
        "copy on the device",
        "first step 64 px, kernels kept",
    ] {
        assert!(has(name), "{name} is missing in {report:#}");
        assert!(table.contains(name), "{table}");
    }
    let picture = figures.iter().find(|figure| figure["name"] == "ember's picture against the CPU's").unwrap();
    assert_eq!(picture["value"], 0.0, "the CPU differs from itself");
    let sections = report["sections"].as_array().unwrap();
    let ended = |how: &str| sections.iter().filter(|section| section["how"] == how).count();
    assert_eq!((ended("done"), ended("no PyTorch here")), (6, 1), "{sections:?}");
}

#[test]
fn a_section_that_fails_is_told_and_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (good, said) = gauge(folder.path(), &["--sections", "goldens,kernels", "--goldens", "nowhere"]);
    assert!(!good && said.contains("section goldens failed"), "{said}");
    let (report, table) = report(folder.path());
    assert!(report["figures"].as_array().unwrap().iter().all(|figure| figure["section"] == "kernels"));
    assert!(table.contains("- goldens: failed") && table.contains("- kernels: done"), "{table}");
}

#[test]
fn a_cpu_is_not_measured_at_full_size() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        Command::new(binary()).args(["gauge", "--device", "cpu", "--work"]).arg(folder.path()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("no card to measure"));
}
