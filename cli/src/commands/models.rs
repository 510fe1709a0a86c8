//! `pyrograph models`: the checkpoints and LoRAs on the server.

use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::swap::SwapOptions;
use super::{Outcome, print_json};
use crate::client::{Client, ClientOptions, Model, follow, follow_import, import_model, unless_interrupted};
use crate::failure::Failure;
use crate::output::{say, shown};
use crate::table::Table;
use crate::whole_file;

/// List, show, inspect, import, export, load, unload and remove models
#[derive(Debug, Args)]
pub(crate) struct Models {
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
    /// Inspect a model: networks and data types of a checkpoint; dialect, ranks and layers of a LoRA
    Inspect {
        /// Name or id
        model: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Write a LoRA in another program's dialect
    Export(Export),
    /// Import a model from this machine, from a URL or from the Hugging Face Hub
    Import(Import),
    /// Load a checkpoint into the workers' memory in advance
    Load(SwapOptions),
    /// Unload a checkpoint from the workers' memory; a later generation loads it again
    Unload(SwapOptions),
    /// Delete a model; refused while a queued or running job needs it
    Remove {
        /// Name or id
        model: String,
        #[command(flatten)]
        client: ClientOptions,
    },
}

/// Import a model from this machine, from a URL or from the Hugging Face Hub
///
/// Uploads a file or folder of this machine. A URL or a repository is downloaded by a worker, as a job that resumes
/// after interruptions; Ctrl-C cancels it. Accepts safetensors, and GGUF for a denoiser. A file with only a denoiser
/// needs its text encoders and VAE too. Either all of them are on this machine, or none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pyrograph models import flux-dev/ --name flux-dev
  pyrograph models import https://example.com/clay.safetensors --name clay --kind lora
  pyrograph models import hf:black-forest-labs/FLUX.1-schnell --name schnell
  pyrograph models import hf:owner/name@v1.0 --name style --file style.safetensors
  pyrograph models import flux1-dev-Q4_K_S.gguf --name dev --text-encoder clip_l.safetensors \\
      --text-encoder-2 t5xxl_fp8_e4m3fn.safetensors --vae ae.safetensors
  pyrograph models import flux1-dev-fp8.safetensors --name dev-fp8 --like dev")]
struct Import {
    /// A diffusers or PEFT folder, a safetensors or GGUF file of any name, an https URL of one, or
    /// hf:OWNER/NAME[/PATH][@REVISION]
    source: OsString,
    /// Name of the new model
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Expected kind: checkpoint, lora or vae_approx (preview decoder)
    #[arg(long, value_name = "KIND", value_parser = ["checkpoint", "lora", "vae_approx"], hide_possible_values = true)]
    kind: Option<String>,
    /// Checkpoint that a LoRA or a preview decoder (TAESD) was made for, by name or id
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// Text encoder (CLIP), if the file has none
    #[arg(long, value_name = "SOURCE")]
    text_encoder: Option<OsString>,
    /// Second text encoder (T5 for FLUX.1), if the file has none
    #[arg(long = "text-encoder-2", value_name = "SOURCE")]
    text_encoder_2: Option<OsString>,
    /// Autoencoder, if the file has none
    #[arg(long, value_name = "SOURCE")]
    vae: Option<OsString>,
    /// Checkpoint on the server to take the missing parts from, by name or id
    #[arg(long, value_name = "NAME")]
    like: Option<String>,
    /// Weights of this variant of a repository or a folder, such as fp16
    #[arg(long, value_name = "V")]
    variant: Option<String>,
    /// Hub only: just this file; repeatable
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<String>,
    /// URL only: expected SHA-256 of the file
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

/// The `source` of a request; `None` for a local path.
fn remote(source: &OsStr) -> Option<Value> {
    let source = source.to_str()?;
    if source.starts_with("https://") || source.starts_with("http://") {
        return Some(json!({ "kind": "url", "url": source }));
    }
    let (path, revision) = source.strip_prefix("hf:").map(|rest| rest.split_once('@').unwrap_or((rest, "")))?;
    let slash = path.match_indices('/').nth(1).map_or(path.len(), |(at, _)| at);
    let (repo, file) = path.split_at(slash);
    let mut source = json!({ "kind": "hugging_face", "repo": repo });
    if !revision.is_empty() {
        source["revision"] = revision.into();
    }
    if let Some(file) = file.strip_prefix('/') {
        source["files"] = json!([file]);
    }
    Some(source)
}

impl Import {
    /// The `source` of the request; `None` for a path of this machine.
    fn remote(&self) -> Result<Option<Value>, Failure> {
        let mut source = remote(&self.source);
        let is_hub = source.as_ref().is_some_and(|source| source["kind"] == "hugging_face");
        let is_url = source.is_some() && !is_hub;
        if !self.files.is_empty() && !is_hub || self.variant.is_some() && is_url || self.sha256.is_some() && !is_url {
            let message = "--file needs an hf: source, --variant that or a folder, and --sha256 a URL";
            return Err(Failure::Usage(message.to_owned()));
        }
        if let Some(source) = &mut source {
            if !self.files.is_empty() {
                source["files"] = self.files.clone().into();
            }
            if let Some(variant) = &self.variant {
                source["variant"] = variant.clone().into();
            }
            if let Some(sha256) = &self.sha256 {
                source["sha256"] = sha256.to_ascii_lowercase().into();
            }
        }
        Ok(source)
    }

