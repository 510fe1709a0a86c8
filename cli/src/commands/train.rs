//! `pyrograph train DIR`: uploads a folder of pictures as a dataset, or takes one that is on the server, trains a LoRA
//! on it and downloads the LoRA.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use serde_json::{Map, Value};

use super::models::{check_checkpoint, check_name_is_free};
use super::{Outcome, finite, print_json, whole};
use crate::client::{Client, ClientOptions, Pictures, Training, find_dataset, follow, unless_interrupted};
use crate::failure::Failure;
use crate::output::{say, tell};
use crate::whole_file;

/// Train a LoRA on a folder of pictures
///
/// Uploads the pictures of a folder with their captions as a dataset, or takes one that is on the server, trains, and
/// downloads the LoRA as one .safetensors file, which diffusers and ComfyUI load too. The server can use it at once:
/// `pyrograph generate "…" --lora NAME`. Ctrl-C cancels the training; the uploaded pictures stay on the server.
///
/// Pictures are PNG, JPEG, WebP, GIF, BMP and TIFF files, also in folders below. The caption of photo.png is in
/// photo.txt, photo.caption or photo.png.txt, or in a metadata.jsonl or metadata.csv. What cannot be used is left out
/// and listed.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("pictures").args(["dir", "dataset"]).required(true)))]
#[command(after_help = "\
Examples:
  pyrograph train photos/ --name pencil --trigger-word pencilstyle
  pyrograph train --dataset pencil --name pencil2 --rank 32
  pyrograph train photos/ --name pencil --steps 400 --rank 8 --learning-rate 5e-4 --output pencil.safetensors")]
pub(crate) struct Train {
    /// Folder with pictures and captions
    pub dir: Option<PathBuf>,
    /// Train on this dataset of the server, by id or name, instead of uploading a folder
    #[arg(long, value_name = "ID|NAME")]
    pub dataset: Option<String>,
    /// Name of the new LoRA: lower-case letters, digits, '.', '_', '-'
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Checkpoint to train on, by name or id [default: ember]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Word put in front of each caption; use it in prompts to activate the LoRA
    #[arg(long, value_name = "T")]
    pub trigger_word: Option<String>,
    /// Training steps [default: 1000]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub steps: Option<i64>,
    /// Rank of the LoRA: a higher rank can learn more and makes a larger file [default: 16]
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub rank: Option<i64>,
    /// Alpha: the LoRA is scaled by alpha / rank [default: the rank]
    #[arg(long, value_name = "A", value_parser = finite, allow_negative_numbers = true)]
    pub alpha: Option<f64>,
    /// Learning rate [default: 1e-4]
    #[arg(long, value_name = "LR", value_parser = finite, allow_negative_numbers = true)]
    pub learning_rate: Option<f64>,
    /// Pictures per step [default: 1]
    #[arg(long, value_name = "B", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub batch_size: Option<i64>,
    /// Pictures are scaled to about this many pixels squared [default: the checkpoint's]
    #[arg(long, value_name = "PX", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub resolution: Option<i64>,
    /// Seed of the training; the same seed gives the same LoRA [default: random]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole::<i64>)]
    pub seed: Option<i64>,
    /// File to write the LoRA to [default: NAME.safetensors]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub client: ClientOptions,
}

