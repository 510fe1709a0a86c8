//! `pyrograph models load` and `unload`: sends the request to the workers and waits until each has carried it out.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{Outcome, print_json};
use crate::client::{Client, ClientOptions, Swap, Worker, path_segment};
use crate::failure::Failure;
use crate::output::say;

/// Time between two polls of the workers.
const LOOK: Duration = Duration::from_millis(500);

/// Which model, and where.
#[derive(Debug, Args)]
pub(super) struct SwapOptions {
    /// Name or id of a checkpoint
    model: String,
    /// Name or id of the worker [default: all workers that generate]
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl SwapOptions {
    /// `action` is `load` or `unload`.
    pub(super) async fn run(self, action: &str) -> Outcome {
        let client = Client::new(&self.client)?;
        let address = format!("/v1/models/{}/{action}", path_segment(&self.model));
        let request = self.worker.map_or(json!({}), |worker| json!({ "worker": worker }));
        let answer: Value = client.post(&address, &request).await?;
        let mut swaps: Vec<Value> = Client::understand(answer["swaps"].clone())?;
        if !self.no_wait {
            for swap in &mut swaps {
                *swap = ended(&client, swap.clone()).await?;
            }
        }
        let ended: Vec<Swap> = swaps.iter().cloned().map(Client::understand).collect::<Result<_, _>>()?;
        if self.client.json {
            print_json(&json!({ "swaps": swaps }))?;
        } else {
            for swap in &ended {
                let error = swap.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                say!("{} {} on {} ({}): {}{error}", action, swap.model.name, swap.name, swap.device, swap.status)?;
            }
        }
        match ended.iter().filter(|swap| swap.status == "failed").count() {
            0 => Ok(()),
            failed => {
                Err(Failure::Failed(anyhow::anyhow!("{failed} of {} workers could not {action} it", ended.len())))
            }
        }
    }
}

/// Waits for the swap to end. It fails if another request replaces it or its worker stops.
async fn ended(client: &Client, asked: Value) -> Result<Value, Failure> {
    let swap: Swap = Client::understand(asked.clone())?;
    loop {
        let workers: Vec<Worker> =
            client.list("/v1/workers").await?.into_iter().map(Client::understand).collect::<Result<_, _>>()?;
        let now = workers.into_iter().find(|worker| worker.id == swap.worker).and_then(|worker| {
            worker
                .swaps
                .into_iter()
                .find(|one| one["model"] == asked["model"] && one["created_at"] == asked["created_at"])
        });
        let Some(now) = now else {
            let mut gone = asked;
            gone["status"] = "failed".into();
            gone["error"] = "the worker stopped, or another request replaced this one".into();
            return Ok(gone);
        };
        if now["status"] == "succeeded" || now["status"] == "failed" {
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
    }
}
