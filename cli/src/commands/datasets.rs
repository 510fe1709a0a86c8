//! `pyrograph datasets`: pictures with captions on the server, for trainings.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::models::short;
use super::{Outcome, print_json};
use crate::client::{Client, ClientOptions, Dataset, Pictures, dataset_names, find_dataset, path_segment};
use crate::output::{say, tell};
use crate::table::Table;

/// Create, fill, list, show and remove datasets
#[derive(Debug, Args)]
pub(crate) struct Datasets {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List datasets
    List {
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Create an empty dataset
    Create {
        /// Any name
        name: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show a dataset with its examples
    Show {
        /// Id or name
        dataset: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Add the pictures of a folder and those below it, with their captions
    ///
    /// Pictures are PNG, JPEG, WebP, GIF, BMP and TIFF files. The caption of photo.png is in photo.txt, photo.caption
    /// or photo.png.txt, or in a metadata.jsonl or metadata.csv. What cannot be used is left out and listed.
    Add {
        /// Id or name of the dataset
        dataset: String,
        /// Folder with pictures and captions
        dir: PathBuf,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Delete a dataset; refused while a queued or running training uses it
    Remove {
        /// Id or name
        dataset: String,
        #[command(flatten)]
        client: ClientOptions,
    },
}

impl Datasets {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::List { client: options } => {
                let datasets = Client::new(&options)?.list("/v1/datasets").await?;
                if options.json {
                    return print_json(&Value::Array(datasets));
                }
                let mut table = Table::new(["NAME", "CREATED", "ID"]);
                for dataset in datasets {
                    let dataset: Dataset = Client::understand(dataset)?;
                    table.row([dataset.name, short(&dataset.created_at), dataset.id]);
                }
                table.print()?;
            }
            Action::Create { name, client: options } => {
                let client = Client::new(&options)?;
                if dataset_names(&client).await?.contains(&name) {
                    tell!("There is a dataset {name} already; name the two by their ids from now on.");
                }
                let dataset: Value = client.post("/v1/datasets", &json!({ "name": name })).await?;
                answer(dataset, options.json)?;
            }
            Action::Show { dataset, client: options } => {
                let client = Client::new(&options)?;
                let id = find_dataset(&client, &dataset).await?;
                answer(client.get(&address(&id)).await?, options.json)?;
            }
            Action::Add { dataset, dir, client: options } => {
                let client = Client::new(&options)?;
                let pictures = Pictures::of(&dir)?;
                let id = find_dataset(&client, &dataset).await?;
                let added = pictures.add_to(&client, &id).await?;
                added.report();
                let mut dataset: Value = client.get(&address(&id)).await?;
                added.add_to(&mut dataset);
                answer(dataset, options.json)?;
            }
            Action::Remove { dataset, client: options } => {
                let client = Client::new(&options)?;
                let id = find_dataset(&client, &dataset).await?;
                client.delete(&address(&id)).await?;
                if options.json {
                    print_json(&json!({ "removed": dataset }))?;
                } else {
                    say!("removed {dataset}")?;
                }
            }
        }
        Ok(())
    }
}

fn answer(dataset: Value, as_json: bool) -> Outcome {
    if as_json {
        return print_json(&dataset);
    }
    let dataset: Dataset = Client::understand(dataset)?;
    say!("{}  {}  ({} examples)", dataset.name, dataset.id, dataset.examples.len())?;
    for example in &dataset.examples {
        say!(
            "  {}  {}×{}  {:>10}  {}",
            example.id,
            example.width,
            example.height,
            ByteSize(example.bytes).to_string(),
            example.caption.as_deref().unwrap_or_default()
        )?;
    }
    Ok(())
}

fn address(dataset: &str) -> String {
    format!("/v1/datasets/{}", path_segment(dataset))
}
