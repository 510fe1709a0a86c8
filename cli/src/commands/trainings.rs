//! `pyrograph trainings`: trainings requested by any client.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::models::short;
use super::{Outcome, job, print_json, whole};
use crate::client::{Client, ClientOptions, Job, Training};
use crate::output::say;
use crate::table::Table;

const COLLECTION: &str = "/v1/trainings";

/// List, show, cancel and remove trainings
#[derive(Debug, Args)]
pub(crate) struct Trainings {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List trainings, newest first
    List {
        /// Maximum number of entries
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>)]
        limit: usize,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show a training: status, error, progress, and the URL of its LoRA, valid for an hour
    Show {
        /// Id
        training: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Cancel a training: at once if it is queued, otherwise within one step
    Cancel {
        /// Id
        training: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Delete an ended training; the LoRA that it made is kept
    Remove {
        /// Id
        training: String,
        #[command(flatten)]
        client: ClientOptions,
    },
}

impl Trainings {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::List { limit, client: options } => {
                let trainings = Client::new(&options)?.newest(COLLECTION, limit).await?;
                if options.json {
                    return print_json(&Value::Array(trainings));
                }
                let mut table = Table::new(["NAME", "STATUS", "STEPS", "MODEL", "CREATED", "ID"]);
                for training in trainings {
                    let name = training["name"].as_str().unwrap_or_default().to_owned();
                    let steps = format!("{}/{}", training["progress"]["step"], training["steps"]);
                    let model = job::name(&training, "model").to_owned();
                    let id = training["id"].as_str().unwrap_or_default().to_owned();
                    let job: Job = Client::understand(training)?;
                    table.row([name, job.status.to_string(), steps, model, short(&job.created_at), id]);
                }
                table.print()
            }
            Action::Show { training, client: options } => {
                let shown: Value = Client::new(&options)?.get(&job::address(COLLECTION, &training)).await?;
                if options.json {
                    return print_json(&shown);
                }
                let job: Job = Client::understand(shown.clone())?;
                let training: Training = Client::understand(shown.clone())?;
                say!("{} ({})", training.id, job.status)?;
                say!("  name          {}", shown["name"].as_str().unwrap_or_default())?;
                say!("  model         {}", job::name(&shown, "model"))?;
                say!("  dataset       {}", shown["dataset_id"].as_str().unwrap_or_default())?;
                say!("  rank          {}, learning rate {}", shown["rank"], shown["learning_rate"])?;
                say!("  seed          {}", shown["seed"])?;
                job::print(&job)?;
                job::print_results(&training.warnings, &training.artifacts)
            }
            Action::Cancel { training, client: options } => {
                job::cancel(&job::address(COLLECTION, &training), &options).await
            }
            Action::Remove { training, client: options } => job::remove(COLLECTION, &training, &options).await,
        }
    }
}
