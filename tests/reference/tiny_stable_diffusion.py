"""Tiny Stable Diffusion pipelines with random weights: every part of the published layout, built as in `tiny_pipeline`.

No two widths of one network agree, and sizes do not divide evenly: pictures of 40×32 become latents of 10×8, which the
three levels of a UNet halve to 5 and to 3.
"""

import json
from pathlib import Path

import diffusers

import tiny_pipeline
from tiny_pipeline import clip_text_model, clip_tokenizer, perturb

# Settings common to all of these published schedulers.
BETAS = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
ATTENDS_FINE = dict(
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
ATTENDS_COARSE = dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))


def unet(seed, **shape):
    shape = {"sample_size": 8, "block_out_channels": (4, 6, 10), "norm_num_groups": 2, "layers_per_block": 1, **shape}
    return perturb(diffusers.UNet2DConditionModel(**shape), seed)


def vae(seed, scaling_factor, **shape):
    levels = 3
    return perturb(diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[4, 6, 8], layers_per_block=1, latent_channels=4, norm_num_groups=2, sample_size=32,
        scaling_factor=scaling_factor, **shape), seed)


def with_small_steps(pipeline):
    """Random UNets make latents diverge; a smaller output and a flatter picture keep differences visible."""
    for layer, factor in [(pipeline.unet.conv_out, 0.5), (pipeline.vae.decoder.conv_out, 0.5)]:
        layer.weight.data.mul_(factor)
    return pipeline


def stable_diffusion(kind, scheduler, tokenizer, text_encoder, unet, vae):
    return with_small_steps(kind(
        scheduler=scheduler, tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, vae=vae, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False))


def sd15():
    """Convolutions around the transformer blocks, one number of heads, PNDM."""
    tokenizer = clip_tokenizer()
    return stable_diffusion(
        diffusers.StableDiffusionPipeline,
        diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False),
        tokenizer, clip_text_model(tokenizer, 12, 31, eos_token_id=2),
        unet(32, **ATTENDS_FINE, layers_per_block=2, cross_attention_dim=12, attention_head_dim=2), vae(33, 0.18215))


def sd15_inpaint():
    """Nine input channels: latents, mask, latents of the masked picture. Two levels, DDIM."""
    tokenizer = clip_tokenizer()
    return stable_diffusion(
        diffusers.StableDiffusionInpaintPipeline,
        diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False),
        tokenizer, clip_text_model(tokenizer, 12, 41, eos_token_id=2),
        unet(42, in_channels=9, block_out_channels=(8, 12), cross_attention_dim=12, attention_head_dim=4,
             down_block_types=ATTENDS_FINE["down_block_types"][1:], up_block_types=ATTENDS_FINE["up_block_types"][:2]),
        vae(43, 0.18215))


def sd21():
    """Predicts v; linear layers around the transformer blocks, heads per level, GELU in the text encoder."""
    tokenizer = clip_tokenizer()
    return stable_diffusion(
        diffusers.StableDiffusionPipeline,
        diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"),
        tokenizer, clip_text_model(tokenizer, 16, 51, eos_token_id=2, hidden_act="gelu"),
        unet(52, **ATTENDS_FINE, cross_attention_dim=16, attention_head_dim=(2, 3, 5), use_linear_projection=True,
             upcast_attention=True),
        vae(53, 0.18215))


def sdxl():
    """Two text encoders, sizes as UNet inputs, 0, 1 and 2 transformer blocks per level, Euler."""
    tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer()
    return with_small_steps(diffusers.StableDiffusionXLPipeline(
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
        tokenizer=tokenizer, text_encoder=clip_text_model(tokenizer, 12, 61, eos_token_id=2),
        tokenizer_2=tokenizer_2,
        text_encoder_2=clip_text_model(tokenizer_2, 16, 62, eos_token_id=2, hidden_act="gelu", projection_dim=14),
        unet=unet(63, **ATTENDS_COARSE, cross_attention_dim=28, attention_head_dim=(2, 3, 5), use_linear_projection=True,
                  transformer_layers_per_block=(0, 1, 2), addition_embed_type="text_time", addition_time_embed_dim=10,
                  projection_class_embeddings_input_dim=74),
        vae=vae(64, 0.13025, force_upcast=True)))


def save(pipeline, folder, pads=None):
    """Writes the layout of the published repositories.

    Their CLIP tokenizers have no tokenizer.json. `pads` names the padding token by tokenizer where it is not the end token;
    it stands in special_tokens_map.json, which outranks tokenizer_config.json (Stable Diffusion 2.1 relies on that).
    """
    folder = Path(folder)
    pipeline.save_pretrained(folder, safe_serialization=True)
    tiny_pipeline.with_published_clip_keys(folder / "text_encoder")
    for tokenizer in sorted(folder.glob("tokenizer*")):
        tiny_pipeline.write_older_clip_files(tokenizer)
        (tokenizer / "tokenizer.json").unlink()
        token = lambda text: {
            "content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        start, end = token("<|startoftext|>"), token("<|endoftext|>")
        pad = (pads or {}).get(tokenizer.name, "<|endoftext|>")
        write_json(tokenizer / "special_tokens_map.json", {
            "bos_token": start, "eos_token": end, "pad_token": pad, "unk_token": end})
        write_json(tokenizer / "tokenizer_config.json", {
            "add_prefix_space": False, "bos_token": {"__type": "AddedToken", **start}, "do_lower_case": True,
            "eos_token": {"__type": "AddedToken", **end}, "errors": "replace", "model_max_length": 77,
            "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer",
            "unk_token": {"__type": "AddedToken", **end}})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")
