//! Token ids and text embeddings against transformers: for a plain prompt, one with unusual characters, and one that
//! is too long.
//!
//! Ids are equal. Embeddings have a relative L2 error of at most 1e-5: f32 summed in a different order.

use burn::prelude::*;

use crate::golden::{self, Golden, device, path};
use diffusion::networks::{clip, t5};
use diffusion::tokenizers::clip::ClipTokenizer;
use diffusion::tokenizers::t5::T5Tokenizer;

const TOLERANCE: f64 = 1e-5;

/// The numbered prompts of a golden file.
fn prompts(golden: &Golden) -> Vec<(usize, String)> {
    let prompts: Vec<String> = serde_json::from_value(golden.note["prompts"].clone()).unwrap();
    assert_eq!(prompts.len(), 3);
    prompts.into_iter().enumerate().collect()
}

fn clip(pipeline: &str) {
    let golden = Golden::open(&format!("{pipeline}/reference"));
    let tokenizer = ClipTokenizer::load(&path(pipeline).join("tokenizer")).unwrap();
    let encoder: clip::ClipTextModel = golden::clip(pipeline, &device());
    for (i, prompt) in prompts(&golden) {
        let ids = tokenizer.encode(&prompt).unwrap();
        assert_eq!(ids, golden.ids(&format!("text.{i}.clip_ids"))[0], "{prompt}");
        golden.check(&format!("text.{i}.pooled_prompt_embeds"), encoder.forward(&[ids]).pooled, TOLERANCE);
    }
}

/// The states of one text encoder of Stable Diffusion: complete, without the last layer, and with one layer skipped.
fn clip_states(pipeline: &str) {
    let golden = Golden::open(&format!("{pipeline}/reference"));
    let tokenizer = ClipTokenizer::load(&path(pipeline).join("tokenizer")).unwrap();
    let encoder = golden::clip(pipeline, &device());
    for (i, prompt) in prompts(&golden) {
        let ids = tokenizer.encode(&prompt).unwrap();
        assert_eq!(ids, golden.ids(&format!("text.{i}.ids.1"))[0], "{prompt}");
        golden.check(&format!("text.{i}.prompt_embeds"), encoder.forward(&[ids]).last_hidden_state, TOLERANCE);
    }
    let output = encoder.forward(&golden.ids("text.0.ids.1"));
    golden.check("text.0.prompt_embeds", encoder.final_norm(output.skipping(0).unwrap()), TOLERANCE);
    golden.check("text.0.penultimate.1", output.skipping(1).unwrap(), TOLERANCE);
    golden.check("text.clip_skip.1", encoder.final_norm(output.skipping(1).unwrap()), TOLERANCE);
    let error = output.skipping(3).unwrap_err().to_string();
    assert!(error.contains("has 3"), "{error}");
    let negative = tokenizer.encode(golden.note["negative_prompt"].as_str().unwrap()).unwrap();
    golden.check("text.negative_prompt_embeds", encoder.forward(&[negative]).last_hidden_state, TOLERANCE);
}

fn t5(pipeline: &str) {
    let golden = Golden::open(&format!("{pipeline}/reference"));
    let tokenizer = T5Tokenizer::load(&path(pipeline).join("tokenizer_2")).unwrap();
    let encoder: t5::T5Encoder = golden::t5(pipeline, &device());
    for (i, prompt) in prompts(&golden) {
        let ids = tokenizer.encode(&prompt).unwrap();
        assert_eq!(ids, golden.ids(&format!("text.{i}.t5_ids"))[0], "{prompt}");
        golden.check(&format!("text.{i}.prompt_embeds"), encoder.forward(&[ids]), TOLERANCE);
    }
}

#[test]
fn clip_where_the_largest_id_is_the_end() {
    clip("flux-tiny");
}

#[test]
fn clip_where_the_config_names_the_end_token() {
    clip("flux-tiny-cfg");
}

#[test]
fn clip_ids_from_the_older_files() {
    let golden = Golden::open("flux-tiny/reference");
    let folder = tempfile::tempdir().unwrap();
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(path("flux-tiny/tokenizer").join(file), folder.path().join(file)).unwrap();
    }
    let tokenizer = ClipTokenizer::load(folder.path()).unwrap();
    for (i, prompt) in prompts(&golden) {
        assert_eq!(tokenizer.encode(&prompt).unwrap(), golden.ids(&format!("text.{i}.clip_ids"))[0], "{prompt}");
    }
}