impl Train {
    /// The body of `POST /v1/trainings`, with only the fields given on the command line.
    fn request(&self, dataset: &str) -> Value {
        let mut request = Map::new();
        request.insert("name".into(), self.name.clone().into());
        request.insert("dataset".into(), dataset.into());
        let mut optional = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                request.insert(field.to_owned(), value);
            }
        };
        optional("model", self.model.clone().map(Value::from));
        optional("trigger_word", self.trigger_word.clone().map(Value::from));
        optional("steps", self.steps.map(Value::from));
        optional("rank", self.rank.map(Value::from));
        optional("alpha", self.alpha.map(Value::from));
        optional("learning_rate", self.learning_rate.map(Value::from));
        optional("batch_size", self.batch_size.map(Value::from));
        optional("resolution", self.resolution.map(Value::from));
        optional("seed", self.seed.map(Value::from));
        Value::Object(request)
    }

    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let output = self.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.safetensors", self.name)));
        whole_file::check_free(&output, self.overwrite)?;
        let client = Client::new(&self.client)?;
        check_name_is_free(&client, &self.name).await?;
        if let Some(model) = &self.model {
            check_checkpoint(&client, "--model", model).await?;
        }
        Client::check_writable(&output)?;
        let (dataset, uploaded) = match (&self.dir, &self.dataset) {
            (_, Some(dataset)) => (find_dataset(&client, dataset).await?, None),
            (Some(dir), None) => {
                let (dataset, added) = Pictures::of(dir)?.create_dataset(&client, &self.name).await?;
                added.report();
                (dataset.id, Some(added))
            }
            (None, None) => return Err(Failure::Usage("name a folder, or a dataset with --dataset".to_owned())),
        };
        let created: Value = match unless_interrupted(client.post("/v1/trainings", &self.request(&dataset))).await {
            Ok(created) => created,
            Err(failure) => {
                if uploaded.is_some() {
                    let _ = client.delete(&format!("/v1/datasets/{dataset}")).await;
                }
                return Err(failure);
            }
        };
        tell!("training {}", created["id"].as_str().unwrap_or_default());
        let followed = follow(&client, created, &format!("training {}", self.name)).await;
        if followed.is_err() && uploaded.is_some() {
            // `jobs retry` repeats a failed training with them, and an upload may have taken long.
            tell!(
                "The pictures stay on the server. Train on them with --dataset {dataset}, or delete them with \
                 `pyrograph datasets remove {dataset}`."
            );
        }
        let mut last = followed?;
        let training: Training = Client::understand(last.clone())?;
        for warning in &training.warnings {
            tell!("warning: {warning}");
        }
        let adapter = training
            .artifacts
            .first()
            .ok_or_else(|| Failure::Failed(anyhow::anyhow!("training {} has no adapter", training.id)))?;
        client.download(&adapter.url, &output, self.overwrite).await?;
        if self.client.json {
            if let Some(added) = &uploaded {
                added.add_to(&mut last);
            }
            last["files"] = Value::from(vec![output.display().to_string()]);
            print_json(&last)?;
        } else {
            say!("{}", output.display())?;
            let name = training.output_model.map_or(self.name, |model| model.name);
            tell!("Use it: pyrograph generate \"…\" --lora {name}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        train: Train,
    }

    #[test]
    fn every_flag_reaches_the_request() {
        let line = Line::try_parse_from([
            "train",
            "photos",
            "--name",
            "pencil",
            "--model",
            "ember",
            "--trigger-word",
            "tok",
            "--steps",
            "20",
            "--rank",
            "4",
            "--alpha",
            "8",
            "--learning-rate",
            "5e-4",
            "--batch-size",
            "2",
            "--resolution",
            "64",
            "--seed",
            "3",
            "--output",
            "x.safetensors",
        ])
        .unwrap();
        assert_eq!(
            line.train.request("d1"),
            json!({
                "name": "pencil", "dataset": "d1", "model": "ember", "trigger_word": "tok",
                "steps": 20, "rank": 4, "alpha": 8.0, "learning_rate": 5e-4, "batch_size": 2,
                "resolution": 64, "seed": 3,
            })
        );
    }

    #[test]
    fn numbers_are_finite_and_their_range_is_the_servers() {
        let parse = |flag, value| Line::try_parse_from(["train", "photos", "--name", "x", flag, value]);
        for flag in ["--learning-rate", "--alpha"] {
            assert!(["nan", "inf"].into_iter().all(|wrong| parse(flag, wrong).is_err()), "{flag}");
        }
        for (flag, field) in
            [("--learning-rate", "learning_rate"), ("--steps", "steps"), ("--resolution", "resolution")]
        {
            let request = parse(flag, "-5").unwrap().train.request("d1");
            assert_eq!(request[field].as_f64(), Some(-5.0), "{flag}");
        }
    }

    #[test]
    fn a_training_needs_a_name() {
        assert!(Line::try_parse_from(["train", "photos"]).is_err());
    }

    #[test]
    fn a_training_needs_a_folder_or_a_dataset_and_not_both() {
        let parse = |words: &[&str]| Line::try_parse_from([&["train", "--name", "x"], words].concat());
        assert_eq!(parse(&["--dataset", "pencil"]).unwrap().train.dataset.as_deref(), Some("pencil"));
        assert!(parse(&["photos"]).is_ok());
        assert!(parse(&[]).unwrap_err().to_string().contains("--dataset"));
        assert!(parse(&["photos", "--dataset", "pencil"]).is_err());
    }
}
