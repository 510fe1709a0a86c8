//! The log, on stderr: stdout belongs to results. A line that cannot be written is lost, and nothing else: the reader
//! of a pipe may have died, or the disk with the log may be full.

use std::io::{self, IsTerminal as _, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, filter, fmt};

use crate::configuration::{said, variable};
use crate::failure::Failure;
use crate::output::notice;

/// Log filter of servers, unless PYROGRAPH_LOG is set.
pub(crate) const SERVER: &str = "info,sqlx=warn,s3s=warn,object_store=warn,apalis=warn,apalis_core=warn";
/// Log filter of client commands, unless PYROGRAPH_LOG is set.
pub(crate) const CLIENT: &str = "warn";

/// Crates whose lines below `info` may be written. Others log whole requests there, with signatures that open the
/// bucket.
const DISCREET: &[&str] = &[
    "pyrograph",
    "api",
    "bench",
    "burn",
    "cubecl",
    "diffusion",
    "domain",
    "embedded",
    "formats",
    "outgoing",
    "requests",
    "sqlx",
    "worker",
];

/// Stderr, which takes every line.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the log, with this filter unless the environment has one.
///
/// # Errors
/// An invalid filter or format.
pub(crate) fn start(default: &str) -> Result<(), Failure> {
    let mut filter = said::<EnvFilter>("PYROGRAPH_LOG")?.unwrap_or_else(|| EnvFilter::new(default));
    // The S3 server logs each request that it refuses as an error, such as one whose URL has expired, and failures
    // without their cause. `embedded` logs those.
    if !variable("PYROGRAPH_LOG").is_some_and(|filter| filter.contains("s3s")) {
        let quiet = ["s3s::ops=off", "s3s::service=off"].iter().filter_map(|directive| directive.parse().ok());
        filter = quiet.fold(filter, EnvFilter::add_directive);
    }
    let lines = fmt::layer().with_writer(|| Stderr).log_internal_errors(false);
    let lines = match variable("PYROGRAPH_LOG_FORMAT").as_deref() {
        None | Some("text") => lines.with_ansi(io::stderr().is_terminal()).with_target(false).boxed(),
        Some("json") => lines.json().boxed(),
        Some(other) => {
            return Err(Failure::Usage(format!("PYROGRAPH_LOG_FORMAT is '{other}', which is neither text nor json")));
        }
    };
    tracing_subscriber::registry().with(lines).with(filter).with(filter::filter_fn(is_discreet)).init();
    Ok(())
}

fn is_discreet(line: &Metadata) -> bool {
    let of = line.target().split(['_', ':']).next().unwrap_or_default();
    *line.level() <= Level::INFO || DISCREET.contains(&of)
}

/// Lines that no filter holds back: `text` on its own, or one event where the log is JSON.
pub(crate) fn announce(level: Level, text: &str) {
    if variable("PYROGRAPH_LOG_FORMAT").as_deref() != Some("json") {
        return text.lines().for_each(notice);
    }
    let log = tracing_subscriber::fmt().json().with_writer(|| Stderr).finish();
    tracing::subscriber::with_default(log, || match level {
        Level::ERROR => tracing::error!("{text}"),
        _ => tracing::info!("{text}"),
    });
}
