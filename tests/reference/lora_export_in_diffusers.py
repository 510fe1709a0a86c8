"""Loads our exported adapters in diffusers and peft and compares the pictures with ours.

    python tests/reference/lora_export_in_diffusers.py            # build the example, check every export
    python tests/reference/lora_export_in_diffusers.py --goldens  # also write diffusion/tests/goldens/lora-export/

`export_adapter` writes every adapter of `lora-dialects/` and `lora-pictures/` in the dialects of kohya, PEFT and
ComfyUI. diffusers loads it and generates at scale 0.5 and 1; the tolerance to the golden picture of the adapter
itself is one level of 255. We refuse to write what a dialect has no names for; files that diffusers cannot read are
reported. Exit status 1 if a picture differs.

The goldens are the same adapters as saved by peft, for `diffusion/tests/parity/lora_export.rs`, which needs no Python.
"""

import inspect
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import numpy
import torch
from diffusers.loaders import lora_conversion_utils, lora_pipeline
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_picture_goldens import ROOT, SCALES, in_diffusers, with_published_numbering

REPOSITORY = ROOT.parents[2]
FAMILIES = {"flux": ("flux-tiny", diffusers.FluxPipeline), "sd15": ("sd15-tiny", diffusers.StableDiffusionPipeline),
            "sdxl": ("sdxl-tiny", diffusers.StableDiffusionXLPipeline)}
# Adapters that peft saves for the goldens: with magnitudes; with convolutions and an alpha other than the rank;
# with the original numbering.
SAVED = {"flux": "dora_peft", "sd15": "kohya", "sdxl": "numbered"}


def with_tiny_flux(width=48):
    """diffusers' converter hard-codes the width of FLUX.1; this replaces it by that of the tiny one."""
    name = "_convert_kohya_flux_lora_to_diffusers"
    source = inspect.getsource(getattr(lora_conversion_utils, name))
    source = source.replace("12288", str(4 * width)).replace("3072", str(width))
    exec(source, lora_conversion_utils.__dict__)
    setattr(lora_pipeline, name, getattr(lora_conversion_utils, name))


def readable(family, form, path):
    """The file as passed to diffusers; None and the reason if it cannot read it."""
    tensors = load_file(path)
    if any("hada_" in key or "lokr_" in key or ".diff" in key or "lora_mid" in key for key in tensors):
        return None, "no algorithm of diffusers"
    if any("dora_scale" in key for key in tensors):
        return None, "diffusers leaves the magnitudes of this dialect out"
    if any(key.endswith("lora_B.bias") for key in tensors):
        return None, "a bias beside layers without one"
    if form == "comfy":
        return None, "diffusers does not read the original names in ComfyUI's form"
    if family == "flux" and any("text_encoder_2" in key or "_te3_" in key for key in tensors):
        return None, "diffusers has no adapters on T5"
    if family == "flux" and any("lora_unet_final_layer" in key for key in tensors):
        return None, "diffusers forgets the layers outside of the blocks in this dialect"
    return tensors, ""


def main():
    subprocess.run(["cargo", "build", "--workspace", "--example", "export_adapter"], cwd=REPOSITORY, check=True)
    told = subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=REPOSITORY)
    program = Path(json.loads(told)["target_directory"]) / "debug" / "examples" / "export_adapter"
    with_tiny_flux()
    requests = json.loads((ROOT / "lora-pictures" / "requests.json").read_text())
    torch.set_num_threads(1)
    checked, failed = 0, 0
    for family, (folder, kind) in FAMILIES.items():
        pipeline = kind.from_pretrained(ROOT / folder, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        request = requests["flux" if family == "flux" else "stable_diffusion"]
        for golden in sorted((ROOT / "lora-pictures" / family).glob("*.png")):
            sources = [ROOT / place / family / f"{golden.stem}.safetensors" for place in ("lora-pictures", "lora-dialects")]
            source = next(path for path in sources if path.is_file())
            expected = numpy.split(numpy.asarray(Image.open(golden)).astype(int), len(SCALES), axis=1)
            for form in ("kohya", "peft", "comfy"):
                with tempfile.TemporaryDirectory() as scratch:
                    written = Path(scratch) / "written.safetensors"
                    run = subprocess.run([program, source, form, written], capture_output=True, text=True)
                    if run.returncode:
                        print(f"{family} {golden.stem} as {form}: not written: {run.stderr.strip().splitlines()[0]}")
                        continue
                    tensors, why = readable(family, form, written)
                    if tensors is None:
                        print(f"{family} {golden.stem} as {form}: {why}")
                        continue
                    metadata = header(written)
                    save_file(tensors, written, metadata=metadata or None)
                    painted = in_diffusers(pipeline, written, request)
                far = max(numpy.abs((255 * one).round() - there).max() for one, there in zip(painted, expected))
                checked, failed = checked + 1, failed + (far > 1)
                print(f"{family} {golden.stem} as {form}: {far:.0f} levels", "" if far <= 1 else "TOO FAR")
        if "--goldens" in sys.argv:
            save_golden(pipeline, family)
    print(f"{checked} exports rendered in diffusers, {failed} of them wrong")
    sys.exit(int(failed > 0 or checked < 28))


def header(path):
    bytes_ = path.read_bytes()
    return json.loads(bytes_[8:8 + int.from_bytes(bytes_[:8], "little")]).get("__metadata__")


def save_golden(pipeline, family):
    """The adapter as diffusers saves what peft holds after loading it."""
    pipeline = with_published_numbering(pipeline)
    name = SAVED[family]
    sources = [ROOT / place / family / f"{name}.safetensors" for place in ("lora-pictures", "lora-dialects")]
    source = next(path for path in sources if path.is_file())
    pipeline.load_lora_weights(str(source.parent), weight_name=source.name, adapter_name="default", local_files_only=True)
    networks = {part: network for part, network in pipeline.components.items()
                if getattr(network, "peft_config", None) and part != "scheduler"}
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(network) for part, network in networks.items()}
    (ROOT / "lora-export").mkdir(exist_ok=True)
    type(pipeline).save_lora_weights(
        ROOT / "lora-export", **layers, weight_name=f"{family}.safetensors",
        **{f"{part}_lora_adapter_metadata": network.peft_config["default"].to_dict() for part, network in networks.items()})
    path = ROOT / "lora-export" / f"{family}.safetensors"
    # The text model's name in files, wherever transformers keeps its layers.
    named = {key.replace("text_encoder.encoder.", "text_encoder.text_model.encoder."): value for key, value in load_file(path).items()}
    metadata = json.loads(header(path)["lora_adapter_metadata"])
    said = {key: value for key, value in metadata.items() if key.split(".")[1] in ("r", "lora_alpha", "rank_pattern", "alpha_pattern")}
    save_file(dict(sorted(named.items())), path, metadata={"lora_adapter_metadata": json.dumps(said, sort_keys=True)})
    print("saved", family, {part: len(state) for part, state in layers.items()}, said)


if __name__ == "__main__":
    main()
