"""Writes FLUX's goldens under diffusion/tests/goldens: the outputs of diffusers, peft and torch on the CPU.

    python tests/reference/flux_goldens.py [OUT]

Two runs give the same bytes. The tests in diffusion/tests/parity/ read these files and need no Python.
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", DIFFUSERS_VERBOSITY="error", TRANSFORMERS_VERBOSITY="error")

import diffusers
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

import gguf_goldens
import gradient_goldens
import key_lists
import lora_goldens
import noise_goldens
import tiny_pipeline
from golden_file import Golden

PROMPTS = [
    "a red fox in the snow",
    "Don't paint 3 OWLS, (mirrored); 'blue'... naïve café ☃!",
    "the small green turtle looks at the lighthouse, " * 12,
]
NEGATIVE_PROMPT = "blurry, low quality"


def text_goldens(golden, pipeline):
    """Token ids and embeddings, prompt by prompt: the second has odd characters, the third is too long for both."""
    length = pipeline.tokenizer_2.model_max_length
    for i, prompt in enumerate(PROMPTS):
        golden.put(f"text.{i}.clip_ids", pipeline.tokenizer(
            prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids)
        golden.put(f"text.{i}.t5_ids", pipeline.tokenizer_2(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids)
        embeds, pooled, _ = pipeline.encode_prompt(prompt, prompt, max_sequence_length=length)
        golden.put(f"text.{i}.prompt_embeds", embeds)
        golden.put(f"text.{i}.pooled_prompt_embeds", pooled)


def transformer_goldens(golden, pipeline, rows, columns, batch=2):
    """One call: random tokens on a non-square grid, a different time step for each sample, and each block's output."""
    transformer, generator = pipeline.transformer, torch.Generator().manual_seed(77)
    config = transformer.config
    inputs = {
        "hidden_states": torch.randn(batch, rows * columns, config.in_channels, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(batch, config.pooled_projection_dim, generator=generator),
        "timestep": torch.tensor([0.937, 0.25][:batch]),
        "img_ids": pipeline._prepare_latent_image_ids(batch, rows, columns, "cpu", torch.float32),
        "txt_ids": torch.zeros(7, 3),
    }
    if config.guidance_embeds:
        inputs["guidance"] = torch.tensor([3.5, 1.0][:batch])
    for name, value in inputs.items():
        golden.put(f"transformer.in.{name}", value)
    hooks = []
    for i, block in enumerate(transformer.transformer_blocks):
        hooks.append(block.register_forward_hook(lambda _m, _a, out, i=i: (
            golden.put(f"transformer.double.{i}.text", out[0]), golden.put(f"transformer.double.{i}.image", out[1]), None)[-1]))
    for i, block in enumerate(transformer.single_transformer_blocks):
        hooks.append(block.register_forward_hook(lambda _m, _a, out, i=i: (
            golden.put(f"transformer.single.{i}.text", out[0]), golden.put(f"transformer.single.{i}.image", out[1]), None)[-1]))
    golden.put("transformer.out", transformer(**inputs, return_dict=False)[0])
    for hook in hooks:
        hook.remove()
    return inputs


def vae_goldens(golden, pipeline):
    """Encoder moments of two pictures in [-1, 1], and random latents decoded."""
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(2, 3, 48, 32, generator=generator) * 2 - 1
    posterior = pipeline.vae.encode(image).latent_dist
    golden.put("vae.image", image)
    golden.put("vae.mean", posterior.mean)
    golden.put("vae.logvar", posterior.logvar)
    latents = torch.randn(2, *posterior.mean.shape[1:], generator=generator)
    golden.put("vae.latents", latents)
    golden.put("vae.decoded", pipeline.vae.decode(latents, return_dict=False)[0])


def scheduler_goldens(golden, pipeline):
    """Time steps and sigmas as FluxPipeline requests them, at the sequence lengths of several resolutions."""
    config = pipeline.scheduler.config
    for tokens, steps in [(16, 4), (1024, 7), (4096, 28)]:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
        mu = calculate_shift(tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
        sigmas = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).numpy()
        scheduler.set_timesteps(sigmas=sigmas, mu=mu)
        golden.put(f"scheduler.{tokens}.{steps}.sigmas", scheduler.sigmas)
        golden.put(f"scheduler.{tokens}.{steps}.timesteps", scheduler.timesteps)


def pipeline_goldens(golden, pipeline, **request):
    """Two pictures, seeds s and s + 1: latents after each step and the pictures as floats in [0, 1]."""
    def record(_pipeline, step, timestep, state):
        golden.put(f"pipeline.latents.{step}", state["latents"])
        golden.put(f"pipeline.timestep.{step}", timestep)
        return state

    seed = request.pop("seed")
    images = pipeline(
        **request, num_images_per_prompt=2, max_sequence_length=pipeline.tokenizer_2.model_max_length,
        generator=[torch.Generator("cpu").manual_seed(seed + i) for i in range(2)], output_type="np",
        callback_on_step_end=record).images
    golden.put("pipeline.images", images)
    clipped = float(((images <= 0) | (images >= 1)).mean())
    assert clipped < 0.2 and images.std() > 0.05, f"a picture that cannot show a difference: {clipped} {images.std()}"


def tiny(out):
    pipeline = tiny_pipeline.flux_tiny()
    tiny_pipeline.save(pipeline, out, shard_sizes={"transformer": "250KB", "text_encoder_2": "40KB"}, published_clip_keys=True)
    return reference(out, rows=5, columns=3, height=64, width=80, guidance_scale=3.5, seed=1234)


def tiny_cfg(out):
    pipeline = tiny_pipeline.flux_tiny_cfg()
    tiny_pipeline.save(pipeline.to(torch.bfloat16), out)
    return reference(out, rows=2, columns=6, height=48, width=32, true_cfg_scale=2.5, seed=7, negative_prompt=NEGATIVE_PROMPT)


def reference(out, rows, columns, **request):
    """Outputs of the pipeline in the folder, in f32 regardless of the files' dtype."""
    pipeline = diffusers.FluxPipeline.from_pretrained(out, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    request = {"prompt": PROMPTS[0], "num_inference_steps": 4, **request}
    golden = Golden()
    text_goldens(golden, pipeline)
    transformer_goldens(golden, pipeline, rows, columns)
    vae_goldens(golden, pipeline)
    scheduler_goldens(golden, pipeline)
    pipeline_goldens(golden, pipeline, **request)
    golden.write(out / "reference.safetensors", prompts=PROMPTS, request=request)
    return pipeline


def main():
    default = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for folder in ["flux-tiny", "flux-tiny-cfg", "lora", "gradients", "gguf", "keys"]:
        shutil.rmtree(root / folder, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # The order of a sum must not depend on the machine.
    torch.manual_seed(0)  # Biases are perturbed from what the constructors draw.
    with torch.no_grad():
        noise_goldens.write(root / "noise.safetensors")
        pipeline = tiny(root / "flux-tiny")
        tiny_cfg(root / "flux-tiny-cfg")
        lora_goldens.write(root / "lora", pipeline, PROMPTS[0])
    gradient_goldens.write(root / "gradients", root / "flux-tiny", PROMPTS)
    gguf_goldens.write(root / "gguf")
    key_lists.write(root / "keys")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}: {size / 1e6:.2f} MB in {root}")
    assert size < 20e6, "goldens have to stay small"


if __name__ == "__main__":
    main()
