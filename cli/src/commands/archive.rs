//! `pyrograph archive`: checks the archive of pictures. It works on the bucket of the archive and, for a period, on the
//! database.

use std::path::PathBuf;

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use domain::Error;
use domain::database::PoolSizes;
use domain::delivery::archive;
use outbox::Archive;
use serde_json::json;

use super::{Outcome, print_json};
use crate::configuration::Services;
use crate::failure::Failure;
use crate::output::say;
use crate::services;

/// Check the archive of pictures
#[derive(Debug, Args)]
pub(crate) struct ArchiveCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Verify(Verify),
}

/// Check that pictures are in the archive as their records say
///
/// Reads the record and the picture, compares size and hashes, and decodes the picture. With --since, checks every
/// archived picture that was finished since then and is not deleted, lists those that are not archived yet, and counts
/// those that are not to be archived: their server had no archive, or their project wants none. The exit code is 1 if
/// anything is wrong.
#[derive(Debug, Args)]
struct Verify {
    /// image_hash of a picture
    #[arg(value_name = "HASH", value_parser = hash, required_unless_present = "since", conflicts_with = "since")]
    hash: Option<String>,
    /// Check all pictures since this time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// Data folder of a running `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
}

fn hash(text: &str) -> Result<String, String> {
    let is_md5 = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_md5 { Ok(text.to_ascii_lowercase()) } else { Err("it is not an MD5 of 32 hexadecimal digits".to_owned()) }
}

impl ArchiveCommand {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::Verify(verify) => verify.run().await,
        }
    }
}

impl Verify {
    async fn run(self) -> Outcome {
        let services = Services::find(&self.data_dir)?;
        let archive = services::archive(&services.storage)
            .await?
            .ok_or_else(|| Failure::Usage("there is no archive: PYROGRAPH_ARCHIVE_URL is not set".to_owned()))?;
        let (hashes, missing, left_out) = match (self.hash, self.since) {
            (Some(hash), _) => (vec![hash], Vec::new(), 0),
            (None, since) => expected(&services, since.unwrap_or_default()).await?,
        };
        let (mut faults, checked) = (missing, hashes.len());
        for hash in hashes {
            for fault in verified(&archive, &hash).await? {
                faults.push(format!("{hash}: {fault}"));
            }
        }
        if self.json {
            print_json(&json!({ "checked": checked, "faults": faults, "left_out": left_out }))?;
        } else {
            for fault in &faults {
                say!("{fault}")?;
            }
            say!("{checked} pictures checked")?;
            if left_out > 0 {
                say!("{left_out} are not to be archived: their server had no archive, or their project wants none")?;
            }
        }
        match faults.len() {
            0 => Ok(()),
            count => Err(Failure::Failed(anyhow!("faults of the archive: {count}"))),
        }
    }
}

async fn verified(archive: &Archive, hash: &str) -> Result<Vec<String>, Failure> {
    archive.verify(hash).await.map_err(|error| match error {
        Error::Unavailable(why) => Failure::Unreachable(format!("the archive: {why}")),
        error => Failure::Failed(anyhow!("the archive: {error}")),
    })
}

/// The pictures that should be in the archive, sentences about those that are not there yet, and how many are not to be
/// there.
async fn expected(services: &Services, since: DateTime<Utc>) -> Result<(Vec<String>, Vec<String>, i64), Failure> {
    let pools = services::database(&services.database(), PoolSizes::WORKER).await?;
    services::check_schema(&pools).await?;
    let hashes = archive::delivered_since(&pools.lease, since).await;
    let missing = archive::missing_since(&pools.lease, since).await;
    let left_out = archive::left_out_since(&pools.lease, since).await;
    pools.close().await;
    let left_out = services::answered(left_out, "could not read the pictures")?;
    let missing = services::answered(missing, "could not read the deliveries")?;
    let sentence = |missing: archive::Missing| {
        let error = missing.error.unwrap_or_else(|| "it is not archived yet".to_owned());
        format!("generation {}, picture {}: {error}", missing.generation, missing.position)
    };
    let hashes = services::answered(hashes, "could not read the deliveries")?;
    Ok((hashes, missing.into_iter().map(sentence).collect(), left_out))
}
