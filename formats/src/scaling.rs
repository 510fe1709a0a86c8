//! Scaled fp8, as ComfyUI writes it: a weight in fp8 with one scale beside it, and markers of the format. Other formats
//! that use the same names, with a scale for each row or block, are refused.

use crate::{Header, Tensor, TensorType};

/// Suffixes of the scale of a weight: `layer.scale_weight` in ComfyUI's files, `layer.weight_scale` in its newer ones,
/// beside `layer.weight`.
const SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];
/// Suffixes of scales of activations, which are not quantised here, and of the markers of layers and of the file.
const MARKERS: [&str; 4] = [".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8"];
/// How many tensors a note names.
const NAMED: usize = 3;

/// Whether a tensor is a scale or a marker, and so not a parameter of a network.
pub fn is_scaling(name: &str) -> bool {
    SCALES.iter().chain(&MARKERS).any(|suffix| name.ends_with(suffix))
}

/// The name of the scale beside a weight, if there is one.
///
/// # Errors
/// A part of a sentence, if it is not one number.
pub(crate) fn scale_of(header: &Header, weight: &str) -> Result<Option<String>, String> {
    let Some(layer) = weight.strip_suffix(".weight") else { return Ok(None) };
    let name =
        SCALES.map(|suffix| format!("{layer}{suffix}")).into_iter().find(|name| header.tensors.contains_key(name));
    name.iter().try_for_each(|name| check_scale(name, header.shape(name).unwrap_or_default()))?;
    Ok(name)
}

fn check_scale(name: &str, shape: &[usize]) -> Result<(), String> {
    if shape.iter().all(|side| *side == 1) {
        return Ok(());
    }
    Err(format!("{name} has the shape {shape:?}; one scale for each weight is read"))
}

/// Whether the weights of a file are in a format that is read.
///
/// # Errors
/// A part of a sentence that names the tensor.
pub fn check(header: &Header) -> Result<(), String> {
    for (name, Tensor { kind, shape, .. }) in &header.tensors {
        if SCALES.iter().any(|suffix| name.ends_with(suffix)) {
            check_scale(name, shape)?;
        }
        if name.ends_with(".weight") && kind.is_integer() && shape.len() > 1 {
            return Err(format!("{name} is quantised as {kind}, which is not read; use a file in bf16, fp8 or GGUF"));
        }
    }
    Ok(())
}

/// Notes for the user about scales and markers that have no effect.
pub fn notes(header: &Header) -> Option<String> {
    let kind = |layer: &str| header.tensors.get(&format!("{layer}.weight")).map(|tensor| tensor.kind);
    let is_fp8 = |kind: TensorType| matches!(kind, TensorType::F8_E4M3 | TensorType::F8_E5M2);
    let any_fp8 = header.tensors.values().any(|tensor| is_fp8(tensor.kind));
    let is_idle = |name: &&String| {
        let of_layer = |suffix: &str| name.strip_suffix(suffix);
        if let Some(layer) = SCALES.iter().find_map(|suffix| of_layer(suffix)) {
            kind(layer).is_none()
        } else if let Some(layer) = of_layer(".comfy_quant") {
            !kind(layer).is_some_and(is_fp8)
        } else {
            name.ends_with("scaled_fp8") && !any_fp8
        }
    };
    let idle: Vec<&str> = header.tensors.keys().filter(is_idle).map(String::as_str).collect();
    let more = if idle.len() > NAMED { ", …" } else { "" };
    let first = idle.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    (!idle.is_empty()).then(|| format!("{} tensors have no effect: {first}{more}.", idle.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(tensors: &[(&str, TensorType, &[usize])]) -> Header {
        let tensors = tensors.iter().map(|(name, kind, shape)| {
            ((*name).to_owned(), Tensor { kind: *kind, shape: shape.to_vec(), start: 0, length: 0 })
        });
        Header { tensors: tensors.collect(), ..Header::default() }
    }

    #[test]
    fn one_scale_for_each_weight_is_read() {
        use TensorType::{BF16, F8_E4M3, F32, I8, U8};
        let scaled = [("a.weight", F8_E4M3, &[4, 4][..]), ("a.weight_scale", F32, &[1]), ("a.comfy_quant", U8, &[40])];
        assert_eq!((check(&header(&scaled)), notes(&header(&scaled))), (Ok(()), None));
        let rows = [("a.weight", F8_E4M3, &[4, 4][..]), ("a.weight_scale", F32, &[4, 1])];
        assert!(check(&header(&rows)).unwrap_err().contains("a.weight_scale"));
        for kind in [I8, U8] {
            assert!(check(&header(&[("a.weight", kind, &[4, 4])])).unwrap_err().contains("a.weight is quantised"));
        }
        let idle = [("a.weight", BF16, &[4, 4][..]), ("a.comfy_quant", U8, &[40]), ("b.scale_weight", F32, &[])];
        let message = notes(&header(&idle)).unwrap();
        assert!(message.contains("2 tensors") && message.contains("a.comfy_quant, b.scale_weight"), "{message}");
        assert!(notes(&header(&[("scaled_fp8", F8_E4M3, &[2])])).is_none(), "the usual marker is itself in fp8");
    }
}
