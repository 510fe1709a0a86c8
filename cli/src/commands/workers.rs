//! `pyrograph workers`: live workers and their loaded models.

use clap::Args;
use serde_json::Value;

use super::models::short;
use super::{Outcome, print_json};
use crate::client::{Client, ClientOptions, Worker};
use crate::table::Table;

/// List the live workers with their devices, loaded models and current jobs
#[derive(Debug, Args)]
pub(crate) struct Workers {
    #[command(flatten)]
    client: ClientOptions,
}

impl Workers {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let workers = Client::new(&self.client)?.list("/v1/workers").await?;
        if self.client.json {
            return print_json(&Value::Array(workers));
        }
        let mut table = Table::new(["NAME", "DEVICE", "QUEUES", "LOADED", "JOB", "VERSION", "SEEN", "ID"]);
        for worker in workers {
            let worker: Worker = Client::understand(worker)?;
            let loaded = worker.resident.into_iter().map(|resident| match (resident.model, resident.sha256) {
                (Some(model), _) => model.name,
                (None, Some(sha256)) => sha256.chars().take(12).collect(),
                (None, None) => "(other project)".to_owned(),
            });
            let paused = worker.paused.into_iter().map(|reason| format!("paused: {reason}"));
            let others = (worker.other_jobs > 0).then(|| format!("{} of other projects", worker.other_jobs));
            let jobs = worker.jobs.into_iter().map(|job| job.url.trim_start_matches("/v1/").to_owned());
            let jobs = jobs.chain(others).chain(paused);
            table.row([
                worker.name,
                worker.device,
                worker.queues.join(","),
                listed(loaded),
                listed(jobs),
                worker.version,
                short(&worker.last_seen_at),
                worker.id,
            ]);
        }
        table.print()?;
        Ok(())
    }
}

/// Joins words for a table cell; a dash if there are none.
fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}
