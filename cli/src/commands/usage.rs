//! `pyrograph usage`: what a project has used, and what that costs.

use bytesize::ByteSize;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{Outcome, print_json};
use crate::client::{Client, ClientOptions};
use crate::table::Table;

/// Show what the project has used: jobs, device time, bytes and costs
///
/// Costs are those of the server's table of prices, if it has one.
#[derive(Debug, Args)]
pub(crate) struct Usage {
    /// First day, of UTC [default: 29 days before the last one]
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: Option<String>,
    /// Last day [default: today]
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<String>,
    /// day, model and key (or account of the Hugging Face Hub), or some of them, with commas
    #[arg(long, value_name = "GROUPS")]
    group_by: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Deserialize)]
struct Group {
    day: Option<String>,
    model: Option<String>,
    key: Option<String>,
    account: Option<String>,
    jobs: i64,
    gpu_seconds: f64,
    bytes: u64,
    cost: Option<Cost>,
}

#[derive(Deserialize)]
struct Cost {
    amount: f64,
    currency: String,
}

impl Usage {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("from", &self.from), ("to", &self.to), ("group_by", &self.group_by)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let usage: Value = Client::new(&self.client)?.get(&format!("/v1/usage?{}", query.finish())).await?;
        if self.client.json {
            return print_json(&usage);
        }
        let mut table = Table::new(["DAY", "MODEL", "KEY", "JOBS", "GPU SECONDS", "RESULTS", "COST"]);
        for group in Client::understand::<Vec<Group>>(usage["items"].clone())? {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            table.row([
                or_dash(group.day),
                or_dash(group.model),
                or_dash(group.key.or(group.account)),
                group.jobs.to_string(),
                format!("{:.1}", group.gpu_seconds),
                ByteSize(group.bytes).to_string(),
                or_dash(group.cost.map(|Cost { amount, currency }| format!("{amount:.6} {currency}"))),
            ]);
        }
        table.print()
    }
}