#[test]
fn t5_from_shards() {
    t5("flux-tiny");
}

#[test]
fn t5_from_one_bf16_file() {
    t5("flux-tiny-cfg");
}

#[test]
fn prompts_of_a_batch_do_not_touch() {
    let golden = Golden::open("flux-tiny/reference");
    let ids: Vec<_> = (0..2).map(|i| golden.ids(&format!("text.{i}.clip_ids")).remove(0)).collect();
    let pooled = golden::clip("flux-tiny", &device()).forward(&ids).pooled;
    let ids: Vec<_> = (0..2).map(|i| golden.ids(&format!("text.{i}.t5_ids")).remove(0)).collect();
    let states = golden::t5("flux-tiny", &device()).forward(&ids);
    for i in 0..2 {
        golden.check(&format!("text.{i}.pooled_prompt_embeds"), pooled.clone().narrow(0, i, 1), TOLERANCE);
        golden.check(&format!("text.{i}.prompt_embeds"), states.clone().narrow(0, i, 1), TOLERANCE);
    }
}

#[test]
fn clip_of_stable_diffusion_1() {
    clip_states("sd15-tiny");
}

#[test]
fn clip_of_stable_diffusion_2_padded_with_exclamation_marks() {
    clip_states("sd21-tiny");
}

#[test]
fn both_clips_of_stable_diffusion_xl() {
    let golden = Golden::open("sdxl-tiny/reference");
    let folder = path("sdxl-tiny");
    let tokenizers =
        ["tokenizer", "tokenizer_2"].map(|tokenizer| ClipTokenizer::load(&folder.join(tokenizer)).unwrap());
    let encoders = [golden::clip("sdxl-tiny", &device()), golden::clip_with_projection("sdxl-tiny", &device())];
    for (i, prompt) in prompts(&golden) {
        let outputs: Vec<_> = (0..2)
            .map(|encoder| {
                let ids = tokenizers[encoder].encode(&prompt).unwrap();
                assert_eq!(ids, golden.ids(&format!("text.{i}.ids.{}", encoder + 1))[0], "{prompt}");
                encoders[encoder].forward(&[ids])
            })
            .collect();
        let joined = |skipped| Tensor::cat(outputs.iter().map(|output| output.skipping(skipped).unwrap()).collect(), 2);
        golden.check(&format!("text.{i}.prompt_embeds"), joined(1), TOLERANCE);
        golden.check(&format!("text.{i}.pooled_prompt_embeds"), outputs[1].text_embeds.clone().unwrap(), TOLERANCE);
        if i == 0 {
            golden.check("text.clip_skip.1", joined(2), TOLERANCE);
            for (encoder, output) in outputs.iter().enumerate() {
                let last = output.last_hidden_state.clone();
                golden.check(&format!("text.0.last_hidden_state.{}", encoder + 1), last, TOLERANCE);
            }
        }
    }
}

/// Ids of tokenizers with added words, each in a folder with the changed files.
#[test]
fn added_words_are_read_as_transformers_does() {
    let text = std::fs::read(path("added-tokens.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let prompts: Vec<String> = serde_json::from_value(golden["prompts"].clone()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!((prompts.len(), cases.len()), (10, 8));
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        for file in ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"] {
            std::fs::copy(path("sd15-tiny/tokenizer").join(file), folder.path().join(file)).unwrap();
        }
        for (file, content) in case["files"].as_object().unwrap() {
            std::fs::write(folder.path().join(file), content.to_string()).unwrap();
        }
        let tokenizer = ClipTokenizer::load(folder.path()).unwrap();
        let ids: Vec<Vec<i64>> = serde_json::from_value(case["ids"].clone()).unwrap();
        for (prompt, ids) in prompts.iter().zip(ids) {
            assert_eq!(tokenizer.encode(prompt).unwrap(), ids, "{}: {prompt:?}", case["name"]);
        }
        assert!(tokenizer.vocabulary() > 658, "{}", case["name"]);
    }
}
