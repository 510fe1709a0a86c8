"""`just real-size [ROW …]`: models at their published sizes on the CPU, within budgets that people have.

Makes checkpoints with random weights (checkpoints.py), runs each row in a separate engine, and compares the peak of
the engine's memory, as the kernel counts it, with the budget and with the engine's estimate. Then measures how much
packed weights change a text encoder and the denoiser, and what streaming costs (examples/real_size.rs). Writes
results/<date>-real-size.md. Needs 50 GB of disk and 20 GB of memory; all rows take about two hours on 2 cores.
"""

import argparse
import datetime
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

import checkpoints  # noqa: E402
from report import cpu  # noqa: E402

GIB = 1 << 30
# For each row: the model, the side of the picture in pixels, and the budget. The last one is a training.
ROWS = {
    "flux-512-16": ("flux", 512, 16),
    "flux-256-10": ("flux", 256, 10),
    "flux-256-5": ("flux", 256, 5),
    "sdxl-1024-7": ("sdxl", 1024, 7),
    "sdxl-1024-5": ("sdxl", 1024, 5),
    "sd15-512-3": ("sd15", 512, 3),
    "flux-training-256-14": ("flux", 256, 14),
}
TITLES = {"flux": "FLUX.1-dev", "sdxl": "SDXL", "sd15": "SD 1.5"}
# What examples/real_size.rs measures, and on which checkpoint.
COMPARISONS = {"precision": "flux", "streaming": "flux-short"}
LARGEST_ESTIMATE = 1.15


