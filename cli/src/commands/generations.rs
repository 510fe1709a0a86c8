//! `pyrograph generations`: generations requested by any client.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::models::short;
use super::{Outcome, job, print_json, whole};
use crate::client::{Client, ClientOptions, Generation, Job, Status};
use crate::failure::Failure;
use crate::output::say;
use crate::picture_files::{check_output, check_writable, download};
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
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = whole::<usize>)]
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
        /// Replace files that exist
        #[arg(long, requires = "output")]
        overwrite: bool,
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
                let generations = Client::new(&options)?.newest(COLLECTION, limit).await?;
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
            Action::Show { generation, output, overwrite, client: options } => {
                show(&generation, output, overwrite, &options).await
            }
            Action::Cancel { generation, client: options } => {
                job::cancel(&job::address(COLLECTION, &generation), &options).await
            }
            Action::Remove { generation, client: options } => job::remove(COLLECTION, &generation, &options).await,
        }
    }
}

async fn show(id: &str, output: Option<PathBuf>, overwrite: bool, options: &ClientOptions) -> Outcome {
    if let Some(output) = &output {
        check_output(output)?;
        check_writable(output)?;
    }
    let client = Client::new(options)?;
    let mut shown: Value = client.get(&job::address(COLLECTION, id)).await?;
    let job: Job = Client::understand(shown.clone())?;
    let generation: Generation = Client::understand(shown.clone())?;
    let mut files = Vec::new();
    if let Some(output) = &output {
        if job.status != Status::Succeeded {
            return Err(Failure::Failed(anyhow::anyhow!("generation {id} is {} and has no pictures", job.status)));
        }
        files = download(&client, &generation, output, overwrite).await?;
        shown["files"] = files.iter().map(|file| file.display().to_string()).collect();
    }
    if options.json {
        return print_json(&shown);
    }
    say!("{} ({})", generation.id, job.status)?;
    for (name, value) in settings(&shown) {
        say!("  {name:<13} {value}")?;
    }
    job::print(&job)?;
    job::print_results(&generation.warnings, &generation.artifacts)?;
    files.iter().try_for_each(|file| say!("  written to    {}", file.display()))
}

/// The fields of a request that `show` prints by their own names, after those with a line of their form.
const FIELDS: [(&str, &str); 9] = [
    ("prompt_syntax", "syntax"),
    ("scheduler", "scheduler"),
    ("guidance_scale", "guidance"),
    ("true_cfg_scale", "true CFG"),
    ("clip_skip", "clip skip"),
    ("strength", "strength"),
    ("num_images", "pictures"),
    ("output_format", "format"),
    ("output_quality", "quality"),
];

/// The request of a generation: the name and value of every line. Values that are null are left out.
fn settings(generation: &Value) -> Vec<(&'static str, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines = vec![("model", job::name(generation, "model").to_owned()), ("prompt", text(&generation["prompt"]))];
    if let Some(negative) = generation["negative_prompt"].as_str() {
        lines.push(("negative", negative.to_owned()));
    }
    for lora in generation["loras"].as_array().into_iter().flatten() {
        let of_text = &lora["text_encoder_scale"];
        let text_encoders = if of_text.is_null() { String::new() } else { format!(", text encoders {of_text}") };
        lines.push(("LoRA", format!("{}, scale {}{text_encoders}", job::name(lora, "model"), lora["scale"])));
    }
    let [width, height, steps] = ["width", "height", "num_inference_steps"].map(|field| &generation[field]);
    lines.push(("size", format!("{width}×{height}, {steps} steps")));
    lines.push(("seed", generation["seed"].to_string()));
    for field in ["image", "mask"] {
        let picture = &generation[field];
        if let Some(sha256) = picture["sha256"].as_str() {
            let id = picture["input"].as_str().map_or_else(String::new, |id| format!(", input {id}"));
            lines.push((field, format!("{}×{}, SHA-256 {sha256}{id}", picture["width"], picture["height"])));
        }
    }
    let stated = FIELDS.iter().filter(|(field, _)| !generation[field].is_null());
    lines.extend(stated.map(|(field, name)| (*name, text(&generation[field]))));
    if generation["scheduler"].is_null() {
        lines.push(("scheduler", "the model's".to_owned()));
    }
    lines
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
    use serde_json::json;

    use super::*;

    #[test]
    fn every_setting_is_shown() {
        let generation = json!({
            "model": {"name": "sd"}, "prompt": "a fox", "negative_prompt": "blurry", "prompt_syntax": "a1111",
            "loras": [{"model": {"name": "ink"}, "scale": 0.5, "text_encoder_scale": 0.0},
                      {"model": {"name": "b"}, "scale": 1.0}],
            "width": 64, "height": 32, "num_inference_steps": 4, "seed": 7, "scheduler": null, "guidance_scale": 3.5,
            "true_cfg_scale": 1.0, "clip_skip": 1, "strength": 0.6, "num_images": 2, "output_format": "jpeg",
            "output_quality": 80, "mask": null, "preview_every": null,
            "image": {"sha256": "ab", "width": 9, "height": 8, "input": "an id"},
        });
        let lines: Vec<String> = settings(&generation).iter().map(|(name, value)| format!("{name}: {value}")).collect();
        for line in [
            "model: sd",
            "prompt: a fox",
            "negative: blurry",
            "LoRA: ink, scale 0.5, text encoders 0.0",
            "LoRA: b, scale 1.0",
            "size: 64×32, 4 steps",
            "seed: 7",
            "image: 9×8, SHA-256 ab, input an id",
            "scheduler: the model's",
            "guidance: 3.5",
            "true CFG: 1.0",
            "clip skip: 1",
            "strength: 0.6",
            "pictures: 2",
            "format: jpeg",
            "quality: 80",
            "syntax: a1111",
        ] {
            assert!(lines.contains(&line.to_owned()), "{line}: {lines:#?}");
        }
    }

    #[test]
    fn a_prompt_fits_into_a_cell() {
        assert_eq!(one_line("two\n owls"), "two owls");
        let long = one_line(&"ü".repeat(100));
        assert_eq!(long.chars().count(), PROMPT_WIDTH);
        assert!(long.ends_with('…'));
    }
}
