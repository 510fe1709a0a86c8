//! `pyrograph serve`: the API alone, for deployments where workers run elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Outcome;
use super::listen_flags::ListenFlags;
use crate::configuration::Services;
use crate::failure::Failure;
use crate::server::{Server, listen};
use crate::signal;

/// How long responses may take to finish after the server was asked to stop.
const FAREWELL: Duration = Duration::from_secs(30);

/// Serve the REST API
///
/// For deployments: Postgres and S3 come from the environment (see `pyrograph --help`); start workers separately with
/// `pyrograph worker`, on any number of machines. Updates the database schema when it starts.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    listen: ListenFlags,
    /// Data folder of a running `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Serve {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let stop = signal::stop_token(|| ());
        let services = Services::find(&self.data_dir)?;
        let listener = listen(&self.listen).await?;
        let mut server = tokio::select! {
            started = Server::start(listener, &services, &self.listen, &[]) => started?,
            // It may wait for the database for a long time.
            () = stop.cancelled() => return Ok(()),
        };
        tracing::info!("serving {}", server.url());
        tokio::select! {
            () = stop.cancelled() => {}
            () = server.ended() => {
                return Err(Failure::Failed(anyhow::anyhow!("the API stopped unexpectedly; see the log")));
            }
        }
        server.stop(FAREWELL).await;
        Ok(())
    }
}
