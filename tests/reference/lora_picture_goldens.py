"""Whole pictures with a LoRA of each dialect and algorithm at scale 0, 0.5 and 1, on the tiny FLUX.1, SD 1.5 and SDXL.

    python tests/reference/lora_picture_goldens.py [OUT]

uses the cases of `lora_dialect_goldens.py`, whose files must exist, and further cases for Stable Diffusion. The
pictures come from diffusers with densely changed weights. Where diffusers and peft can read a file, their picture
must agree within one level of 255. One PNG a file: the three pictures side by side.
"""

import copy
import json
import sys
from pathlib import Path

import diffusers
import numpy
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import lora_dialect_goldens as dialects
from lora_dialect_goldens import ALPHA, RANK, ROOT, SCALES, Case, flat, of_blocks
from stable_diffusion_goldens import REQUEST

# ------------------------------------------------------------------------ algorithms on convolutions and linear layers


def by_layer(algorithm, kind=""):
    """A case with one of the algorithms of `write_layers`, on layers of the UNet's inner blocks."""
    def write(case):
        ends = ("to_q", "to_v", "to_out.0", "proj_in", "net.2", "conv1", "conv_shortcut", "downsamplers.0.conv")
        for path in of_blocks(case, *ends):
            weight = case.module("unet", path)[1].weight
            if any(side % 2 for side in weight.shape[:2]):
                continue  # a Kronecker product of halves
            tensors, delta = algorithm(case.draw, path, tuple(weight.shape))
            # Unscaled, they would overwhelm the picture.
            strongest = next(name for name in ("lora_up.weight", "hada_w1_a", "lokr_w1_a", "lokr_w1", "diff") if name in tensors)
            tensors[strongest], delta = tensors[strongest] * FAINT, delta * FAINT
            magnitude = None
            if kind:
                norms = weight.detach().flatten(1).norm(dim=1)
                magnitude = norms * (1 + case.draw(len(norms), by=0.1).abs())
                tensors["dora_scale"] = magnitude.view(-1, *[1] * (weight.ndim - 1))
            bias = tensors.get("diff_b")
            if bias is not None:
                bias = tensors["diff_b"] = bias * FAINT
                if case.module("unet", path)[1].bias is None:
                    del tensors["diff_b"]
                    bias = None
            case.file |= {f"lora_unet_{flat(path)}.{part}": tensor for part, tensor in tensors.items()}
            case.put("unet", path, delta, magnitude=magnitude, bias=bias)
    write.__name__ = f"sd_{algorithm.__name__}{kind}"
    return write


FAINT = 0.25


def sd_numbered(case):
    """kohya with the original numbering, as sd-scripts writes XL."""
    for original, path in [
        ("input_blocks.4.0.in_layers.2", "down_blocks.1.resnets.0.conv1"),
        ("input_blocks.4.1.proj_in", "down_blocks.1.attentions.0.proj_in"),
        ("input_blocks.4.1.transformer_blocks.0.attn1.to_q", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
        ("middle_block.1.transformer_blocks.1.attn2.to_v", "mid_block.attentions.0.transformer_blocks.1.attn2.to_v"),
        ("middle_block.1.transformer_blocks.0.ff.net.2", "mid_block.attentions.0.transformer_blocks.0.ff.net.2"),
        ("output_blocks.1.1.transformer_blocks.0.attn2.to_out.0", "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0"),
    ]:
        case.low_rank(f"lora_unet_{flat(original)}", "unet", [path], alpha=ALPHA)
    for prefix, network in dialects.te_numbers(case):
        for path in dialects.CLIP:
            case.low_rank(prefix + flat(path), network, [path], alpha=ALPHA)


# ------------------------------------------------------------------------------------------------------------ pictures

FLUX_REQUEST = {"prompt": REQUEST["prompt"], "num_inference_steps": 3, "guidance_scale": 3.5, "seed": 1234, "height": 32, "width": 48}
SD_REQUEST = {**REQUEST, "num_inference_steps": 3, "guidance_scale": 5.0}


def paint(pipeline, request):
    """`[height, width, 3]`, values 0..1"""
    call = {key: value for key, value in request.items() if key != "seed"}
    if hasattr(pipeline, "transformer"):
        call["max_sequence_length"] = pipeline.tokenizer_2.model_max_length
    with torch.no_grad():
        return pipeline(**call, generator=torch.Generator("cpu").manual_seed(request["seed"]), output_type="np").images[0]


def with_networks(pipeline, changed):
    pipeline = copy.copy(pipeline)
    pipeline.register_modules(**changed)
    return pipeline


def pictures(pipeline, case, request):
    painted = []
    for scale in SCALES:
        changed = {name: case.changes[name].apply(network, scale) for name, network in case.networks.items()}
        painted.append(paint(with_networks(pipeline, changed), request))
    return painted


def with_published_numbering(pipeline):
    """diffusers reads the original numbering by this; files have that of the published models."""
    if hasattr(pipeline, "unet"):
        pipeline.unet.register_to_config(layers_per_block=2)
    return pipeline


def in_diffusers(pipeline, path, request):
    """The same with diffusers and peft."""
    pipeline = with_published_numbering(copy.deepcopy(pipeline))
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="x", local_files_only=True)
    painted = []
    for scale in SCALES:
        pipeline.set_adapters(["x"], [scale])
        painted.append(paint(pipeline, request))
    return painted


