"""Loading weights from the page cache: a file of 1 GiB in bf16, and ember."""

import json
import os
import statistics
import struct
import subprocess

ROUNDS = 5
LAYERS = 32


def matrices(path, width):
    """A safetensors file of square bf16 matrices with random bytes: 32 MiB each at a width of 4096."""
    matrix = 2 * width * width
    if path.exists() and path.stat().st_size > LAYERS * matrix:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {f"layers.{i}.weight": {"dtype": "BF16", "shape": [width, width], "data_offsets": [i * matrix, (i + 1) * matrix]}
              for i in range(LAYERS)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(LAYERS):
            # The top bit of each exponent stays clear, so no value is infinite or NaN.
            file.write(bytes(os.urandom(matrix)).translate(bytes(b & 0xBF for b in range(256))))


def loads(report, build, path):
    command = [build / "examples/load_weights", path]
    rounds = 1 if report.tiny else ROUNDS
    return [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(rounds)]


def measure(report, root, build):
    path = build / "bench" / "matrices.safetensors"
    matrices(path, 64 if report.tiny else 4096)
    size = path.stat().st_size
    path.read_bytes()  # into the page cache
    runs = loads(report, build, path)
    speed = statistics.median(size / run["seconds"] / 2**30 for run in runs)
    memory = max(run["anonymous_bytes"] / size for run in runs)
    report.row("1 GiB bf16 safetensors: speed", f"{speed:.2f} GiB/s", "", "", "≥ 0.5 GiB/s", speed >= 0.5)
    report.row("1 GiB bf16 safetensors: peak anonymous memory", f"{memory:.2f}× the file", "", "", "≤ 1.2×", memory <= 1.2)
    path.unlink()

    seconds = statistics.median(run["seconds"] for run in loads(report, build, root / "models" / "ember"))
    report.row("ember: load", f"{seconds:.2f} s", "", "", "≤ 1 s", seconds <= 1)
