//! Tiny decoders (TAESD, <https://github.com/madebyollin/taesd>) that make previews: how a file is recognised as one,
//! and for which checkpoints. The engine checks whether its layers fit.

use formats::{Family, Header};

use super::described::Described;
use super::{Model, ModelFiles, ModelKind};
use crate::weights_gate::invalid;
use crate::{Error, ModelId, ProjectId, Result};

/// Names of the first layer and the first block of the decoder: in diffusers' file, in ComfyUI's, in the original's.
const NAMES: [[&str; 2]; 3] = [
    ["decoder.layers.0.weight", "decoder.layers.2.conv.0.weight"],
    ["taesd_decoder.1.weight", "taesd_decoder.3.conv.0.weight"],
    ["1.weight", "3.conv.0.weight"],
];

/// Number of channels of the latents that it decodes; `None` for another file.
pub(super) fn latent_channels(header: &Header) -> Option<usize> {
    let [first, _] = NAMES.into_iter().find(|names| names.iter().all(|name| header.tensors.contains_key(*name)))?;
    match header.tensors.get(first)?.shape[..] {
        [_, channels, 3, 3] => Some(channels),
        _ => None,
    }
}

/// The new row. The decoders of Stable Diffusion 1.5 and XL have the same tensors: `base` distinguishes them, or
/// otherwise `xl` in the name. Errors: `Invalid` for latents of no family.
pub(super) fn describe(latent_channels: usize, name: &str, base: Option<&Model>) -> Result<Described> {
    let Some(usual) = Family::ALL.into_iter().find(|family| family.latent_channels() == latent_channels) else {
        return Err(invalid(format!("it decodes {latent_channels} channels, and no family here has so many")));
    };
    let family = match base {
        Some(base) => base.family()?.decoded_as(),
        None if Family::Sdxl.latent_channels() == latent_channels && name.contains("xl") => Family::Sdxl,
        None => usual,
    };
    if let Some(base) = base.filter(|_| family.latent_channels() != latent_channels) {
        let message =
            format!("It decodes {latent_channels} channels, and `{}` of {} has others.", base.name, base.family);
        return Err(Error::invalid("base", message));
    }
    Ok(Described {
        kind: ModelKind::VaeApprox,
        family: family.as_str().to_owned(),
        base: None,
        defaults: None,
        networks: None,
        trigger_word: None,
        warnings: Vec::new(),
    })
}

/// The newest decoder that a project has for checkpoints of a family.
pub(crate) async fn of_family(
    connection: &mut sqlx::PgConnection,
    project: ProjectId,
    family: &str,
) -> Result<Option<ModelFiles>> {
    let family = family.parse::<Family>().map_err(Error::internal)?.decoded_as();
    let newest = sqlx::query_scalar!(
        r#"SELECT id AS "id: ModelId" FROM models
           WHERE (project_id = $1 OR shared) AND kind = 'vae_approx' AND family = $2 AND deleted_at IS NULL
           ORDER BY project_id = $1 DESC, id DESC LIMIT 1"#,
        project as ProjectId,
        family.as_str(),
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
    use super::super::family::tests::header;
    use super::*;

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
            warnings: Vec::new(),
            built_in: false,
            shared: false,
            project: ProjectId::DEFAULT,
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
