//! Deliberate failures, so that tests can break an engine at a chosen step of a real job.
//!
//! Only the hidden `engine` command reads them from its environment (`PYROGRAPH_ENGINE_FAULT`); nothing else in the
//! product can enable them.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

/// A failure, parsed from `abort_at_step=3,once_file=/tmp/fired`.
///
/// Words: `abort_at_step=N` (dies by a signal), `exit_at_step=N` (exits with code 70, as after a sticky device error),
/// `panic_at_step=N`, `hang_at_step=N` (sends no more reports), `step_delay_ms=N` (delays every step),
/// `read_delay_ms=N` (delays every piece of weights that is read, at most a mebibyte), `once_file=PATH` (the failure
/// happens only while that file does not exist, and creates it).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    failure: Option<(Failure, usize)>,
    once_file: Option<PathBuf>,
    step_delay: Duration,
    read_delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Abort,
    Exit,
    Panic,
    Hang,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fault = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (word, value) = part.trim().split_once('=').ok_or_else(|| format!("{part}: needs a value"))?;
            let number = || value.parse::<usize>().map_err(|error| format!("{part}: {error}"));
            match word {
                "abort_at_step" => fault.failure = Some((Failure::Abort, number()?)),
                "exit_at_step" => fault.failure = Some((Failure::Exit, number()?)),
                "panic_at_step" => fault.failure = Some((Failure::Panic, number()?)),
                "hang_at_step" => fault.failure = Some((Failure::Hang, number()?)),
                "step_delay_ms" => fault.step_delay = Duration::from_millis(number()? as u64),
                "read_delay_ms" => fault.read_delay = Duration::from_millis(number()? as u64),
                "once_file" => fault.once_file = Some(value.into()),
                _ => return Err(format!("{word}: unknown fault")),
            }
        }
        Ok(fault)
    }
}

impl Fault {
    /// Called after each step; returns unless the failure is due.
    pub(super) fn at_step(&self, step: usize) {
        std::thread::sleep(self.step_delay);
        let Some((failure, due)) = self.failure else { return };
        if step != due || !self.may_fire() {
            return;
        }
        tracing::warn!(?failure, step, "failing on purpose");
        match failure {
            Failure::Abort => std::process::abort(),
            Failure::Exit => std::process::exit(super::EXIT_BROKEN_DEVICE.into()),
            Failure::Panic => panic!("failing on purpose at step {step}"),
            Failure::Hang => loop {
                std::thread::sleep(Duration::from_hours(1));
            },
        }
    }

    /// Called after each piece of weights. The threads that read wait for each other, so that the delay does not depend
    /// on their number.
    pub(super) fn at_read(&self) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        if !self.read_delay.is_zero() {
            let _turn = ONE_AT_A_TIME.lock();
            std::thread::sleep(self.read_delay);
        }
    }

    fn may_fire(&self) -> bool {
        match &self.once_file {
            None => true,
            Some(path) => std::fs::File::create_new(path).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_from_its_words() {
        let fault: Fault = "abort_at_step=3,once_file=/tmp/x,step_delay_ms=5,read_delay_ms=7".parse().unwrap();
        assert_eq!(fault.failure, Some((Failure::Abort, 3)));
        assert_eq!(fault.once_file, Some("/tmp/x".into()));
        assert_eq!((fault.step_delay, fault.read_delay), (Duration::from_millis(5), Duration::from_millis(7)));
        assert_eq!("".parse::<Fault>().unwrap(), Fault::default());
        assert!("abort_at_step".parse::<Fault>().is_err());
        assert!("explode=1".parse::<Fault>().is_err());
        assert!("abort_at_step=soon".parse::<Fault>().is_err());
    }

    #[test]
    fn a_fault_with_a_file_happens_once() {
        let folder = tempfile::tempdir().unwrap();
        let once = folder.path().join("fired");
        let fault = Fault { once_file: Some(once.clone()), ..Fault::default() };
        assert!(fault.may_fire());
        assert!(once.exists());
        assert!(!fault.may_fire());
    }
}
