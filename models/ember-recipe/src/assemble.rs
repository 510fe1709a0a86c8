//! Writes the trained parts as a folder in diffusers' layout, in f16.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use burn::prelude::*;
use burn::tensor::DType;
use diffusion::checkpoint::{self, Checkpoint};
use diffusion::networks::vae::Autoencoder;
use serde::Serialize;
use serde_json::{Value, json};

use crate::words::write_json;
use crate::{autoencoder, latents, networks};

/// Default steps and guidance scale, chosen by `measure`.
const DEFAULTS: (usize, f64) = (12, 3.0);

pub(crate) fn assemble(out: &Path, model: &Path) -> Result<()> {
    let device = Device::flex();
    let configs = networks::configs(out)?;
    let networks = networks::Networks::new(&configs, &device);
    let networks = checkpoint::load_strict(networks, &Checkpoint::open(&networks::weights(out))?, DType::F32)?;
    let vae = Autoencoder::new(&autoencoder::config(), &device);
    let vae = checkpoint::load_strict(vae, &Checkpoint::open(&autoencoder::weights(out))?, DType::F32)?;

    for part in ["transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"] {
        std::fs::create_dir_all(model.join(part))?;
    }
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    checkpoint::save(
        &networks.transformer,
        &model.join("transformer/diffusion_pytorch_model.safetensors"),
        DType::F16,
        &metadata,
    )?;
    checkpoint::save(&networks.text_encoder, &model.join("text_encoder/model.safetensors"), DType::F16, &metadata)?;
    checkpoint::save(&networks.text_encoder_2, &model.join("text_encoder_2/model.safetensors"), DType::F16, &metadata)?;
    checkpoint::save(&vae, &model.join("vae/diffusion_pytorch_model.safetensors"), DType::F16, &metadata)?;

    let (mean, deviation) = latents::latent_statistics(out)?;
    let mut vae = autoencoder::config();
    vae.shift_factor = Some(mean);
    vae.scaling_factor = 1.0 / deviation;
    let levels = vae.block_out_channels.len();
    let vae = with(
        &vae,
        json!({
            "_class_name": "AutoencoderKL", "sample_size": 64, "act_fn": "silu", "force_upcast": true,
            "down_block_types": vec!["DownEncoderBlock2D"; levels], "up_block_types": vec!["UpDecoderBlock2D"; levels],
        }),
    )?;
    write_json(&model.join("vae/config.json"), &vae)?;
    write_json(
        &model.join("transformer/config.json"),
        &with(&configs.flux, json!({ "_class_name": "FluxTransformer2DModel" }))?,
    )?;
    let clip = json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model",
        "bos_token_id": configs.clip.vocab_size - 2, "pad_token_id": configs.clip.vocab_size - 1,
        "projection_dim": configs.clip.hidden_size, "attention_dropout": 0.0,
    });
    write_json(&model.join("text_encoder/config.json"), &with(&configs.clip, clip)?)?;
    let t5 = json!({
        "architectures": ["T5EncoderModel"], "model_type": "t5", "is_encoder_decoder": false, "use_cache": false,
        "dropout_rate": 0.0, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
        "tie_word_embeddings": false,
    });
    write_json(&model.join("text_encoder_2/config.json"), &with(&configs.t5, t5)?)?;
    write_json(
        &model.join("scheduler/scheduler_config.json"),
        &json!({
            "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0,
            "use_dynamic_shifting": false,
        }),
    )?;
    write_json(
        &model.join("model_index.json"),
        &json!({
            "_class_name": "FluxPipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }),
    )?;
    write_json(
        &model.join("pyrograph.json"),
        &json!({
            "num_inference_steps": DEFAULTS.0, "guidance_scale": 1.0, "true_cfg_scale": DEFAULTS.1,
            "width": 64, "height": 64,
        }),
    )?;
    for folder in ["tokenizer", "tokenizer_2"] {
        for file in std::fs::read_dir(out.join(folder))? {
            let file = file?;
            std::fs::copy(file.path(), model.join(folder).join(file.file_name()))?;
        }
    }
    Ok(())
}

/// A config with extra keys that other programs expect.
fn with(config: &impl Serialize, more: Value) -> Result<Value> {
    let mut config = serde_json::to_value(config)?;
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    Ok(config)
}
