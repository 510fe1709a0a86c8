//! `pyrograph migrate`: updates the database schema separately from the server.

use std::path::PathBuf;

use clap::Args;
use domain::database::PoolSizes;
use tracing::Level;

use super::Outcome;
use crate::configuration::Services;
use crate::{log, services};

/// Update the database schema
///
/// `up` and `serve` do the same when they start. Use this if their database role may not change the schema.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Data folder of a running `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Migrate {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let pools = services::database(&Services::find_database(&self.data_dir)?, PoolSizes::WORKER).await?;
        let migrated = services::migrate(&pools).await;
        pools.close().await;
        migrated?;
        log::announce(Level::INFO, "The database is up to date.");
        Ok(())
    }
}
