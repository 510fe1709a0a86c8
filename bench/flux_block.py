"""One FLUX double block at the size of a laptop, forward and backward: ours and diffusers'."""

import sys

from turns import Side, compare


def measure(report, root, build):
    ours = Side(build / "examples/flux_block")
    theirs = Side(sys.executable, root / "bench/peers/flux_block.py")
    try:
        for name, label, goal in [("forward", "forward", 1.9), ("training", "forward and backward", 1.7)]:
            compare(report, f"FLUX double block, {label}", name, goal, ours, theirs, rounds=9, per_round=4)
    finally:
        ours.close()
        theirs.close()
