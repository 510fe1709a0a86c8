//! The LoRAs that a generation runs with: those of the field `loras`, then those that only the prompt names.

use std::sync::Arc;

use requests::PromptSyntax;
use requests::in_range;
use requests::prompt::LoraTag;

use super::LoraUse;
use super::request::{LoraRequest, MAX_LORAS};
use crate::faults::Faults;
use crate::model::{Catalog, Model, ModelKind};
use crate::{Caller, Error, Result};

/// Range of a scale.
const SCALES: std::ops::RangeInclusive<f64> = -10.0..=10.0;
/// The field that an error about the prompt names.
const PROMPT: &str = "prompt";

/// A prompt as the request states it.
#[derive(Clone, Copy)]
pub(super) struct Prompt<'a> {
    pub text: &'a str,
    pub syntax: PromptSyntax,
}

/// Resolves and checks the LoRAs of a request. A LoRA that the prompt names several times has the sum of its weights,
/// as in Forge and ComfyUI; one that `loras` states, too, has the scale stated there, so that the answer to a request
/// can be sent again. Adds a warning for each tag that is not applied as written. Errors: `Invalid` or `Unknown`, with
/// the field.
pub(super) async fn of(
    catalog: &Catalog,
    caller: &Caller,
    base: &Model,
    stated: Vec<LoraRequest>,
    prompt: Prompt<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<LoraUse>> {
    let mut faults = Faults::default();
    faults.take(check_count("loras", stated.len()));
    let mut loras: Vec<LoraUse> = Vec::with_capacity(stated.len());
    for (position, request) in stated.into_iter().enumerate().take(MAX_LORAS) {
        let field = |name: &str| format!("loras[{position}].{name}");
        let scale = faults.take(in_range(&field("scale"), request.scale.unwrap_or(1.0), SCALES));
        let of_text = request.text_encoder_scale.map(|scale| in_range(&field("text_encoder_scale"), scale, SCALES));
        let text_encoder_scale = faults.take(of_text.transpose()).filter(|other| *other != scale);
        let lora = catalog.get_named(caller, &request.model).await;
        let lora = lora.map(Some).map_err(|error| error.in_field(field("model")));
        let Some(lora) = faults.take(lora) else { continue };
        faults.take(check(&lora, base).map_err(|message| Error::invalid(field("model"), message)));
        loras.push(LoraUse { model: lora.reference(), scale, text_encoder_scale });
    }

    let networks = prompt.syntax.networks(prompt.text);
    for tag in networks.hypernetworks {
        warnings.push(format!("prompt: `{tag}` is left out: hypernetworks are not supported."));
    }
    let count_stated = loras.len();
    let mut wrong = Vec::new();
    for tag in networks.loras {
        // A long prompt does not look up hundreds of names.
        if loras.len().max(wrong.len()) > MAX_LORAS {
            break;
        }
        let (tag, lora) = match of_tag(catalog, caller, base, tag).await {
            Ok(named) => named,
            Err(error) => {
                wrong.push(error);
                continue;
            }
        };
        let named = LoraUse { model: lora.reference(), scale: tag.scale, text_encoder_scale: tag.text_encoder_scale };
        match loras.iter_mut().position(|known| known.model.id == lora.id) {
            Some(at) if at >= count_stated => loras[at] = sum(&loras[at], &named),
            Some(at) if loras[at] != named => warnings.push(overridden(&tag, &loras[at])),
            Some(_) => {}
            None => loras.push(named),
        }
    }
    for error in wrong {
        faults.take(Err::<(), _>(error));
    }
    if loras.len() > count_stated {
        faults.take(check_count(PROMPT, loras.len()));
    }
    for lora in &loras[count_stated..] {
        let mut scales = [lora.scale, lora.text_encoder_scale.unwrap_or(lora.scale)].into_iter();
        let wrong = scales.find_map(|scale| in_range(PROMPT, scale, SCALES).err());
        faults.take(wrong.map_or(Ok(()), |error| {
            let name = &lora.model.name;
            let message = format!("`{name}`, the sum of its weights in the prompt: {}", error.message);
            Err(Error::invalid(PROMPT, message))
        }));
    }
    faults.check()?;
    Ok(loras)
}

/// The LoRA that a tag names. Errors: `Invalid` for the prompt.
async fn of_tag(
    catalog: &Catalog,
    caller: &Caller,
    base: &Model,
    tag: Result<LoraTag, String>,
) -> Result<(LoraTag, Arc<Model>)> {
    let invalid = |message| Error::invalid(PROMPT, message);
    let tag = tag.map_err(invalid)?;
    let lora = catalog.get_named(caller, &tag.name).await.map_err(|error| match error {
        Error::NotFound { .. } => invalid(format!("There is no LoRA `{}`, as in `{tag}`.", tag.name)),
        other => other,
    })?;
    check(&lora, base).map_err(invalid)?;
    Ok((tag, lora))
}

fn check_count(field: &str, count: usize) -> Result<()> {
    if count <= MAX_LORAS {
        return Ok(());
    }
    Err(Error::invalid(field, format!("There are {count} LoRAs; at most {MAX_LORAS} run together.")))
}

/// Whether a model is a LoRA that fits. Errors: a sentence.
fn check(lora: &Model, base: &Model) -> Result<(), String> {
    if lora.kind != ModelKind::Lora {
        return Err(format!("`{}` is {}, not a LoRA.", lora.name, lora.kind.title()));
    }
    if lora.family == base.family {
        return Ok(());
    }
    Err(format!(
        "`{}` is a LoRA of the family {}, and `{}` is of {}; they do not fit.",
        lora.name, lora.family, base.name, base.family
    ))
}

/// One use with the effect of both.
fn sum(one: &LoraUse, other: &LoraUse) -> LoraUse {
    let of_text = |lora: &LoraUse| lora.text_encoder_scale.unwrap_or(lora.scale);
    let (scale, text_encoders) = (one.scale + other.scale, of_text(one) + of_text(other));
    LoraUse { model: one.model.clone(), scale, text_encoder_scale: (text_encoders != scale).then_some(text_encoders) }
}

fn overridden(tag: &LoraTag, stated: &LoraUse) -> String {
    format!("prompt: `{tag}` is not applied: `loras` states `{}` with scale {}.", stated.model.name, stated.scale)
}
