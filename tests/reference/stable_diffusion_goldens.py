"""Writes Stable Diffusion's goldens under diffusion/tests/goldens: the outputs of diffusers and transformers on the
CPU.

    python tests/reference/stable_diffusion_goldens.py [OUT]

Two runs give the same bytes. Names that start with `txt2img`, `img2img`, `inpaint` are whole requests: inputs as
levels of 0..255, latents before the first and after each step, pictures as floats in [0, 1].
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", DIFFUSERS_VERBOSITY="error", TRANSFORMERS_VERBOSITY="error")

import diffusers
import numpy
import torch
from PIL import Image

import tiny_stable_diffusion
from flux_goldens import NEGATIVE_PROMPT, PROMPTS
from golden_file import Golden
from tiny_pipeline import perturb

HEIGHT, WIDTH = 32, 40
REQUEST = {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE_PROMPT, "num_inference_steps": 4, "seed": 1234,
           "height": HEIGHT, "width": WIDTH}


def text_goldens(golden, pipeline):
    """Token ids and embeddings of each prompt; each text encoder; one layer skipped; the negative prompt."""
    encoders = [(pipeline.tokenizer, pipeline.text_encoder)]
    two = hasattr(pipeline, "text_encoder_2")
    if two:
        encoders.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    for i, prompt in enumerate(PROMPTS):
        for n, (tokenizer, encoder) in enumerate(encoders, 1):
            ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            golden.put(f"text.{i}.ids.{n}", ids)
            if i == 0:
                output = encoder(ids, output_hidden_states=True)
                golden.put(f"text.{i}.last_hidden_state.{n}", output.last_hidden_state)
                golden.put(f"text.{i}.penultimate.{n}", output.hidden_states[-2])
        if two:
            embeds, _, pooled, _ = pipeline.encode_prompt(prompt, negative_prompt=NEGATIVE_PROMPT)
            golden.put(f"text.{i}.pooled_prompt_embeds", pooled)
        else:
            embeds, _ = pipeline.encode_prompt(prompt, "cpu", 1, True, NEGATIVE_PROMPT)
        golden.put(f"text.{i}.prompt_embeds", embeds)
    if two:
        skipped = pipeline.encode_prompt(PROMPTS[0], negative_prompt=NEGATIVE_PROMPT, clip_skip=1)[0]
        _, negative, _, negative_pooled = pipeline.encode_prompt(PROMPTS[0], negative_prompt=NEGATIVE_PROMPT)
        golden.put("text.negative_pooled_prompt_embeds", negative_pooled)
    else:
        # The output for clip_skip=1, which diffusers itself cannot compute with transformers 5: the text model moved.
        encoder = pipeline.text_encoder
        hidden = encoder(golden["text.0.ids.1"].long(), output_hidden_states=True).hidden_states[-2]
        skipped = encoder.final_layer_norm(hidden)
        _, negative = pipeline.encode_prompt(PROMPTS[0], "cpu", 1, True, NEGATIVE_PROMPT)
    golden.put("text.clip_skip.1", skipped)
    golden.put("text.negative_prompt_embeds", negative)


def unet_goldens(golden, unet, generator):
    """Two calls with a different time step for each sample: one on a size that halves evenly, one on odd sizes."""
    config, levels = unet.config, len(unet.config.block_out_channels)
    even = 2 ** (levels - 1)
    for name, height, width in [("even", 2 * even, even), ("odd", 7, 5)]:
        inputs = {
            "sample": torch.randn(2, config.in_channels, height, width, generator=generator),
            "timestep": torch.tensor([981.0, 41.5]),
            "encoder_hidden_states": torch.randn(2, 9, config.cross_attention_dim, generator=generator),
        }
        if config.time_cond_proj_dim:
            inputs["timestep_cond"] = torch.randn(2, config.time_cond_proj_dim, generator=generator)
        added = {}
        if config.addition_embed_type:
            width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            added["text_embeds"] = torch.randn(2, width, generator=generator)
            added["time_ids"] = torch.tensor([[1024.0, 768, 0, 0, 1024, 768], [512, 512, 16, 0, 640, 960]])
        for key, value in {**inputs, **added}.items():
            golden.put(f"unet.{name}.in.{key}", value)
        output = unet(**inputs, added_cond_kwargs=added or None, return_dict=False)[0]
        golden.put(f"unet.{name}.out", output)


def vae_goldens(golden, vae, generator):
    """Moments and a sample of pictures in [-1, 1], and random latents decoded."""
    image = torch.rand(2, 3, 24, 16, generator=generator) * 2 - 1
    golden.put("vae.image", image)
    posterior = vae.encode(image).latent_dist
    golden.put("vae.mean", posterior.mean)
    golden.put("vae.logvar", posterior.logvar)
    golden.put("vae.sample", posterior.sample(torch.Generator("cpu").manual_seed(3)))
    latents = torch.randn(posterior.mean.shape, generator=generator)
    golden.put("vae.latents", latents)
    golden.put("vae.decoded", vae.decode(latents, return_dict=False)[0])


def example_picture():
    """Ramps, a disc and some noise, as bytes."""
    rows, columns = numpy.mgrid[:HEIGHT, :WIDTH]
    disc = (rows - 14) ** 2 + (columns - 22) ** 2 < 80
    picture = numpy.stack([rows * 7, columns * 6, 200 * disc + 30], axis=-1)
    picture += numpy.random.RandomState(0).randint(0, 25, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(numpy.uint8))


def example_mask():
    """An L of white and grey that counts as white, beside a grey that counts as black; off the grid of the latents."""
    mask = numpy.zeros((HEIGHT, WIDTH), numpy.uint8)
    mask[5:27, 9:17] = 255
    mask[18:27, 9:34] = 140
    mask[2:6, 28:38] = 110
    return Image.fromarray(mask)


def request_goldens(golden, name, pipeline, pictures=1, **request):
    """`pictures` of one batch, with seeds s, s + 1, …"""
    pipeline.set_progress_bar_config(disable=True)
    seed = request.pop("seed")

    def record(_pipeline, step, timestep, state):
        golden.put(f"{name}.latents.{step}", state["latents"])
        golden.put(f"{name}.timestep.{step}", timestep)
        return state

    prepare = pipeline.prepare_latents

    def prepare_and_record(*arguments, **keywords):
        prepared = prepare(*arguments, **keywords)
        golden.put(f"{name}.latents.initial", prepared[0] if isinstance(prepared, tuple) else prepared)
        return prepared

    pipeline.prepare_latents = prepare_and_record
    generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(pictures)]
    images = pipeline(
        **request, num_images_per_prompt=pictures, generator=generators if pictures > 1 else generators[0],
        output_type="np", callback_on_step_end=record).images
    pipeline.prepare_latents = prepare
    golden.put(f"{name}.images", images)
    clipped = float(((images <= 0) | (images >= 1)).mean())
    assert clipped < 0.2 and images.std() > 0.05, f"{name} cannot show a difference: {clipped} {images.std()}"


def pipeline_goldens(golden, pipeline, guidance_scale):
    """Every kind of request that the pipeline supports, with its settings, by name."""
    xl = isinstance(pipeline, diffusers.StableDiffusionXLPipeline)
    kind = lambda name: getattr(diffusers, f"StableDiffusion{'XL' if xl else ''}{name}Pipeline")
    with_components = lambda name: kind(name)(**pipeline.components, **({} if xl else {"requires_safety_checker": False}))
    request = {**REQUEST, "guidance_scale": guidance_scale}
    sized = {"height": HEIGHT, "width": WIDTH}
    unsized = {key: value for key, value in request.items() if key not in sized}
    picture, mask = {"image": example_picture()}, {"mask_image": example_mask()}
    golden.put("picture", numpy.array(picture["image"]))
    golden.put("mask", numpy.array(mask["mask_image"]))

    requests = {}
    if pipeline.unet.config.in_channels == 4:
        requests["txt2img"] = request
        request_goldens(golden, "txt2img", pipeline, pictures=2, **request)
        requests["img2img"] = {**request, "strength": 0.6}
        request_goldens(golden, "img2img", with_components("Img2Img"), **unsized, strength=0.6, **picture)
    inpaint = with_components("Inpaint")
    for name, strength in [("inpaint", 1.0), ("inpaint_partly", 0.6)]:
        requests[name] = {**request, "strength": strength}
        request_goldens(golden, name, inpaint, **request, strength=strength, **picture, **mask)
    return requests


def folder_goldens(out, pipeline, seed, guidance_scale=7.5, pads=None):
    """Outputs of the pipeline in the folder."""
    tiny_stable_diffusion.save(pipeline, out, pads=pads)
    pipeline = type(pipeline).from_pretrained(out, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    golden, generator = Golden(), torch.Generator().manual_seed(seed)
    text_goldens(golden, pipeline)
    unet_goldens(golden, pipeline.unet, generator)
    vae_goldens(golden, pipeline.vae, generator)
    requests = pipeline_goldens(golden, pipeline, guidance_scale)
    golden.write(out / "reference.safetensors", prompts=PROMPTS, negative_prompt=NEGATIVE_PROMPT, requests=requests)


def lcm_unet(out):
    """What the pipelines do not cover: a guidance embedding, sines before cosines, per-level layers and blocks."""
    unet = tiny_stable_diffusion.unet(
        72, block_out_channels=(6, 8), layers_per_block=(1, 2), transformer_layers_per_block=(2, 1),
        cross_attention_dim=10, attention_head_dim=(3, 2), time_cond_proj_dim=7, flip_sin_to_cos=False, freq_shift=1,
        norm_eps=1e-3, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    unet.save_pretrained(out / "unet")
    golden = Golden()
    unet_goldens(golden, unet, torch.Generator().manual_seed(7))
    golden.write(out / "reference.safetensors")


def tiny_autoencoder(out):
    """AutoencoderTiny (TAESD), encoding and decoding."""
    taesd = perturb(diffusers.AutoencoderTiny(
        encoder_block_out_channels=(6, 6, 6), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 2, 1),
        num_decoder_blocks=(2, 1, 1), latent_channels=4, scaling_factor=0.9), 81)
    taesd.save_pretrained(out)
    golden, generator = Golden(), torch.Generator().manual_seed(8)
    image = torch.rand(2, 3, 24, 16, generator=generator) * 2 - 1
    latents = 2 * torch.randn(2, 4, 6, 4, generator=generator)
    golden.put("image", image)
    golden.put("encoded", taesd.encode(image).latents)
    golden.put("latents", latents)
    golden.put("decoded", taesd.decode(latents).sample)
    golden.put("scaled", taesd.scale_latents(latents))
    golden.put("unscaled", taesd.unscale_latents(golden["scaled"]))
    golden.write(out / "reference.safetensors")


def main():
    default = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    names = ["sd15-tiny", "sd15-inpaint-tiny", "sd21-tiny", "sdxl-tiny", "lcm-tiny", "taesd-tiny"]
    for name in names:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    torch.set_num_threads(1)  # The order of a sum must not depend on the machine.
    torch.manual_seed(0)  # Biases are perturbed from what the constructors draw.
    with torch.no_grad():
        folder_goldens(root / "sd15-tiny", tiny_stable_diffusion.sd15(), 1)
        folder_goldens(root / "sd15-inpaint-tiny", tiny_stable_diffusion.sd15_inpaint(), 2)
        folder_goldens(root / "sd21-tiny", tiny_stable_diffusion.sd21(), 3, pads={"tokenizer": "!"})
        folder_goldens(root / "sdxl-tiny", tiny_stable_diffusion.sdxl(), 4, guidance_scale=5.0, pads={"tokenizer_2": "!"})
        lcm_unet(root / "lcm-tiny")
        tiny_autoencoder(root / "taesd-tiny")
    size = sum(path.stat().st_size for name in names for path in (root / name).rglob("*") if path.is_file())
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}: {size / 1e6:.2f} MB in {root}")
    assert size < 2.5e6, "goldens have to stay small"


if __name__ == "__main__":
    main()
