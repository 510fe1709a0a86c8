"""Networks at their published sizes, one call each, ours and diffusers': time and peak memory.

Each network has a separate pair of processes, so that the peak can be attributed to it. The peak includes the weights
and, for the peer, Python's own 100 to 400 MiB.
"""

import sys

from turns import Side, compare

# (name, what it is, goal, rounds, calls in a round)
NETWORKS = [
    ("unet", "SD 1.5 UNet, 256×256 pixels", 1.5, 7, 1),
    ("vae", "SD 1.5 VAE decode, 256×256 pixels", 1.5, 5, 1),
    ("clip", "CLIP-L, 77 tokens", 1.2, 9, 4),
    ("flux_double", "FLUX double block, width 3072, 768 tokens", 1.2, 7, 1),
    ("flux_single", "FLUX single block, width 3072, 768 tokens", 1.2, 7, 1),
]
MEMORY_GOAL = 1.2


def measure(report, root, build):
    for name, what, goal, rounds, per_round in NETWORKS:
        size = "tiny" if report.tiny else "published"
        ours = Side(build / "examples/networks", name, size)
        theirs = Side(sys.executable, root / "bench/peers/networks.py", name, size)
        try:
            compare(report, what, "forward", goal, ours, theirs, rounds, per_round)
            mine, other = ours.peak(), theirs.peak()
            report.row(f"{what}: peak memory", f"{mine:.0f} MiB", f"diffusers {other:.0f} MiB", f"{mine / other:.2f}×",
                       f"≤ {MEMORY_GOAL}×", mine / other <= MEMORY_GOAL)
        finally:
            ours.close()
            theirs.close()
