//! `pyrograph sweep`: looks for objects in the bucket that no row names, as a running server does by itself.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use domain::Storage;
use domain::database::PoolSizes;
use domain::sweep::{self, SweepMode, SweepPolicy, SweepReport};

use super::{Outcome, print_json};
use crate::configuration::Services;
use crate::failure::Failure;
use crate::output::say;
use crate::services;

/// Delete objects from the bucket that no row names
///
/// `up` and `serve` do the same every six hours. An object without a row is marked, and deleted a day later if it still
/// has none. Nothing is deleted if the bucket may belong to another installation, if the database was restored from a
/// backup, or if more than 5 % of the objects, and more than 20, have no row.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// Show what would be done, and change nothing
    #[arg(long, conflicts_with = "accept")]
    dry_run: bool,
    /// Accept the state of the database, after it was restored or when too many objects have no row
    ///
    /// Objects without rows are marked, and deleted a day later.
    #[arg(long)]
    accept: bool,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// Data folder of a running `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Sweep {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let services = Services::find(&self.data_dir)?;
        let pools = services::database(&services.database(), PoolSizes::WORKER).await?;
        services::check_schema(&pools).await?;
        let storage = Storage::new(&services.storage).context("storage")?;
        services::check_storage(&storage, &services.storage).await?;
        let mode = match (self.dry_run, self.accept) {
            (true, _) => SweepMode::DryRun,
            (_, true) => SweepMode::Accept,
            _ => SweepMode::Delete,
        };
        let swept = sweep::sweep(&pools.lease, &storage, &SweepPolicy::default(), mode).await;
        pools.close().await;
        let report = services::answered(swept, "could not sweep the bucket")?;
        if self.json {
            print_json(&serde_json::to_value(&report).context("the report")?)?;
        } else {
            show(&report, self.dry_run)?;
        }
        match report.stopped {
            Some(reason) => Err(Failure::Failed(anyhow!("nothing was deleted: {reason}"))),
            None => Ok(()),
        }
    }
}

fn show(report: &SweepReport, dry_run: bool) -> Outcome {
    if dry_run {
        for key in &report.keys {
            say!("{key}")?;
        }
        for key in &report.young_keys {
            say!("{key} (younger than a day)")?;
        }
    }
    say!(
        "{} objects, {} without a row, of which {} are younger than a day and stay.",
        report.objects,
        report.strays + report.young_strays,
        report.young_strays
    )?;
    if report.stopped.is_none() {
        let [marked, deleted, aborted] = if dry_run {
            ["would be marked", "would be deleted", "would be aborted"]
        } else {
            ["marked", "deleted", "aborted"]
        };
        let SweepReport { marked: marks, deleted: deletions, aborted_uploads: uploads, .. } = report;
        say!("{marks} {marked}, {deletions} {deleted}, {uploads} unfinished uploads {aborted}.")?;
    }
    Ok(())
}
