//! `pyrograph generations`: generations requested by any client.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::generate::{check_output, download};
use super::models::short;
use super::{Outcome, job, print_json};
use crate::client::{Client, ClientOptions, Generation, Job, Status};
use crate::failure::Failure;
use crate::output::say;
use crate::table::Table;

const COLLECTION: &str = "/v1/generations";
/// Characters of a prompt in a list.
const PROMPT_WIDTH: usize = 40;

/// List, show, cancel and remove generations
#[derive(Debug, Args)]
pub(crate) struct Generations {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List generations, newest first
    List {
        /// Maximum number of entries
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show a generation: status, error, seeds, and URLs of its pictures, valid for an hour
    Show {
        /// Id
        generation: String,
        /// Download its pictures to a folder, or to a file ending in their format: .png, .jpg or .webp
        #[arg(long, value_name = "FILE_OR_DIR")]
        output: Option<PathBuf>,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Cancel a generation: at once if it is queued, otherwise within one step
    Cancel {
        /// Id
        generation: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Delete a finished generation with its pictures
    Remove {
        /// Id
        generation: String,
        #[command(flatten)]
        client: ClientOptions,
    },
}

impl Generations {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::List { limit, client: options } => {
                let generations = Client::new(&options.server)?.newest(COLLECTION, limit).await?;
                if options.json {
                    return print_json(&Value::Array(generations));
                }
                let mut table = Table::new(["STATUS", "MODEL", "PROMPT", "CREATED", "ID"]);
                for generation in generations {
                    let model = job::name(&generation, "model").to_owned();
                    let prompt = one_line(generation["prompt"].as_str().unwrap_or_default());
                    let id = generation["id"].as_str().unwrap_or_default().to_owned();
                    let job: Job = Client::understand(generation)?;
                    table.row([job.status.to_string(), model, prompt, short(&job.created_at), id]);
                }
                table.print()
            }
            Action::Show { generation, output, client: options } => show(&generation, output, &options).await,
            Action::Cancel { generation, client: options } => {
                job::cancel(&job::address(COLLECTION, &generation), &options).await
            }
            Action::Remove { generation, client: options } => job::remove(COLLECTION, &generation, &options).await,
        }
    }
}

async fn show(id: &str, output: Option<PathBuf>, options: &ClientOptions) -> Outcome {
    output.as_deref().map_or(Ok(()), check_output)?;
    let client = Client::new(&options.server)?;
    let mut shown: Value = client.get(&job::address(COLLECTION, id)).await?;
    let job: Job = Client::understand(shown.clone())?;
    let generation: Generation = Client::understand(shown.clone())?;
    let mut files = Vec::new();
    if let Some(output) = &output {
        if job.status != Status::Succeeded {
            return Err(Failure::Failed(anyhow::anyhow!("generation {id} is {} and has no pictures", job.status)));
        }
        files = download(&client, &generation, output).await?;
        shown["files"] = files.iter().map(|file| file.display().to_string()).collect();
    }
    if options.json {
        return print_json(&shown);
    }
    say!("{} ({})", generation.id, job.status)?;
    say!("  model         {}", job::name(&shown, "model"))?;
    say!("  prompt        {}", shown["prompt"].as_str().unwrap_or_default())?;
    say!("  size          {}×{}, {} steps", shown["width"], shown["height"], shown["num_inference_steps"])?;
    say!("  seed          {}", shown["seed"])?;
    job::print(&job)?;
    job::print_results(&generation.warnings, &generation.artifacts)?;
    files.iter().try_for_each(|file| say!("  written to    {}", file.display()))
}

/// The beginning of a prompt, to fit into a table cell.
fn one_line(prompt: &str) -> String {
    let prompt = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    if prompt.chars().count() <= PROMPT_WIDTH {
        return prompt;
    }
    prompt.chars().take(PROMPT_WIDTH - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_fits_into_a_cell() {
        assert_eq!(one_line("two\n owls"), "two owls");
        let long = one_line(&"ü".repeat(100));
        assert_eq!(long.chars().count(), PROMPT_WIDTH);
        assert!(long.ends_with('…'));
    }
}
