//! Tiny decoders (TAESD, <https://github.com/madebyollin/taesd>) that show a running generation: how a file tells that it is one,
//! and for which checkpoints. Whether its layers fit is the engine's to judge.

use super::described::Described;
use super::family::Family;
use super::{Model, ModelFiles, ModelKind};
use crate::safetensors_gate::{Header, invalid};
use crate::{Error, ModelId, ProjectId, Result};

/// How the first layer and the first block of the decoder are called: in diffusers' file, in ComfyUI's, in the original's.
const NAMES: [[&str; 2]; 3] = [
    ["decoder.layers.0.weight", "decoder.layers.2.conv.0.weight"],
    ["taesd_decoder.1.weight", "taesd_decoder.3.conv.0.weight"],
    ["1.weight", "3.conv.0.weight"],
];

/// How many channels the latents have that it decodes; nothing for another file.
pub(super) fn latent_channels(header: &Header) -> Option<u64> {
    let [first, _] = NAMES.into_iter().find(|names| names.iter().all(|name| header.tensors.contains_key(*name)))?;
    match header.tensors.get(first)?.shape[..] {
        [_, channels, 3, 3] => Some(channels),
        _ => None,
    }
}

/// The row to be. Those of Stable Diffusion 1.5 and XL have the same tensors: `base` tells them apart, or else `xl` in the name.
/// Errors: `Invalid` for latents of no family.
pub(super) fn describe(latent_channels: u64, name: &str, base: Option<&Model>) -> Result<Described> {
    let family = match (latent_channels, base) {
        (4, Some(base)) if base.family != Family::Flux.as_str() => shown_as(&base.family),
        (16, Some(base)) if base.family == Family::Flux.as_str() => &base.family,
        (4 | 16, Some(base)) => {
            let message =
                format!("It decodes {latent_channels} channels, and `{}` of {} has others.", base.name, base.family);
            return Err(Error::invalid("base", message));
        }
        (4, None) if name.contains("xl") => Family::Sdxl.as_str(),
        (4, None) => Family::Sd15.as_str(),
        (16, None) => Family::Flux.as_str(),
        _ => return Err(invalid(format!("it decodes {latent_channels} channels, and no family here has so many"))),
    };
    Ok(Described {
        kind: ModelKind::VaeApprox,
        family: family.to_owned(),
        base: None,
        defaults: None,
        trigger_word: None,
    })
}

/// The family whose decoders show the latents of `family`: 2.1 has those of 1.5.
fn shown_as(family: &str) -> &str {
    if family == Family::Sd21.as_str() { Family::Sd15.as_str() } else { family }
}

/// The newest decoder that a project has for checkpoints of a family.
pub(crate) async fn of_family(
    connection: &mut sqlx::PgConnection,
    project: ProjectId,
    family: &str,
) -> Result<Option<ModelFiles>> {
    let newest = sqlx::query_scalar!(
        r#"SELECT id AS "id: ModelId" FROM models
           WHERE project_id = $1 AND kind = 'vae_approx' AND family = $2 AND deleted_at IS NULL ORDER BY id DESC LIMIT 1"#,
        project as ProjectId,
        shown_as(family),
    )
    .fetch_optional(&mut *connection)
    .await?;
    match newest {
        None => Ok(None),
        Some(id) => Ok(super::files(connection, &[id]).await?.remove(&id)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn header(tensors: &[(&str, &[u64])]) -> Header {
        let mut entries = serde_json::Map::new();
        let mut end = 0;
        for (name, shape) in tensors {
            let begin = end;
            end += 4 * shape.iter().product::<u64>();
            entries.insert((*name).to_owned(), json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}));
        }
        let text = serde_json::to_vec(&entries).unwrap();
        crate::safetensors_gate::header(&text, 8 + text.len() as u64 + end).unwrap()
    }

    fn checkpoint(family: &str) -> Model {
        Model {
            id: ModelId::new(),
            name: "base".into(),
            kind: ModelKind::Checkpoint,
            family: family.into(),
            base_model_id: None,
            files: Vec::new(),
            bytes: 0,
            sha256: String::new(),
            trigger_word: None,
            training_id: None,
            defaults: crate::model::Defaults::default(),
            built_in: false,
            created_at: chrono::Utc::now(),
        }
    }

    #[test]
    fn each_naming_is_known_and_no_other_file_is_taken_for_one() {
        for [first, block] in NAMES {
            let file = header(&[(first, &[64, 16, 3, 3]), (block, &[64, 64, 3, 3])]);
            assert_eq!(latent_channels(&file), Some(16), "{first}");
            assert_eq!(latent_channels(&header(&[(first, &[64, 16, 3, 3])])), None, "{first} alone");
            assert_eq!(latent_channels(&header(&[(first, &[64, 16]), (block, &[64, 64])])), None, "{first} is flat");
        }
        assert_eq!(latent_channels(&header(&[("decoder.mid.block_1.conv1.weight", &[8, 8, 3, 3])])), None);
    }

    #[test]
    fn the_family_is_told_by_channels_name_and_base() {
        let family = |channels, name| describe(channels, name, None).map(|described| described.family);
        assert_eq!(family(4, "taesd").unwrap(), "sd15");
        assert_eq!(family(4, "taesdxl").unwrap(), "sdxl");
        assert_eq!(family(16, "taef1").unwrap(), "flux");
        assert!(family(8, "other").is_err());
        assert_eq!(["sd15", "sd21", "sdxl", "flux"].map(shown_as), ["sd15", "sd15", "sdxl", "flux"]);
        for (channels, base, told) in [
            (4, "sdxl", Some("sdxl")),
            (4, "sd21", Some("sd15")),
            (16, "flux", Some("flux")),
            (4, "flux", None),
            (16, "sd15", None),
        ] {
            let base = checkpoint(base);
            let described = describe(channels, "taesd", Some(&base));
            assert_eq!(
                described.ok().map(|described| described.family).as_deref(),
                told,
                "{channels} for {}",
                base.family
            );
        }
    }
}
