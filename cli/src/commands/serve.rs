//! `pyrograph serve`: the API alone, for deployments where workers run elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use crate::configuration::{Services, bind_address};
use crate::failure::Failure;
use crate::server::{Server, listen};
use crate::signal;

/// Serve the REST API
///
/// For deployments: Postgres and S3 come from the environment (see `pyrograph --help`); start workers separately with
/// `pyrograph worker`, on any number of machines. Updates the database schema when it starts.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS", value_parser = bind_address)]
    bind: SocketAddr,
    /// Data folder of a running `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Serve {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let stop = signal::stop_token(|| ());
        let services = Services::find(&self.data_dir)?;
        let listener = listen(self.bind).await?;
        let mut server = tokio::select! {
            started = Server::start(listener, &services) => started?,
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
        server.stop().await;
        Ok(())
    }
}
