//! `pyrograph serve`: the API alone, for deployments where workers run elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use crate::configuration::Services;
use crate::failure::Failure;
use crate::server::{Server, listen};
use crate::signal;

/// Serve the REST API
///
/// For real deployments: Postgres and S3 come from the environment (see `pyrograph --help`), workers are started separately
/// with `pyrograph worker`, on as many machines as you like. The schema is brought up to date at the start.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    bind: SocketAddr,
    /// Data folder of a running `up`, looked at when DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Serve {
    /// Runs the command.
    pub async fn run(self) -> Outcome {
        let stop = signal::stop_token(|| ());
        let services = Services::find(&self.data_dir)?;
        let listener = listen(self.bind).await?;
        let mut server = Server::start(listener, &services).await?;
        tracing::info!("serving http://{}", server.address);
        tokio::select! {
            () = stop.cancelled() => {}
            () = server.ended() => return Err(Failure::Failed(anyhow::anyhow!("the API ended by itself; the log says why"))),
        }
        server.stop().await;
        Ok(())
    }
}
