//! `pyrograph jobs`: jobs of every kind, requested by any client. Fields that only one kind has are shown by its own
//! command.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::models::short;
use super::{Outcome, job, print_json, whole};
use crate::client::{Artifact, Client, ClientOptions, Job, path_segment};
use crate::output::say;
use crate::table::Table;

const COLLECTION: &str = "/v1/jobs";

/// List, show, cancel, retry and remove jobs of every kind
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List jobs, newest first
    List {
        /// Only jobs of this kind, such as generation
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Only jobs with this status: queued, running, succeeded, failed or canceled
        #[arg(long, value_name = "STATUS")]
        status: Option<String>,
        /// Only jobs that run with this model, by name or id
        #[arg(long, value_name = "MODEL")]
        model: Option<String>,
        /// Only jobs created at this time or later, such as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        created_after: Option<String>,
        /// Only jobs created before this time
        #[arg(long, value_name = "TIME")]
        created_before: Option<String>,
        /// Maximum number of entries
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>)]
        limit: usize,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show a job: status, progress, error, and URLs of its files, valid for an hour
    Show {
        /// Id of the generation, training, import or export
        job: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Cancel a job: at once if it is queued, otherwise within one step
    Cancel {
        /// Id
        job: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Repeat a failed job under a new id
    Retry {
        /// Id
        job: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Delete an ended job with its pictures or its file; a model that it made is kept
    Remove {
        /// Id
        job: String,
        #[command(flatten)]
        client: ClientOptions,
    },
}

impl Jobs {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::List { kind, status, model, created_after, created_before, limit, client: options } => {
                let filters = [
                    ("kind", kind),
                    ("status", status),
                    ("model", model),
                    ("created_after", created_after),
                    ("created_before", created_before),
                ];
                list(&filtered(&filters), limit, &options).await
            }
            Action::Show { job, client: options } => show(&job, &options).await,
            Action::Cancel { job, client: options } => job::cancel(&job::address(COLLECTION, &job), &options).await,
            Action::Retry { job, client: options } => {
                let address = job::address(COLLECTION, &job);
                let new = Client::new(&options)?.act(&format!("{address}/retry")).await?;
                if options.json {
                    return print_json(&new);
                }
                say!("{} ({})", text(&new, "id"), text(&new, "status"))
            }
            Action::Remove { job, client: options } => job::remove(COLLECTION, &job, &options).await,
        }
    }
}

/// The collection with the filters that are set as its query string.
fn filtered(filters: &[(&str, Option<String>)]) -> String {
    let set = filters.iter().filter_map(|(name, value)| Some(format!("{name}={}", path_segment(value.as_deref()?))));
    match set.collect::<Vec<_>>().join("&") {
        none if none.is_empty() => COLLECTION.to_owned(),
        query => format!("{COLLECTION}?{query}"),
    }
}

async fn list(path: &str, limit: usize, options: &ClientOptions) -> Outcome {
    let jobs = Client::new(options)?.newest(path, limit).await?;
    if options.json {
        return print_json(&Value::Array(jobs));
    }
    let mut table = Table::new(["STATUS", "KIND", "MODELS", "CREATED", "ID"]);
    for job in jobs {
        let (kind, id) = (text(&job, "kind").to_owned(), text(&job, "id").to_owned());
        let models = models(&job);
        let job: Job = Client::understand(job)?;
        table.row([job.status.to_string(), kind, models, short(&job.created_at), id]);
    }
    table.print()
}

async fn show(id: &str, options: &ClientOptions) -> Outcome {
    let shown: Value = Client::new(options)?.get(&job::address(COLLECTION, id)).await?;
    if options.json {
        return print_json(&shown);
    }
    let job: Job = Client::understand(shown.clone())?;
    let artifacts: Vec<Artifact> = Client::understand(shown["artifacts"].clone())?;
    say!("{} ({}, {})", text(&shown, "id"), text(&shown, "kind"), job.status)?;
    for (label, value) in [
        ("models        ", models(&shown)),
        ("makes         ", text(&shown, "output_name").to_owned()),
        ("retry of      ", text(&shown, "retry_of").to_owned()),
        ("retried as    ", text(&shown, "retried_as").to_owned()),
    ] {
        if !value.is_empty() {
            say!("  {label}{value}")?;
        }
    }
    job::print(&job)?;
    job::print_results(&[], &artifacts)
}

fn models(job: &Value) -> String {
    let names = job["models"].as_array().into_iter().flatten().map(|model| text(model, "name"));
    names.collect::<Vec<_>>().join(", ")
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_a_query_string() {
        assert_eq!(filtered(&[("kind", None), ("model", None)]), "/v1/jobs");
        let filters = [
            ("kind", Some("import".to_owned())),
            ("status", None),
            ("created_after", Some("2026-01-31T12:00:00+01:00".to_owned())),
        ];
        assert_eq!(filtered(&filters), "/v1/jobs?kind=import&created_after=2026-01-31T12%3A00%3A00%2B01%3A00");
    }
}
