"""One FLUX double block: ours and diffusers' in turns, so that both meet the same machine."""

import json
import os
import statistics
import subprocess
import time

ROUNDS, PER_ROUND = 9, 4


class Side:
    def __init__(self, *command):
        environment = os.environ | {"RAYON_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def times(self, name, count):
        # OpenMP's threads spin for a while after their work; the other side must not pay for that.
        time.sleep(0.2)
        print(name, count, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(report, root, build):
    ours = Side(build / "examples/flux_block")
    theirs = Side(root / ".venv-bench/bin/python", root / "bench/peers/flux_block.py")
    try:
        for name, goal in [("forward", 1.9), ("training", 1.7)]:
            pairs = {ours: [], theirs: []}
            for side in (ours, theirs):
                side.times(name, 3)
            for _ in range(ROUNDS):
                for side in (ours, theirs):
                    pairs[side] += side.times(name, PER_ROUND)
            mine, other = statistics.median(pairs[ours]), statistics.median(pairs[theirs])
            best = min(pairs[ours]) / min(pairs[theirs])
            label = {"forward": "forward", "training": "forward and backward"}[name]
            report.row(f"FLUX double block, {label}", f"{mine:.1f} ms", f"diffusers {other:.1f} ms",
                       f"{mine / other:.2f}× (fastest against fastest {best:.2f}×)", f"≤ {goal}×", mine / other <= goal)
    finally:
        ours.close()
        theirs.close()
