//! `pyrograph models`: the checkpoints and LoRAs that the server has.

use std::path::Path;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::swap::SwapOptions;
use super::{Outcome, print_json};
use crate::client::{Client, ClientOptions, Model, follow_import, import_model};
use crate::failure::Failure;
use crate::output::say;
use crate::table::Table;

/// List, show, import, load, unload and remove models
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
    /// Import a model from this machine, from a URL or from the Hugging Face Hub
    Import(Import),
    /// Load a checkpoint on the workers before anybody needs it
    Load(SwapOptions),
    /// Unload a checkpoint from the workers' memory; a later generation loads it again
    Unload(SwapOptions),
    /// Remove a model; refused while a queued or running job needs it
    Remove {
        /// Name or id
        model: String,
        #[command(flatten)]
        client: ClientOptions,
    },
}

/// Import a model from this machine, from a URL or from the Hugging Face Hub
///
/// A file or folder of this machine is uploaded. What lies elsewhere is brought by a worker: a job with progress, which goes on
/// after a cut and which Ctrl-C cancels. Only safetensors are taken.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pyrograph models import flux-dev/ --name flux-dev
  pyrograph models import https://example.com/clay.safetensors --name clay --kind lora
  pyrograph models import hf:black-forest-labs/FLUX.1-schnell --name schnell
  pyrograph models import hf:owner/name@v1.0 --name style --file style.safetensors")]
struct Import {
    /// A diffusers folder or a .safetensors file, an https URL of one, or hf:OWNER/NAME[@REVISION]
    source: String,
    /// Name under which requests will call it
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What it must turn out to be: checkpoint or lora
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Checkpoint that a LoRA was made for, by name or id
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// Of a Hub's repository, the weights of this variant, such as fp16
    #[arg(long, value_name = "V")]
    variant: Option<String>,
    /// Of a Hub's repository, this file only; may be given several times
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<String>,
    /// What the file behind a URL must hash to
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

impl Import {
    /// The `source` of the request; `None` for a path of this machine.
    fn remote(&self) -> Result<Option<Value>, Failure> {
        let (mut source, fits) = if let Some(repo) = self.source.strip_prefix("hf:") {
            let (repo, revision) = repo.split_once('@').map_or((repo, None), |(repo, at)| (repo, Some(at)));
            let mut source = json!({ "kind": "hugging_face", "repo": repo });
            if let Some(revision) = revision {
                source["revision"] = revision.into();
            }
            if !self.files.is_empty() {
                source["files"] = self.files.clone().into();
            }
            if let Some(variant) = &self.variant {
                source["variant"] = variant.clone().into();
            }
            (Some(source), self.sha256.is_none())
        } else if self.source.starts_with("https://") || self.source.starts_with("http://") {
            (Some(json!({ "kind": "url", "url": self.source })), self.variant.is_none() && self.files.is_empty())
        } else {
            (None, self.variant.is_none() && self.files.is_empty() && self.sha256.is_none())
        };
        if !fits {
            return Err(Failure::Usage("--variant and --file are for hf:…, --sha256 is for a URL".to_owned()));
        }
        if let (Some(source), Some(sha256)) = (&mut source, &self.sha256) {
            source["sha256"] = sha256.to_ascii_lowercase().into();
        }
        Ok(source)
    }

    /// Runs the command.
    async fn run(self) -> Outcome {
        let remote = self.remote()?;
        let client = Client::new(&self.client.server)?;
        let (kind, base) = (self.kind.as_deref(), self.base.as_deref());
        let model = match remote {
            None => import_model(&client, Path::new(&self.source), &self.name, kind, base).await?,
            Some(source) => {
                let mut request = json!({ "name": self.name, "source": source });
                for (field, value) in [("kind", kind), ("base", base)] {
                    if let Some(value) = value {
                        request[field] = value.into();
                    }
                }
                let created: Value = client.post("/v1/models", &request).await?;
                let last = follow_import(&client, created, &format!("importing {}", self.name)).await?;
                let import: crate::client::Import = Client::understand(last)?;
                let model = import.output_model.map_or(self.name, |model| model.name);
                client.get(&address(&model)).await?
            }
        };
        if self.client.json {
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
        Ok(())
    }
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
                for place in &shown.resident_on {
                    say!("  loaded on     {} ({}, {})", place.name, place.device, HumanBytes(place.bytes));
                }
                for file in &shown.files {
                    say!("  {:>12}  {}", HumanBytes(file.bytes).to_string(), file.path);
                }
            }
            Action::Import(import) => import.run().await?,
            Action::Load(swap) => swap.run("load").await?,
            Action::Unload(swap) => swap.run("unload").await?,
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        import: Import,
    }

    fn remote(arguments: &[&str]) -> Result<Option<Value>, Failure> {
        Line::try_parse_from([&["import", "--name", "x"], arguments].concat()).unwrap().import.remote()
    }

    #[test]
    fn a_source_is_told_by_its_beginning() {
        assert_eq!(remote(&["models/clay.safetensors"]).unwrap(), None);
        let url = "https://a.b/c?d=e";
        assert_eq!(remote(&[url, "--sha256", "AB"]).unwrap(), Some(json!({"kind": "url", "url": url, "sha256": "ab"})));
        assert_eq!(remote(&["hf:o/n"]).unwrap(), Some(json!({"kind": "hugging_face", "repo": "o/n"})));
        assert_eq!(
            remote(&["hf:o/n@v1", "--file", "a", "--file", "b", "--variant", "fp16"]).unwrap(),
            Some(
                json!({"kind": "hugging_face", "repo": "o/n", "revision": "v1", "files": ["a", "b"], "variant": "fp16"})
            )
        );
        assert!(remote(&["hf:o/n", "--sha256", "ab"]).is_err());
        assert!(remote(&["folder", "--variant", "fp16"]).is_err());
    }
}
