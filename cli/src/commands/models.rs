//! `pyrograph models`: the checkpoints and LoRAs that the server has.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde_json::Value;

use super::{Outcome, print_json};
use crate::client::{Client, ClientOptions, Model, import_model};
use crate::output::say;
use crate::table::Table;

/// List, show, import and remove models
#[derive(Debug, Args)]
pub struct Models {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List checkpoints and LoRAs
    List {
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show one model with its files
    Show {
        /// Name or id
        model: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Import a diffusers folder (with its model_index.json) or a LoRA .safetensors file
    Import {
        /// The folder or the file
        path: PathBuf,
        /// Name under which requests will call it
        #[arg(long, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Remove a model; refused while a queued or running job needs it
    Remove {
        /// Name or id
        model: String,
        #[command(flatten)]
        client: ClientOptions,
    },
}

impl Models {
    /// Runs the command.
    pub async fn run(self) -> Outcome {
        match self.action {
            Action::List { client: options } => {
                let models = Client::new(&options.server)?.list("/v1/models").await?;
                if options.json {
                    print_json(&Value::Array(models));
                    return Ok(());
                }
                let mut table = Table::new(["NAME", "KIND", "FAMILY", "SIZE", "CREATED", "ID"]);
                for model in models {
                    let model: Model = Client::understand(model)?;
                    let kind = if model.built_in { format!("{} (built in)", model.kind) } else { model.kind };
                    table.row([
                        model.name,
                        kind,
                        model.family.unwrap_or_default(),
                        HumanBytes(model.bytes).to_string(),
                        short(&model.created_at),
                        model.id,
                    ]);
                }
                table.print();
            }
            Action::Show { model, client: options } => {
                let model: Value = Client::new(&options.server)?.get(&address(&model)).await?;
                if options.json {
                    print_json(&model);
                    return Ok(());
                }
                let shown: Model = Client::understand(model)?;
                say!("{} ({})", shown.name, shown.kind);
                say!("  id            {}", shown.id);
                say!("  family        {}", shown.family.as_deref().unwrap_or("unknown"));
                if let Some(word) = &shown.trigger_word {
                    say!("  trigger word  {word}");
                }
                say!("  size          {}", HumanBytes(shown.bytes));
                say!("  sha256        {}", shown.sha256);
                say!("  created       {}", shown.created_at);
                for file in &shown.files {
                    say!("  {:>12}  {}", HumanBytes(file.bytes).to_string(), file.path);
                }
            }
            Action::Import { path, name, client: options } => {
                let model = import_model(&Client::new(&options.server)?, &path, &name).await?;
                if options.json {
                    print_json(&model);
                    return Ok(());
                }
                let model: Model = Client::understand(model)?;
                say!(
                    "{} ({}, {}, {})",
                    model.name,
                    model.kind,
                    model.family.as_deref().unwrap_or("unknown family"),
                    HumanBytes(model.bytes)
                );
            }
            Action::Remove { model, client: options } => {
                Client::new(&options.server)?.delete(&address(&model)).await?;
                if options.json {
                    print_json(&serde_json::json!({ "removed": model }));
                } else {
                    say!("removed {model}");
                }
            }
        }
        Ok(())
    }
}

/// The path of one model. What is no name is escaped, so that the server refuses it rather than another route.
fn address(model: &str) -> String {
    format!("/v1/models/{}", crate::client::path_segment(model))
}

/// A time without fractions of a second.
pub fn short(time: &str) -> String {
    time.split('.').next().unwrap_or(time).trim_end_matches('Z').replace('T', " ")
}