    /// The JSON request; `None` if everything is on this machine.
    fn request(&self) -> Result<Option<Value>, Failure> {
        let source = self.remote()?;
        let mut parts = serde_json::Map::new();
        for (part, path) in self.parts() {
            match remote(path) {
                Some(source) => drop(parts.insert(part.to_owned(), source)),
                None if source.is_none() => {}
                None => return Err(mixed(path)),
            }
        }
        match source {
            None if parts.is_empty() => Ok(None),
            None => Err(mixed(&self.source)),
            Some(source) => {
                let mut request = json!({ "name": self.name, "source": source });
                for (field, value) in self.texts() {
                    request[field] = value.into();
                }
                if !parts.is_empty() {
                    request["parts"] = parts.into();
                }
                Ok(Some(request))
            }
        }
    }

    /// The separate parts.
    fn parts(&self) -> Vec<(&'static str, &OsStr)> {
        given([("text_encoder", &self.text_encoder), ("text_encoder_2", &self.text_encoder_2), ("vae", &self.vae)])
    }

    fn texts(&self) -> Vec<(&'static str, &str)> {
        given([("kind", &self.kind), ("base", &self.base), ("parts_of", &self.like)])
    }

    /// Runs the command.
    async fn run(self) -> Outcome {
        let request = self.request()?;
        let client = Client::new(&self.client)?;
        check_name_is_free(&client, &self.name).await?;
        for (flag, model) in given([("--base", &self.base), ("--like", &self.like)]) {
            check_checkpoint(&client, flag, model).await?;
        }
        let model = match request {
            None => {
                let (path, variant) = (Path::new(&self.source), self.variant.as_deref());
                let (texts, parts) = (self.texts(), self.parts());
                match unless_interrupted(import_model(&client, path, &self.name, variant, &texts, &parts)).await {
                    Err(Failure::Canceled(why)) => {
                        return Err(Failure::Canceled(format!(
                            "{why}: the server discards the bytes so far. If all of it had arrived, \
                             `pyrograph models show {}` shows the model.",
                            self.name
                        )));
                    }
                    imported => imported?,
                }
            }
            Some(request) => {
                let created: Value = client.post("/v1/models", &request).await?;
                let last = follow_import(&client, created, &format!("importing {}", self.name)).await?;
                let import: crate::client::Import = Client::understand(last)?;
                let model = import.output_model.map_or(self.name, |model| model.name);
                client.get(&address(&model)).await?
            }
        };
        if self.client.json {
            return print_json(&model);
        }
        let model: Model = Client::understand(model)?;
        say!(
            "{} ({}, {}, {})",
            model.name,
            model.kind,
            model.family.as_deref().unwrap_or("unknown family"),
            ByteSize(model.bytes)
        )?;
        model.warnings.iter().try_for_each(|warning| say!("  warning  {warning}"))
    }
}

/// Checks whether the name is free, which the server would report only after a long upload.
pub(crate) async fn check_name_is_free(client: &Client, name: &str) -> Outcome {
    domain::model::check_name(name).map_err(|error| Failure::Refused(error.to_string()))?;
    match client.find::<Model>(&address(name)).await? {
        Some(_) => Err(Failure::Refused(format!("name: there is a model named {name} already"))),
        None => Ok(()),
    }
}

/// Checks that the model named by `flag` is a checkpoint.
pub(crate) async fn check_checkpoint(client: &Client, flag: &str, model: &str) -> Outcome {
    match client.find::<Model>(&address(model)).await? {
        Some(found) if found.kind == "checkpoint" => Ok(()),
        Some(found) => Err(Failure::Refused(format!("{flag} {model} is not a checkpoint, but a {}", found.kind))),
        None => Err(Failure::Refused(format!("{flag} {model}: there is no such model"))),
    }
}

fn given<'a, T: Deref, const N: usize>(
    fields: [(&'static str, &'a Option<T>); N],
) -> Vec<(&'static str, &'a T::Target)> {
    fields.into_iter().filter_map(|(field, value)| Some((field, value.as_deref()?))).collect()
}

fn mixed(path: &OsStr) -> Failure {
    let path = shown(Path::new(path));
    Failure::Usage(format!("{path}: a file and its parts must all be on this machine, or all elsewhere"))
}

impl Models {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::List { client: options } => {
                let models = Client::new(&options)?.list("/v1/models").await?;
                if options.json {
                    return print_json(&Value::Array(models));
                }
                let mut table = Table::new(["NAME", "KIND", "FAMILY", "SIZE", "CREATED", "ID"]);
                for model in models {
                    let model: Model = Client::understand(model)?;
                    let kind = if model.built_in { format!("{} (built in)", model.kind) } else { model.kind };
                    table.row([
                        model.name,
                        kind,
                        model.family.unwrap_or_default(),
                        ByteSize(model.bytes).to_string(),
                        short(&model.created_at),
                        model.id,
                    ]);
                }
                table.print()?;
            }
            Action::Show { model, client: options } => {
                let model: Value = Client::new(&options)?.get(&address(&model)).await?;
                if options.json {
                    return print_json(&model);
                }
                let shown: Model = Client::understand(model)?;
                say!("{} ({})", shown.name, shown.kind)?;
                say!("  id            {}", shown.id)?;
                say!("  family        {}", shown.family.as_deref().unwrap_or("unknown"))?;
                if let Some(word) = &shown.trigger_word {
                    say!("  trigger word  {word}")?;
                }
                say!("  size          {}", ByteSize(shown.bytes))?;
                say!("  sha256        {}", shown.sha256)?;
                say!("  created       {}", shown.created_at)?;
                shown.warnings.iter().try_for_each(|warning| say!("  warning       {warning}"))?;
                for place in &shown.resident_on {
                    say!("  loaded on     {} ({}, {})", place.name, place.device, ByteSize(place.bytes))?;
                }
                for file in &shown.files {
                    say!("  {:>12}  {}", ByteSize(file.bytes).to_string(), file.path)?;
                }
            }
            Action::Inspect { model, client: options } => {
                let about: Value = Client::new(&options)?.get(&format!("{}/inspect", address(&model))).await?;
                if options.json {
                    print_json(&about)?;
                } else {
                    print(&about)?;
                }
            }
            Action::Export(export) => export.run().await?,
            Action::Import(import) => import.run().await?,
            Action::Load(swap) => swap.run("load").await?,
            Action::Unload(swap) => swap.run("unload").await?,
            Action::Remove { model, client: options } => {
                Client::new(&options)?.delete(&address(&model)).await?;
                if options.json {
                    print_json(&serde_json::json!({ "removed": model }))?;
                } else {
                    say!("removed {model}")?;
                }
            }
        }
        Ok(())
    }
}

