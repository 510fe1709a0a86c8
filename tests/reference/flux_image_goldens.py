"""Image to image and inpainting by diffusers with the tiny FLUX pipelines; pictures and masks resized by Pillow.

    python tests/reference/flux_image_goldens.py [OUT]

reads the tiny pipelines under OUT (diffusion/tests/goldens) and writes OUT/flux-image.safetensors and
OUT/stretched.safetensors.
"""

import sys
from pathlib import Path

import diffusers
import numpy
import torch

from flux_goldens import NEGATIVE_PROMPT, PROMPTS
from golden_file import Golden
from stable_diffusion_goldens import example_mask, example_picture, request_goldens

SIZE = {"width": 48, "height": 32}
REQUEST = {"prompt": PROMPTS[0], "num_inference_steps": 4, "seed": 77, **SIZE}
TRUE_CFG = {"negative_prompt": NEGATIVE_PROMPT, "true_cfg_scale": 2.5}
# Strengths with and without a whole number of steps.
CASES = {
    "flux-tiny": {
        "img2img": {**REQUEST, "strength": 0.6, "guidance_scale": 3.5},
        "inpaint": {**REQUEST, "strength": 1.0, "guidance_scale": 3.5},
    },
    "flux-tiny-cfg": {
        "img2img": {**REQUEST, "strength": 0.75, **TRUE_CFG},
        "inpaint": {**REQUEST, "strength": 0.55, **TRUE_CFG},
    },
}


def flux(golden, root):
    picture, mask = (image().resize(tuple(SIZE.values())) for image in (example_picture, example_mask))
    golden.put("picture", numpy.array(picture))
    golden.put("mask", numpy.array(mask))
    for folder, requests in CASES.items():
        parts = diffusers.FluxPipeline.from_pretrained(root / folder, dtype=torch.float32, local_files_only=True).components
        kinds = {"img2img": diffusers.FluxImg2ImgPipeline, "inpaint": diffusers.FluxInpaintPipeline}
        for name, request in requests.items():
            images = {"image": picture} | ({"mask_image": mask} if name == "inpaint" else {})
            pipeline = kinds[name](**parts)
            length = pipeline.tokenizer_2.model_max_length
            request_goldens(golden, f"{folder}.{name}", pipeline, **request, **images, max_sequence_length=length)


def stretched(golden):
    """Larger, smaller, and each along one axis; the mask is then thresholded at one half."""
    picture, mask = example_picture(), example_mask()
    golden.put("picture", numpy.array(picture))
    golden.put("mask", numpy.array(mask))
    for width, height in [(64, 48), (16, 16), (64, 16)]:
        processor = diffusers.image_processor.VaeImageProcessor(vae_scale_factor=8)
        pixels = processor.preprocess(picture, height=height, width=width)
        golden.put(f"{width}x{height}.picture", pixels)
        masks = diffusers.image_processor.VaeImageProcessor(
            vae_scale_factor=8, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
        golden.put(f"{width}x{height}.mask", masks.preprocess(mask, height=height, width=width))


def main():
    default = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    torch.set_num_threads(1)
    with torch.no_grad():
        golden = Golden()
        flux(golden, root)
        golden.write(root / "flux-image.safetensors", requests=CASES)
        golden = Golden()
        stretched(golden)
        golden.write(root / "stretched.safetensors")


if __name__ == "__main__":
    main()
