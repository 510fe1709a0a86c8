//! Signals: when to stop (Ctrl-C, SIGTERM, SIGHUP, or the end of a parent process), and which of them are ignored.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::log;

/// A token that is cancelled by the first Ctrl-C, SIGTERM or SIGHUP. The second Ctrl-C or SIGTERM ends the process at
/// once, after calling `last_words`, which must not block. A SIGHUP does not count as the second: it comes together
/// with others when a terminal closes, or from systemd with `SendSIGHUP=`.
pub(crate) fn stop_token(last_words: impl FnOnce() + Send + 'static) -> CancellationToken {
    let token = CancellationToken::new();
    let asked = token.clone();
    let mut requests = Requests::listen();
    tokio::spawn(async move {
        let mut count = 0;
        while count < 2 {
            if requests.next().await == Request::Stop {
                count += 1;
            }
            asked.cancel();
        }
        log::announce(Level::INFO, "Exiting at once.");
        last_words();
        std::process::exit(130);
    });
    token
}

/// Also cancels `token` when stdin ends, which happens when the process at its other end dies.
pub(crate) fn stop_with_parent(token: &CancellationToken) {
    let token = token.clone();
    // A separate thread, since a read of stdin cannot be interrupted and the runtime would wait for it when it shuts
    // down.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        token.cancel();
    });
}

/// Makes this process ignore SIGXFSZ, with which the system ends a process whose file grows beyond its limit
/// (`ulimit -f`): the write fails instead, with an error that is reported like any other.
pub(crate) fn ignore_file_size() {
    // Without it, the process only ends as it would anyway.
    let _ = ignore(&[SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())]);
}

/// Makes this process ignore all requests to stop. For the engine: an init system sends them to every process of a
/// service, and the worker, which gets them too, decides when its engine stops.
pub(crate) fn ignore_requests() -> io::Result<()> {
    ignore(&[SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()])
}

/// Tokio's handler of a signal stays for the life of the process, also without a runtime. Programs that this process
/// starts get the default action again, where a signal that is ignored in the system's sense would stay ignored.
fn ignore(signals: &[SignalKind]) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _context = runtime.enter();
    signals.iter().try_for_each(|kind| signal(*kind).map(drop))
}

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    /// Ctrl-C or SIGTERM.
    Stop,
    /// SIGHUP: the terminal was closed.
    HangUp,
}

/// The signals that ask this process to stop, from the moment at which they are listened to.
struct Requests {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Requests {
    fn listen() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        // `nohup` starts a program with SIGHUP ignored, so that it survives its terminal.
        let stays = ignores(&status, SignalKind::hangup());
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
            hang_up: if stays { None } else { signal(SignalKind::hangup()).ok() },
        }
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            () = received(&mut self.interrupt) => Request::Stop,
            () = received(&mut self.terminate) => Request::Stop,
            () = received(&mut self.hang_up) => Request::HangUp,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    let next = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if next.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Whether a process with this `/proc/PID/status` ignores a signal.
fn ignores(status: &str, signal: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_seen() {
        let status = "Name:\tpyrograph\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, SignalKind::hangup()));
        assert!(!ignores(status, SignalKind::terminate()) && !ignores("", SignalKind::hangup()));
    }
}