class Engine:
    """The hidden command `pyrograph engine`, which speaks worker/src/protocol.rs: frames of JSON."""

    def __init__(self, binary, budget, log):
        self.log = open(log, "w+")
        command = [binary, "engine", "--device", "cpu", "--vram-budget", f"{budget}GiB"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        env=os.environ | {"PYROGRAPH_LOG": "info", "PYROGRAPH_LOG_FORMAT": "json"})
        source = (ROOT / "worker/src/protocol.rs").read_text()
        version = int(re.search(r"PROTOCOL_VERSION: u32 = (\d+)", source)[1])
        self.send({"type": "hello", "version": version})
        assert self.receive()["type"] == "ready"

    def send(self, order):
        text = json.dumps(order).encode()
        self.process.stdin.write(struct.pack("<I", len(text)) + text)
        self.process.stdin.flush()

    def receive(self):
        prefix = self.process.stdout.read(4)
        if len(prefix) < 4:
            raise RuntimeError(f"the engine ended with {self.process.wait()}: {self.logged()[-600:]}")
        (length,) = struct.unpack("<I", prefix)
        return json.loads(self.process.stdout.read(length))

    def follow(self):
        """Until the request has ended; returns seconds of each step."""
        steps, last = [], None
        while True:
            report = self.receive()
            if report["type"] == "progress":
                now = time.monotonic()
                steps.append(now - last if last else None)
                last = now
            if report["type"] == "failed":
                raise RuntimeError(report["message"])
            if report["type"] == "done":
                return steps

    def peak(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def logged(self):
        self.log.flush()
        return Path(self.log.name).read_text()

    def end(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.log.close()


def picture(base, side, output):
    params = {
        "prompt": "a big fox on a blue background", "negative_prompt": None, "num_images": 1, "num_inference_steps": 1,
        "guidance_scale": 3.5, "true_cfg_scale": 1.0, "width": side, "height": side, "image": None, "mask": None,
        "strength": None, "scheduler": None, "clip_skip": None, "preview_every": None, "output_quality": None}
    return {"type": "generate", "request": 1, "base": base, "loras": [], "params": params, "seed": 7,
            "output_dir": str(output)}


def training(base, side, output):
    example = output / "example.png"
    Image.radial_gradient("L").resize((side, side)).convert("RGB").save(example)
    params = {"trigger_word": None, "steps": 1, "rank": 16, "alpha": 16.0, "learning_rate": 1e-4, "batch_size": 1,
              "resolution": side, "seed": 7}
    return {"type": "train", "request": 1, "base": base, "examples": [{"path": str(example), "caption": "a fox"}] * 10,
            "params": params, "resume": None, "output_dir": str(output), "checkpoint_every": 1000, "metadata": {}}


def measure(name, binary, models, scratch):
    model, side, budget = ROWS[name]
    folder, output = models / model, scratch / name
    output.mkdir()
    base = {"folder": str(folder), "name": TITLES[model], "sha256": model}
    engine = Engine(binary, budget, scratch / f"{name}.log")
    start = time.monotonic()
    try:
        engine.send((training if "training" in name else picture)(base, side, output))
        engine.follow()
        peak, seconds = engine.peak(), time.monotonic() - start
        words = engine.logged()
    finally:
        engine.end()
    planned = next(line for line in map(json.loads, words.splitlines()) if "estimate" in line.get("fields", {}))
    how, estimate = planned["fields"]["how"], planned["fields"]["estimate"]
    return peak, estimate, seconds, how


def row(name, binary, models, scratch):
    model, side, budget = ROWS[name]
    what = f"{TITLES[model]} {'LoRA rank 16, ' if 'training' in name else ''}{side}², {budget} GiB"
    try:
        peak, estimate, seconds, how = measure(name, binary, models, scratch)
    except (RuntimeError, OSError) as error:
        print(f"{what}: {error}", flush=True)
        return f"| `{name}` | {what} | | | | | | **no**: {error} |", False
    ratio = estimate / peak
    holds = peak <= budget * GIB
    near = 1 <= ratio <= LARGEST_ESTIMATE
    figures = f"peak {peak / GIB:.2f} GiB, estimate {estimate / GIB:.2f} GiB ({ratio:.2f}×), {seconds:.0f} s, {how}"
    print(f"{what}: {figures}", flush=True)
    verdict = ("yes" if holds else "**no**", "yes" if near else "**no**")
    cells = [f"`{name}`", what, f"{peak / GIB:.2f} GiB", verdict[0], f"{estimate / GIB:.2f} GiB",
             f"{ratio:.2f}× {verdict[1]}", f"{seconds:.0f} s", how]
    return f"| {' | '.join(cells)} |", holds and near


def write(lines, figures, load):
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    path = ROOT / "bench/results" / f"{now:%Y-%m-%d}-real-size.md"
    text = [f"# Models at their real size, {now:%Y-%m-%d %H:%M} UTC", "",
            f"`just real-size` at {commit.stdout.strip()} on {cpu()}; load average {load:.2f} at the start, "
            f"{os.getloadavg()[0]:.2f} at the end.",
            "Random weights, one step. The peak is the engine's VmHWM.", "",
            "| row | request and budget | peak | within it | estimate | estimate / peak, 1 to 1.15 | time | how |",
            "|---|---|---|---|---|---|---|---|", *lines]
    if "precision" in figures:
        text += ["", "## Packed weights against full precision", "",
                 "Relative L2 of T5-XXL's text states and of one call of FLUX.1-dev's denoiser, and their times.", "",
                 "| network | stored as | relative L2 | time |", "|---|---|---|---|", *figures["precision"]]
    if "streaming" in figures:
        text += ["", "## Streamed blocks against resident ones", "",
                 "One call of a denoiser of FLUX.1-dev's widths with a fifth of its blocks, 512², in 16 bits. Its file",
                 "is not in the page cache. The best of three calls.", "",
                 "| blocks | time |", "|---|---|", *figures["streaming"]]
    path.write_text("\n".join(text) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join([*ROWS, *COMPARISONS])} (default: all)")
    parser.add_argument("--models", type=Path, default=ROOT / "out/real-size", help="where the checkpoints are or go")
    arguments = parser.parse_args()
    rows = arguments.rows or [*ROWS, *COMPARISONS]
    if unknown := [name for name in rows if name not in ROWS and name not in COMPARISONS]:
        parser.error(f"there is no row {unknown[0]}")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    load, lines, figures, good = os.getloadavg()[0], [], {}, True
    arguments.models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in rows:
            model = COMPARISONS.get(name) or ROWS[name][0]
            checkpoints.make(model, arguments.models / model)
            if name in COMPARISONS:
                measured = subprocess.run([target / "examples/real_size", name, arguments.models / model], check=True,
                                          stdout=subprocess.PIPE, text=True)
                figures[name] = measured.stdout.splitlines()
                print(measured.stdout, flush=True)
            else:
                line, held = row(name, target / "pyrograph", arguments.models, Path(scratch))
                lines.append(line)
                good = good and held
    write(lines, figures, load)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
