//! Runs each section in its own process with a time limit. Figures are saved as they are measured; the report follows.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use diffusion::device::{self, DeviceChoice};

use crate::figure::{Figures, read};
use crate::machine::Machine;
use crate::report::{Ending, Report};
use crate::scale::Scale;
use crate::section::Section;
use crate::{denoising, goldens, kernels, training, unets};

/// Measure a device: goldens, FLUX.1 at full size, and the same in PyTorch (`just gpu-check`)
///
/// Takes at most eight minutes and writes RESULTS/<device>-<date>.json and .md. It needs a build with the feature
/// `cuda` to measure a card, and PyTorch only for the figures of the peers.
#[derive(Debug, Args)]
pub struct Gauge {
    /// Device: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// The same in seconds at a tiny size, on any machine: a rehearsal, whose figures mean nothing
    #[arg(long)]
    pub tiny: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_name = "SECTIONS")]
    pub sections: Vec<Section>,
    /// Folder for the results
    #[arg(long, default_value = "bench/results", value_name = "DIR")]
    pub results: PathBuf,
    /// Folder for kernels and figures of this run; kernels that it has are used
    #[arg(long, default_value = "out/gauge", value_name = "DIR")]
    pub work: PathBuf,
    /// The tiny pipelines with diffusers' answers
    #[arg(long, default_value = "diffusion/tests/goldens", value_name = "DIR")]
    pub goldens: PathBuf,
    /// The built-in checkpoint
    #[arg(long, default_value = "models/ember", value_name = "DIR")]
    pub ember: PathBuf,
    /// Python that may have PyTorch
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    pub python: PathBuf,
    /// The peers' figures
    #[arg(long, default_value = "bench/peers/device.py", value_name = "FILE")]
    pub peers: PathBuf,
    /// Print where the device spends its time, kernel by kernel, on stderr
    #[arg(long)]
    pub profile: bool,
    /// How much autotuning tries: minimal, balanced, extensive or full
    #[arg(long, value_name = "LEVEL")]
    pub autotune: Option<String>,
    /// Measure this one section in this process
    #[arg(long, hide = true)]
    pub inside: Option<Section>,
}

impl Gauge {
    /// Measures, and fails if a figure exceeds its limit or a section of ours does not finish.
    pub fn run(self) -> Result<()> {
        match self.inside {
            Some(section) => self.measure(section),
            None => self.conduct(),
        }
    }

    /// Measures one section in this process.
    fn measure(&self, section: Section) -> Result<()> {
        device::join_pool(None);
        device::keep_kernels(&self.kernels());
        let opened = device::open(self.device)?;
        let (device, figures) = (&opened.device, &mut Figures::append(&self.figures(), section.name())?);
        let scale = if self.tiny { Scale::tiny() } else { Scale::full() };
        match section {
            Section::Goldens => goldens::measure(&self.goldens, &self.ember, device, figures),
            Section::Denoising => denoising::measure(&scale, device, figures),
            Section::Training => training::measure(&scale, device, figures),
            Section::UNets => unets::measure(&scale, device, figures),
            Section::Kernels => kernels::measure(&scale, device, figures),
            Section::WarmStart => denoising::warm_start(&scale, device, figures),
            // They run in Python, which `start` starts.
            Section::Peers => Ok(()),
        }
    }

    fn conduct(&self) -> Result<()> {
        std::fs::create_dir_all(&self.work).with_context(|| self.work.display().to_string())?;
        let _ = std::fs::remove_file(self.figures());
        let cpu = self.is_cpu()?;
        let machine = Machine::look(cpu);
        eprintln!("measuring {}", machine.device);
        if cpu && !self.tiny {
            bail!("there is no card to measure, and FLUX.1 at full size takes hours on a CPU; `--tiny` rehearses");
        }
        let mut endings = Vec::new();
        for section in Section::ALL {
            if !self.sections.is_empty() && !self.sections.contains(&section) {
                continue;
            }
            let start = Instant::now();
            let how = match self.start(section, cpu)? {
                Some(child) => wait(child, section.limit())?,
                None => "no PyTorch here".to_owned(),
            };
            endings.push(Ending { section, how, seconds: start.elapsed().as_secs_f64() });
            // Written after each section, so that an aborted run has a report too.
            Report::of(&machine, read(&self.figures()), &endings).write(&self.results, self.tiny)?;
        }
        let report = Report::of(&machine, read(&self.figures()), &endings);
        let path = report.write(&self.results, self.tiny)?;
        eprintln!("{}", path.display());
        let faults = report.faults();
        if !faults.is_empty() {
            bail!("{}", faults.join("; "));
        }
        Ok(())
    }

    /// Whether the device is the CPU. Only resolves the choice, since this process must not open the device.
    fn is_cpu(&self) -> Result<bool> {
        Ok(match self.device {
            DeviceChoice::Cpu => true,
            choice => {
                let opened = device::choose(choice)?;
                if let Some(why) = opened.1 {
                    eprintln!("{}: {why}", opened.0);
                }
                opened.0 == DeviceChoice::Cpu
            }
        })
    }

    /// Starts a section; `None` for peers that are not installed.
    fn start(&self, section: Section, cpu: bool) -> Result<Option<Child>> {
        let mut command = if section == Section::Peers {
            if !has_torch(&self.python) {
                return Ok(None);
            }
            let mut python = Command::new(&self.python);
            python.arg(&self.peers).arg("--figures").arg(self.figures());
            python.args(["--device", if cpu { "cpu" } else { "cuda" }]);
            python
        } else {
            let program = std::env::current_exe()?;
            let mut inside = Command::new(&program);
            inside.envs(device::environment(&program));
            inside.args(["gauge", "--inside", section.name(), "--device", &self.device.to_string()]);
            inside.arg("--work").arg(&self.work).arg("--goldens").arg(&self.goldens).arg("--ember").arg(&self.ember);
            if self.profile {
                inside.envs([("CUBECL_DEBUG_OPTION", "profile-medium"), ("CUBECL_DEBUG_LOG", "stderr")]);
            }
            if let Some(level) = &self.autotune {
                inside.env("CUBECL_AUTOTUNE_LEVEL", level);
            }
            inside
        };
        if self.tiny {
            command.arg("--tiny");
        }
        let started = command.stdin(Stdio::null()).spawn();
        Ok(Some(started.with_context(|| format!("section {}", section.name()))?))
    }

    fn figures(&self) -> PathBuf {
        self.work.join("figures.jsonl")
    }

    fn kernels(&self) -> PathBuf {
        self.work.join("kernels")
    }
}

fn has_torch(python: &Path) -> bool {
    let asked = Command::new(python).args(["-c", "import torch"]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Waits for a section and describes its end; kills it at the time limit.
fn wait(mut child: Child, limit: Duration) -> Result<String> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(ending(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(format!("stopped after {} s", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ending(status: ExitStatus) -> String {
    if status.success() { Ending::GOOD.into() } else { format!("failed: {status}") }
}
