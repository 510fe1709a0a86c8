//! `pyrograph migrate`: updates the schema, separately from the server.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use domain::database;

use super::Outcome;
use crate::configuration::Services;
use crate::services;

/// Bring the database up to date
///
/// `up` and `serve` do the same at their start; this is for a role that may change the schema when theirs may not.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Data folder of a running `up`, looked at when DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Migrate {
    /// Runs the command.
    pub async fn run(self) -> Outcome {
        let pools = services::database(&Services::find_database(&self.data_dir)?).await?;
        let migrated = database::migrate(&pools.lease).await;
        pools.close().await;
        migrated.context("the schema could not be brought up to date")?;
        eprintln!("The database is up to date.");
        Ok(())
    }
}
