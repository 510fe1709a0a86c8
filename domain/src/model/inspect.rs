//! What the files of a model say about it, read on request from their headers and configs: a few kilobytes of each
//! file. Not here: the values of the weights, and whether they fit, which is checked when the model is added.

use std::collections::BTreeMap;

use formats::{Family, Header, Part, adapter, detect, is_root_weights};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::intake::read_json;
use super::parts::Layout;
use super::{Model, ModelFile, ModelKind, family, vae_approx};
use crate::weights_gate;
use crate::{Error, Result, Storage};

/// The contents of a model's files.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[schema(as = ModelInspection)]
pub enum Inspection {
    Lora(adapter::Inspection),
    Checkpoint(Checkpoint),
    VaeApprox(VaeApprox),
}

/// The contents of a preview decoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = VaeApproxInspection)]
pub struct VaeApprox {
    /// Architecture of the checkpoints that it makes previews for.
    #[schema(example = "sdxl")]
    pub family: String,
    #[schema(minimum = 1)]
    pub latent_channels: u64,
    /// As in the model.
    pub warnings: Vec<String>,
}

/// The contents of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = CheckpointInspection)]
pub struct Checkpoint {
    /// Architecture of the checkpoint.
    #[schema(example = "flux")]
    pub family: String,
    /// Prediction type of the denoiser, in diffusers' terms.
    #[schema(example = "flow_prediction")]
    pub prediction_type: String,
    pub networks: Vec<NetworkOf>,
    /// As in the model.
    pub warnings: Vec<String>,
}

/// A network of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct NetworkOf {
    /// Name of the network: its folder in diffusers.
    #[schema(example = "transformer")]
    pub name: String,
    /// Paths of its files within the model.
    pub files: Vec<String>,
    /// Number of parameters.
    #[schema(minimum = 0)]
    pub parameters: u64,
    /// Number of parameters by the data type in which they are stored, such as `BF16`, `F8_E4M3` or `Q4_K`.
    pub dtypes: BTreeMap<String, u64>,
}

/// Inspects a model's files. Errors: `Invalid` for a LoRA that this version does not recognise; `NotFound` for a file
/// whose object is missing; those of storage.
pub async fn inspect(storage: &Storage, model: &Model) -> Result<Inspection> {
    let mut headers = BTreeMap::new();
    for file in &model.files {
        if [".safetensors", ".gguf"].iter().any(|end| file.path.ends_with(end)) {
            let header = weights_gate::stored(storage, &file.storage_key, file.bytes.unsigned_abs()).await;
            let header = header.map_err(|error| by_path(error, &file.path))?;
            headers.insert(file.path.clone(), header);
        }
    }
    if model.kind == ModelKind::Lora {
        let header = headers.values().next().ok_or_else(|| Error::internal("a LoRA without a file"))?;
        let config = match model.files.iter().find(|file| file.path == adapter::CONFIG_FILE) {
            Some(file) => Some(config(storage, file).await?),
            None => None,
        };
        let configs = config.map(|config| (adapter::CONFIG_FILE.to_owned(), config));
        let mut about = family::of_lora(header, &configs.into_iter().collect())?;
        let more = model.warnings.iter().filter(|warning| !about.warnings.contains(warning)).cloned();
        about.warnings = more.chain(about.warnings.clone()).collect();
        return Ok(Inspection::Lora(about));
    }
    if model.kind == ModelKind::VaeApprox {
        let header = headers.values().next().ok_or_else(|| Error::internal("a decoder without a file"))?;
        let latent_channels = vae_approx::latent_channels(header);
        let latent_channels = latent_channels.ok_or_else(|| Error::internal("a decoder without its first layer"))?;
        return Ok(Inspection::VaeApprox(VaeApprox {
            family: model.family.clone(),
            latent_channels: latent_channels as u64,
            warnings: model.warnings.clone(),
        }));
    }
    let scheduler = match model.files.iter().find(|file| file.path == "scheduler/scheduler_config.json") {
        Some(file) => Some(config(storage, file).await?),
        None => None,
    };
    Ok(Inspection::Checkpoint(Checkpoint {
        family: model.family.clone(),
        prediction_type: prediction_type(model.family()?, scheduler.as_ref(), &headers),
        networks: networks(model.family()?, &headers),
        warnings: model.warnings.clone(),
    }))
}

async fn config(storage: &Storage, file: &ModelFile) -> Result<Value> {
    let text = storage.get(&file.storage_key).await.map_err(|error| by_path(error, &file.path))?;
    read_json(&file.path, &text)
}

/// A client does not know the keys of objects.
fn by_path(error: Error, path: &str) -> Error {
    match error {
        Error::NotFound { .. } => Error::not_found("stored file", path),
        other => other,
    }
}

