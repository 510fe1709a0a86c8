"""Generates a Pyrograph picture again in diffusers and peft, from the recipe in its PNG, and compares the two.

    python tests/reference/remake_in_diffusers.py PICTURE.png --model FOLDER [--lora ADAPTER.safetensors ...]

Pass the model's folder and the adapters that the picture was generated with; adapters are identified by their SHA-256.
Exit status 1 if a value differs by more than one level of 255.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", DIFFUSERS_VERBOSITY="error", TRANSFORMERS_VERBOSITY="error")

import numpy
import torch
from diffusers import FluxPipeline
from PIL import Image


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lora", type=Path, action="append", default=[])
    return parser.parse_args()


def attach(pipeline, wanted, files):
    """Loads the adapters that the picture names, each with its scale."""
    by_hash = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in files}
    names, scales = [], []
    for i, adapter in enumerate(wanted):
        if adapter["sha256"] not in by_hash:
            sys.exit(f"the picture was made with the adapter {adapter['name']}, which is none of the files given")
        file = by_hash[adapter["sha256"]]
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=f"adapter{i}", local_files_only=True)
        names.append(f"adapter{i}")
        scales.append(adapter["scale"])
    if names:
        pipeline.set_adapters(names, scales)
        layers = sum("lora_A" in name for name, _ in pipeline.transformer.named_parameters())
        print(f"{len(names)} adapter(s) on {layers} layers")


def remake(pipeline, recipe):
    cfg = recipe["true_cfg_scale"]
    return pipeline(
        recipe["prompt"],
        # We treat a missing negative prompt as ""; FluxPipeline would skip guidance.
        negative_prompt=(recipe["negative_prompt"] or "") if cfg > 1 else None,
        true_cfg_scale=cfg, guidance_scale=recipe["guidance_scale"], num_inference_steps=recipe["num_inference_steps"],
        width=recipe["width"], height=recipe["height"],
        max_sequence_length=min(512, pipeline.tokenizer_2.model_max_length),
        generator=torch.Generator("cpu").manual_seed(recipe["seed"]), output_type="np").images[0]


def main():
    asked = arguments()
    picture = Image.open(asked.picture)
    recipe = json.loads(picture.text["pyrograph"])
    pipeline = FluxPipeline.from_pretrained(asked.model, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    attach(pipeline, recipe["loras"], asked.lora)
    with torch.inference_mode():
        theirs = remake(pipeline, recipe)
    ours = numpy.asarray(picture.convert("RGB")).astype(numpy.int32)
    levels = numpy.abs(ours - (theirs * 255).round().astype(numpy.int32))
    print(f"{recipe['model']['name']}, seed {recipe['seed']}: largest difference {levels.max()} of 255, "
          f"{(levels > 0).mean():.2%} of the values differ")
    sys.exit(int(levels.max() > 1))


if __name__ == "__main__":
    main()