/// Write a LoRA in another program's dialect
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pyrograph models export pencil --format kohya --output pencil-kohya.safetensors")]
struct Export {
    /// Name or id of the LoRA
    model: String,
    /// Dialect: kohya (sd-scripts, A1111), peft (diffusers) or comfy
    #[arg(long, value_name = "FORMAT", value_parser = ["kohya", "peft", "comfy"], hide_possible_values = true)]
    format: String,
    /// Data type: f32, f16 or bf16
    #[arg(long, default_value = "f32", value_name = "DTYPE", value_parser = ["f32", "f16", "bf16"],
          hide_possible_values = true)]
    dtype: String,
    /// File to write [default: MODEL-FORMAT.safetensors]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Export {
    /// Runs the command.
    async fn run(self) -> Outcome {
        let client = Client::new(&self.client)?;
        let [format, dtype] = [&self.format, &self.dtype].map(|text| crate::client::path_segment(text));
        let path = format!("{}/export?format={format}&dtype={dtype}", address(&self.model));
        let output =
            self.output.unwrap_or_else(|| PathBuf::from(format!("{}-{}.safetensors", self.model, self.format)));
        Client::check_writable(&output)?;
        whole_file::check_free(&output, self.overwrite)?;
        let created: Value = client.post(&path, &json!({})).await?;
        let mut last = follow(&client, created, &format!("exporting {}", self.model)).await?;
        let export: crate::client::Export = Client::understand(last.clone())?;
        let file = export.artifacts.first();
        let file = file.ok_or_else(|| Failure::Failed(anyhow::anyhow!("the export has no file")))?;
        client.download(&file.url, &output, self.overwrite).await?;
        if self.client.json {
            last["files"] = Value::from(vec![output.display().to_string()]);
            print_json(&last)?;
        } else {
            say!("{}", output.display())?;
        }
        Ok(())
    }
}

