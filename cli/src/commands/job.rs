//! Shared by `generations`, `trainings` and `jobs`: all are jobs, which can be listed, shown, canceled and removed.

use serde_json::{Value, json};

use super::models::short;
use super::{Outcome, print_json};
use crate::client::{Artifact, Client, ClientOptions, Job, Status, path_segment};
use crate::output::say;

/// The path of one job of `collection`, as `/v1/generations`.
pub(super) fn address(collection: &str, id: &str) -> String {
    format!("{collection}/{}", path_segment(id))
}

/// Cancels a job and prints its status.
pub(super) async fn cancel(address: &str, options: &ClientOptions) -> Outcome {
    let answer = Client::new(options)?.act(&format!("{address}/cancel")).await?;
    if options.json {
        return print_json(&answer);
    }
    let job: Job = Client::understand(answer)?;
    let note = match job.status {
        Status::Queued | Status::Running => "; it stops at its next step",
        Status::Succeeded | Status::Failed => "; it had ended already",
        Status::Canceled => "",
    };
    say!("{}{note}", job.status)
}

/// Deletes a job that has ended.
pub(super) async fn remove(collection: &str, id: &str, options: &ClientOptions) -> Outcome {
    Client::new(options)?.delete(&address(collection, id)).await?;
    if options.json {
        return print_json(&json!({ "removed": id }));
    }
    say!("removed {id}")
}

/// Prints the fields that every job has.
pub(super) fn print(job: &Job) -> Outcome {
    if let Some(line) = job.progress.stage_line() {
        say!("  progress      {line}")?;
    } else if let (Some(step), Some(total @ 1..)) = (job.progress.step, job.progress.total_steps) {
        say!("  progress      {step} of {total} steps")?;
    }
    if let Some(error) = &job.error {
        say!("  error         {}: {}", error.class, error.message)?;
    }
    say!("  created       {}", short(&job.created_at))?;
    job.finished_at.as_ref().map_or(Ok(()), |time| say!("  finished      {}", short(time)))
}

/// Prints warnings and the URLs of files.
pub(super) fn print_results(warnings: &[String], artifacts: &[Artifact]) -> Outcome {
    warnings.iter().try_for_each(|warning| say!("  warning       {warning}"))?;
    artifacts.iter().try_for_each(|artifact| {
        match artifact.seed {
            Some(seed) => say!("  picture {}     seed {seed}", artifact.position)?,
            None => say!("  file {}", artifact.position)?,
        }
        say!("    {}", artifact.url)
    })
}

/// The name that `field` of `job` refers to.
pub(super) fn name<'a>(job: &'a Value, field: &str) -> &'a str {
    job[field]["name"].as_str().unwrap_or_default()
}
