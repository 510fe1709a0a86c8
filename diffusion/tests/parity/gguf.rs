//! GGUF against the `gguf` package: values are equal bit for bit, since both compute with the same floats in the same
//! order. Also T5 as a GGUF file with llama.cpp's names.

use burn::tensor::DType;
use diffusion::checkpoint::{Checkpoint, SingleFile};
use diffusion::networks::t5::{Config, T5Encoder};
use formats::{Family, Part};

use crate::golden::{self, Golden, device};

#[test]
fn every_block_format_means_the_same_numbers() {
    let file = Checkpoint::open(&golden::path("gguf/blocks.gguf")).unwrap();
    let wanted = Golden::open("gguf/blocks");
    let kinds = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"];
    assert_eq!(file.names().count(), kinds.len());
    for kind in kinds {
        let values = wanted.values(kind);
        assert_eq!(file.shape(kind).unwrap(), if kind == "F32" { [3, 5] } else { [4, 512] }, "{kind}");
        let found = file.read_f32(kind).unwrap();
        let different = found.iter().zip(values).position(|(found, wanted)| found.to_bits() != wanted.to_bits());
        assert_eq!((found.len(), different), (values.len(), None), "{kind}");
    }
    assert_eq!(file.metadata()["general.architecture"], "flux");
    assert_eq!(file.metadata()["text"], "kept");
}

/// The T5 encoder in `goldens/gguf/{name}.gguf`.
fn t5(name: &str) -> (Config, T5Encoder) {
    let file = SingleFile::open(&golden::path(&format!("gguf/{name}.gguf"))).unwrap();
    let (config, tensors) = file.part_for(Family::Flux, Part::TextEncoder2).unwrap();
    let config: Config = serde_json::from_value(config).unwrap();
    config.check().unwrap();
    let network = T5Encoder::new(&config, &device()).load(tensors, DType::F32).unwrap();
    (config, network)
}

/// F32 in both files: equal bit for bit.
#[test]
fn t5_in_the_names_of_llama_cpp_is_that_of_the_folder() {
    let (config, encoder) = t5("t5");
    assert_eq!(config, golden::config("flux-tiny", "text_encoder_2/config.json"));
    let ids = Golden::open("flux-tiny/reference").ids("text.1.t5_ids");
    let wanted = golden::t5("flux-tiny", &device()).forward(&ids);
    assert_eq!(golden::values(encoder.forward(&ids)), golden::values(wanted));
}

/// transformers used the weights that the `gguf` package decodes from the same blocks, so quantisation adds no error.
/// The tolerance is that of `text_encoders`: a different order of summation.
#[test]
fn a_t5_of_many_block_formats_gives_what_transformers_gives() {
    let golden = Golden::open("gguf/t5-quantised");
    let (config, encoder) = t5("t5-quantised");
    assert_eq!((config.num_heads, config.d_kv, config.d_ff, config.num_layers), (4, 8, 32, 1));
    golden.check("states", encoder.forward(&golden.ids("ids")), 1e-5);
}
