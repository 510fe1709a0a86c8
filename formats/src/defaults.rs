//! Default values for the optional fields of a request, from a checkpoint and its family.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Default values for the optional fields of a request, and the grid of picture sizes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Defaults {
    pub num_inference_steps: u32,
    pub guidance_scale: f64,
    pub true_cfg_scale: f64,
    /// Whether `guidance_scale` has an effect.
    pub takes_guidance: bool,
    /// Denoising strength of a generation that starts from a picture and has no mask.
    #[serde(default = "strength_of_old_rows")]
    pub strength: f64,
    /// Width of a picture in pixels.
    pub width: u32,
    /// Height of a picture in pixels.
    pub height: u32,
    /// Width and height are multiples of this many pixels.
    pub size_multiple: u32,
    /// Whether a request has to name a `scheduler`, since the checkpoint's own is not supported.
    pub scheduler_required: bool,
}

impl Default for Defaults {
    /// The defaults of FLUX.1-dev.
    fn default() -> Self {
        Self {
            num_inference_steps: 28,
            guidance_scale: 3.5,
            true_cfg_scale: 1.0,
            takes_guidance: true,
            strength: 0.6,
            width: 1024,
            height: 1024,
            size_multiple: 16,
            scheduler_required: false,
        }
    }
}

/// Default for rows written before models stored their own strength.
fn strength_of_old_rows() -> f64 {
    0.8
}

impl Defaults {
    /// Overrides these defaults with the fields of a checkpoint's `pyrograph.json`, or of its object `defaults`. What
    /// the checkpoint itself needs is not changed: the grid of sizes, and a scheduler. Errors: a field of the wrong
    /// type.
    pub fn stated_in(self, pyrograph_json: &Value) -> serde_json::Result<Self> {
        let stated = pyrograph_json.get("defaults").unwrap_or(pyrograph_json);
        let mut all = serde_json::to_value(self)?;
        let stated: serde_json::Map<String, Value> = serde_json::from_value(stated.clone())?;
        if let Value::Object(all) = &mut all {
            all.extend(stated);
        }
        let Self { size_multiple, scheduler_required, .. } = self;
        Ok(Self { size_multiple, scheduler_required, ..serde_json::from_value(all)? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_file_states_only_what_differs() {
        let defaults = Defaults::default();
        assert_eq!(defaults.stated_in(&json!({})).unwrap(), defaults);
        let wanted = Defaults { width: 640, ..defaults };
        for stated in [json!({"width": 640, "later": 1}), json!({"defaults": {"width": 640}, "size_multiple": 1})] {
            assert_eq!(defaults.stated_in(&stated).unwrap(), wanted);
        }
        for wrong in [json!({"width": "wide"}), json!([]), json!({"defaults": 3})] {
            assert!(defaults.stated_in(&wrong).is_err(), "{wrong}");
        }
    }
}
