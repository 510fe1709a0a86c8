"""Two processes that time the same work in turns, so that both run under the same load. They read "NAME COUNT" from
stdin and answer with COUNT times in milliseconds, as JSON."""

import json
import os
import statistics
import subprocess
import time


class Side:
    def __init__(self, *command):
        environment = os.environ | {"RAYON_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def times(self, name, count):
        # OpenMP's threads spin for a while after their work, which must not slow the other side down.
        time.sleep(0.2)
        print(name, count, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def peak(self):
        """Peak memory in MiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(report, what, name, goal, ours, theirs, rounds, per_round):
    """A row with the medians of both sides."""
    if report.tiny:
        rounds = per_round = 1
    times = {ours: [], theirs: []}
    for side in (ours, theirs):
        side.times(name, min(per_round, 3))
    for _ in range(rounds):
        for side in (ours, theirs):
            times[side] += side.times(name, per_round)
    mine, other = statistics.median(times[ours]), statistics.median(times[theirs])
    best = min(times[ours]) / min(times[theirs])
    report.row(what, f"{mine:.1f} ms", f"diffusers {other:.1f} ms",
               f"{mine / other:.2f}× (fastest against fastest {best:.2f}×)", f"≤ {goal}×", mine / other <= goal)