def write_family(out, folder, name, kind, request, cases, first_seed, also):
    target = out / folder
    target.mkdir(parents=True)
    pipeline = kind.from_pretrained(ROOT / name, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    bare = paint(pipeline, request)
    for number, (write, read) in enumerate((cases | also).items()):
        case = Case(pipeline, write.__name__.removeprefix("sd_") if folder != "flux" else write.__name__, first_seed + number)
        write(case)
        tensors = {key: value.contiguous() for key, value in sorted(case.file.items())}
        if write in cases:
            path = ROOT / "lora-dialects" / folder / f"{case.name}.safetensors"
            there = load_file(path)
            assert there.keys() == tensors.keys() and all(torch.equal(there[key], tensors[key]) for key in there), path
        else:
            path = target / f"{case.name}.safetensors"
            save_file(tensors, path)
        painted = pictures(pipeline, case, request)
        effect = max(numpy.abs(painted[0] - one).max() for one in painted[1:])
        assert effect > 0.03, f"{case.name}: an adapter that does nothing proves nothing: {effect}"
        said = ""
        if read:
            far = max(numpy.abs(one - other).max() for one, other in zip(painted, in_diffusers(pipeline, path, request)))
            assert far <= 1 / 255, f"{folder} {case.name}: diffusers is {255 * far} levels off"
            said = f"(diffusers agrees within {255 * far:.2f} levels)"
        levels = numpy.concatenate([(255 * one).round().astype(numpy.uint8) for one in painted], axis=1)
        Image.fromarray(levels).save(target / f"{case.name}.png", optimize=True)
        print(folder, case.name, f"effect {255 * effect:.0f} levels", said)
    assert numpy.abs(bare - painted[0]).max() <= 1 / 255 or "dora" in case.name


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "lora-pictures"
    torch.set_num_threads(1)
    d = dialects
    write_family(out, "flux", "flux-tiny", diffusers.FluxPipeline, FLUX_REQUEST, {
        d.comfy: False, d.kohya: False, d.named_adapter: False, d.xlabs: True, d.onetrainer_old: False, d.onetrainer_new: False,
        d.legacy: False, d.peft_with_header: True, d.dora_peft: True, d.dora_kohya: False, d.hadamard: False, d.kronecker: False,
        d.lycoris_names: False, d.full: False}, 100, {})
    algorithms = {by_layer(d.tucker): False, by_layer(d.locon, "_dora"): False, by_layer(d.hada): False, by_layer(d.kron): False,
                  by_layer(d.difference): False}
    write_family(out, "sd15", "sd15-tiny", diffusers.StableDiffusionPipeline, SD_REQUEST, {
        d.sd_kohya: True, d.sd_peft: True, d.sd_legacy: True, d.sd_original: False}, 300, algorithms)
    write_family(out, "sdxl", "sdxl-tiny", diffusers.StableDiffusionXLPipeline, SD_REQUEST, {
        d.sd_kohya: True, d.sd_peft: True}, 300, {sd_numbered: True, **algorithms})
    (out / "requests.json").write_text(json.dumps({"flux": FLUX_REQUEST, "stable_diffusion": SD_REQUEST}, indent=2) + "\n")


if __name__ == "__main__":
    main()