/// From the scheduler's config, otherwise from the files or the family.
fn prediction_type(family: Family, scheduler: Option<&Value>, headers: &BTreeMap<String, Header>) -> String {
    let stated = scheduler.map(|config| config.get("prediction_type").and_then(Value::as_str).unwrap_or("epsilon"));
    let of_files = || headers.values().find_map(|header| detect::prediction_type(family, header));
    let stated = stated.filter(|_| !family.matches_flow()).or_else(of_files);
    stated.unwrap_or(family.prediction_type()).to_owned()
}

fn networks(family: Family, headers: &BTreeMap<String, Header>) -> Vec<NetworkOf> {
    let denoiser = family.denoiser();
    let main = Layout::of(headers, &BTreeMap::new()).ok().flatten().map(|layout| layout.main);
    let mut found: BTreeMap<&str, NetworkOf> = BTreeMap::new();
    for (path, header) in headers {
        let own = match path.split_once('/') {
            Some((folder, _)) => folder,
            None => Part::of_file(path).filter(|_| main != Some(path.as_str())).unwrap_or(denoiser).as_str(),
        };
        for (name, tensor) in &header.tensors {
            if tensor.kind.is_integer() {
                continue;
            }
            let inside = Part::of_tensor(name, denoiser).map(Part::as_str);
            // A file that was borrowed for one part may also hold others.
            let borrowed = main != Some(path.as_str()) && is_root_weights(path);
            if borrowed && inside.is_some_and(|part| part != own) {
                continue;
            }
            let network = inside.filter(|_| main == Some(path.as_str())).unwrap_or(own);
            let entry = found.entry(network).or_insert_with(|| NetworkOf {
                name: network.to_owned(),
                files: Vec::new(),
                parameters: 0,
                dtypes: BTreeMap::new(),
            });
            let values = tensor.shape.iter().fold(1_u64, |all, side| all.saturating_mul(*side as u64));
            entry.parameters = entry.parameters.saturating_add(values);
            *entry.dtypes.entry(tensor.kind.to_string()).or_default() += values;
            if entry.files.last() != Some(path) {
                entry.files.push(path.clone());
            }
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::family::tests::headed;
    use super::*;

    fn told(files: &[(&str, &[&str])]) -> Vec<(String, Vec<String>, u64)> {
        let headers = files.iter().map(|(path, names)| ((*path).to_owned(), headed(names))).collect();
        let networks = networks(Family::Flux, &headers);
        networks.into_iter().map(|network| (network.name, network.files, network.parameters)).collect()
    }

    #[test]
    fn each_network_is_counted_where_it_is() {
        let one =
            |name: &str, file: &str| (name.to_owned(), vec![file.to_owned()], 1 + u64::from(name == "transformer"));
        let all = [
            "model.diffusion_model.double_blocks.0.x",
            "model.diffusion_model.img_in.weight",
            "text_encoders.clip_l.transformer.text_model.x",
            "text_encoders.t5xxl.transformer.encoder.block.0.x",
            "vae.decoder.mid.x",
        ];
        let parts = ["text_encoder", "text_encoder_2", "transformer", "vae"];
        assert_eq!(told(&[("x.safetensors", &all)]), parts.map(|part| one(part, "x.safetensors")));
        let borrowed = [("x.gguf", &["double_blocks.0.x", "img_in.weight"][..]), ("vae.safetensors", &all)];
        assert_eq!(told(&borrowed), [one("transformer", "x.gguf"), one("vae", "vae.safetensors")]);
        let folder = [("transformer/a.safetensors", &["x"][..]), ("transformer/b.safetensors", &["y"])];
        assert_eq!(told(&folder)[0].2, 2);
    }

    #[test]
    fn the_prediction_type_is_the_schedulers_or_the_files() {
        let of = |family: &str, scheduler: Option<Value>, names: &[&str]| {
            prediction_type(
                family.parse().unwrap(),
                scheduler.as_ref(),
                &BTreeMap::from([("x".to_owned(), headed(names))]),
            )
        };
        assert_eq!(of("flux", Some(json!({})), &["x"]), "flow_prediction");
        assert_eq!(of("sd21", Some(json!({"prediction_type": "epsilon"})), &["x"]), "epsilon");
        assert_eq!(of("sd15", Some(json!({})), &["x"]), "epsilon");
        assert_eq!(of("sd21", None, &["x"]), "v_prediction");
        assert_eq!(of("sdxl", None, &["x"]), "epsilon");
        assert_eq!(of("sdxl", None, &["v_pred"]), "v_prediction");
    }
}
