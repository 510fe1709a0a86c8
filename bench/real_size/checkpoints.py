"""Writes checkpoints at their published sizes with random weights: FLUX.1-dev (33 GB, bf16), SDXL (7 GB, f16) and
Stable Diffusion 1.5 (4 GB, f32). Memory and speed do not depend on trained values.

    python3 bench/real_size/checkpoints.py FOLDER [flux|flux-short|sdxl|sd15 …]

Names and shapes come from the lists of published keys in `diffusion/tests/goldens/keys/`, configs from
`formats/configs/`, and tokenizers and `model_index.json` from the tiny pipelines. An existing checkpoint is kept.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "diffusion/tests/goldens"
CONFIGS = ROOT / "formats/configs"
DENOISER = "diffusion_pytorch_model"
TEXT_ENCODER = "model"

# For each part: the list of its keys, its config, and the stem of its file.
MODELS = {
    "flux": ("BF16", "flux-tiny", "flux_dev_scheduler", {
        "transformer": ("flux_dev.transformer", "flux_dev_transformer", DENOISER),
        "text_encoder": ("clip_l", "clip_l", TEXT_ENCODER),
        "text_encoder_2": ("t5_xxl", "t5_xxl", TEXT_ENCODER),
        "vae": ("flux.vae", "flux_vae", DENOISER),
    }),
    "sdxl": ("F16", "sdxl-tiny", "sdxl_scheduler", {
        "unet": ("sdxl.unet", "sdxl_unet", DENOISER),
        "text_encoder": ("clip_l", "clip_l", TEXT_ENCODER),
        "text_encoder_2": ("open_clip_big_g", "open_clip_big_g", TEXT_ENCODER),
        "vae": ("vae", "sdxl_vae", DENOISER),
    }),
    "sd15": ("F32", "sd15-tiny", "sd1_scheduler", {
        "unet": ("sd1.unet", "sd1_unet", DENOISER),
        "text_encoder": ("clip_l", "clip_l", TEXT_ENCODER),
        "vae": ("vae", "sd1_vae", DENOISER),
    }),
}

# FLUX.1-dev with a fifth of its blocks, which fits into memory in 16 bits. For each part: its config's differences.
MODELS["flux-short"] = MODELS["flux"]
SHORTER = {"flux-short": {"transformer": {"num_layers": 4, "num_single_layers": 8}}}

# Values of a normal distribution, from which each tensor takes a run.
NOISE = numpy.random.default_rng(1).standard_normal(1 << 24, dtype=numpy.float32)


def stored(values, dtype):
    if dtype == "BF16":
        return (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
    return values.astype({"F16": numpy.float16, "F32": numpy.float32}[dtype])


def tensor(name, shape, dtype, at):
    """Pieces of a tensor's bytes: norms keep what they get, biases add nothing, and matrices halve the variance."""
    count = int(numpy.prod(shape))
    if len(shape) == 1:
        values = numpy.full(count, 1 if name.endswith("weight") else 0, dtype=numpy.float32)
        yield stored(values, dtype).tobytes()
        return
    scale = numpy.float32(0.5 / numpy.prod(shape[1:]) ** 0.5)
    while count:
        run = NOISE[at % 7919 :][:count]
        yield stored(run * scale, dtype).tobytes()
        count -= len(run)


def write(path, keys, dtype):
    size = {"BF16": 2, "F16": 2, "F32": 4}[dtype]
    header, end = {}, 0
    for name, shape in keys:
        start, end = end, end + size * int(numpy.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (name, shape) in enumerate(keys):
            for piece in tensor(name, shape, dtype, 31 * number):
                file.write(piece)


def keys_of(name, shorter):
    """Without the blocks that a shorter model does not have."""
    lengths = {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"}
    lengths = {blocks: shorter.get(field) for blocks, field in lengths.items()}
    for line in (GOLDENS / f"keys/{name}.txt").read_text().splitlines():
        key, shape = line.rsplit(" ", 1)
        blocks, number, *_ = key.split(".")
        if lengths.get(blocks) is None or int(number) < lengths[blocks]:
            yield key, [int(side) for side in shape.split("x")]


def make(model, folder):
    dtype, tiny, scheduler, parts = MODELS[model]
    if folder.exists():
        return
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part, (keys, config, stem) in parts.items():
        (unfinished / part).mkdir(parents=True)
        shorter = SHORTER.get(model, {}).get(part, {})
        published = json.loads((CONFIGS / f"{config}.json").read_text())
        (unfinished / part / "config.json").write_text(json.dumps(published | shorter))
        write(unfinished / part / f"{stem}.safetensors", list(keys_of(keys, shorter)), dtype)
    (unfinished / "scheduler").mkdir()
    shutil.copy(CONFIGS / f"{scheduler}.json", unfinished / "scheduler/scheduler_config.json")
    for tokenizer in (GOLDENS / tiny).glob("tokenizer*"):
        shutil.copytree(tokenizer, unfinished / tokenizer.name)
    if tiny == "flux-tiny":
        # The tiny pipeline's T5 reads 16 tokens.
        config = unfinished / "tokenizer_2/tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 512}))
    shutil.copy(GOLDENS / tiny / "model_index.json", unfinished)
    unfinished.rename(folder)


def main():
    folder, *models = sys.argv[1:]
    for model in models or MODELS:
        print(f"{model} …", flush=True)
        make(model, Path(folder) / model)


if __name__ == "__main__":
    main()
