"""Whole pictures from variants of the tiny pipelines: FLUX.1-schnell, a latent consistency model, an autoencoder with
per-channel statistics.

    python tests/reference/pipeline_variant_goldens.py [OUT]

Each variant is a tiny pipeline with other settings, which the test sets too. The latent consistency model has a
separate UNet, which this script writes. The tiny pipelines must exist.
"""

import json
import sys
from pathlib import Path

import diffusers
import numpy
import torch
from PIL import Image

import tiny_stable_diffusion
from stable_diffusion_goldens import REQUEST

ROOT = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens"
STATISTICS = {"latents_mean": [-1.6574, 1.886, -1.383, 2.5155], "latents_std": [8.4927, 5.9022, 6.5498, 5.2299], "scaling_factor": 0.5}


def schnell(out):
    """No guidance embedding, no dynamic shift."""
    pipeline = diffusers.FluxPipeline.from_pretrained(ROOT / "flux-tiny-cfg", torch_dtype=torch.float32, local_files_only=True)
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
    assert not pipeline.transformer.config.guidance_embeds
    yield pipeline, {"prompt": REQUEST["prompt"], "num_inference_steps": 4, "guidance_scale": 0.0, "seed": 5, "height": 32, "width": 48}, {
        "max_sequence_length": pipeline.tokenizer_2.model_max_length}


def lcm(out):
    """The UNet takes the guidance scale as an input, and is called once a step."""
    unet = tiny_stable_diffusion.unet(
        92, block_out_channels=(4, 6), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=12, attention_head_dim=2, time_cond_proj_dim=8)
    unet.conv_out.weight.data.mul_(0.5)
    unet.save_pretrained(out / "lcm-unet")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        ROOT / "sd15-tiny", unet=unet, safety_checker=None, local_files_only=True)
    pipeline.scheduler = diffusers.LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", original_inference_steps=50)
    for scale in (1.0, 8.5):
        yield pipeline, {"prompt": REQUEST["prompt"], "num_inference_steps": 4, "guidance_scale": scale, "seed": 5, "height": 32, "width": 40}, {}


def statistics(out):
    """As Playground v2.5, scaled so that the tiny autoencoder's pictures stay visible. From noise and from a picture."""
    for kind, begin in [(diffusers.StableDiffusionXLPipeline, {}), (diffusers.StableDiffusionXLImg2ImgPipeline, {"strength": 0.6})]:
        pipeline = kind.from_pretrained(ROOT / "sdxl-tiny", local_files_only=True)
        pipeline.vae.register_to_config(**STATISTICS)
        request = {**REQUEST, "num_inference_steps": 4, "guidance_scale": 5.0, **begin}
        y, x = numpy.mgrid[0:32, 0:40]
        photo = Image.fromarray(numpy.stack([x * 6, y * 7, 0 * x + 90], axis=2).astype(numpy.uint8))
        yield pipeline, request, {"image": photo} if begin else {}


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "pipeline-variants"
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    requests = {}
    for variant in (schnell, lcm, statistics):
        painted = []
        for pipeline, request, more in variant(out):
            pipeline.set_progress_bar_config(disable=True)
            call = {key: value for key, value in request.items() if key != "seed"}
            if "image" in more:
                call = {key: value for key, value in call.items() if key not in ("height", "width")}
            with torch.no_grad():
                image = pipeline(**call, **more, generator=torch.Generator("cpu").manual_seed(request["seed"]), output_type="np").images[0]
            painted.append((255 * image).round().astype(numpy.uint8))
            requests.setdefault(variant.__name__, []).append(request)
        if len(painted) > 1:
            assert (painted[0].astype(int) - painted[1]).__abs__().max() > 8, variant.__name__
        assert all(len(numpy.unique(one)) > 50 for one in painted), f"{variant.__name__}: a picture of nothing"
        Image.fromarray(numpy.concatenate(painted, axis=1)).save(out / f"{variant.__name__}.png", optimize=True)
        print(variant.__name__, [one.shape for one in painted], [len(numpy.unique(one)) for one in painted])
    (out / "requests.json").write_text(json.dumps({"statistics_config": STATISTICS, **requests}, indent=2) + "\n")


if __name__ == "__main__":
    main()