/// Prints an inspection, one line per field.
fn print(about: &Value) -> Outcome {
    let fields = about.as_object().into_iter().flatten();
    for (field, value) in fields.filter(|(_, value)| !value.is_null() && **value != json!([])) {
        let field = field.replace('_', " ");
        match value {
            Value::Array(items) => {
                say!("{field}")?;
                items.iter().try_for_each(|item| say!("  {}", line(item)))?;
            }
            value => say!("{field}: {}", line(value))?,
        }
    }
    Ok(())
}

fn line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            fields.iter().map(|(field, value)| format!("{field} {}", line(value))).collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => items.iter().map(line).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The path of one model. The name is escaped, so that an invalid one cannot reach another route.
fn address(model: &str) -> String {
    format!("/v1/models/{}", crate::client::path_segment(model))
}

/// A time without fractions of a second.
pub(crate) fn short(time: &str) -> String {
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
        assert_eq!(remote(&["folder", "--variant", "fp16"]).unwrap(), None);
        assert!(remote(&["folder", "--file", "a"]).is_err());
        assert!(remote(&[url, "--variant", "fp16"]).is_err());
        assert!(remote(&["folder", "--sha256", "ab"]).is_err());
    }

    #[test]
    fn parts_lie_where_their_denoiser_does() {
        let request = |arguments: &[&str]| {
            Line::try_parse_from([&["import", "--name", "x"], arguments].concat()).unwrap().import.request()
        };
        assert_eq!(request(&["dev.gguf", "--vae", "ae.safetensors", "--like", "dev"]).unwrap(), None);
        let parts = ["hf:o/n/dev.gguf@v1", "--text-encoder-2", "https://a.b/t5.safetensors", "--like", "dev"];
        assert_eq!(
            request(&parts).unwrap(),
            Some(json!({
                "name": "x",
                "source": {"kind": "hugging_face", "repo": "o/n", "revision": "v1", "files": ["dev.gguf"]},
                "parts": {"text_encoder_2": {"kind": "url", "url": "https://a.b/t5.safetensors"}},
                "parts_of": "dev",
            }))
        );
        assert!(request(&["hf:o/n/dev.gguf", "--vae", "ae.safetensors"]).is_err());
        assert!(request(&["dev.gguf", "--vae", "hf:o/n/ae.safetensors"]).is_err());
    }
}
