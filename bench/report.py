"""The table of a run, and the file it is written to."""

import datetime
import os
import platform
import subprocess


def cpu():
    with open("/proc/cpuinfo") as info:
        names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


class Report:
    """`tiny`: the figures mean nothing, since everything runs once and as small as possible."""

    def __init__(self, root, tiny):
        self.root, self.tiny, self.lines, self.failures = root, tiny, [], []
        self.load = os.getloadavg()[0]

    def row(self, what, ours, peer, figure, goal, reached):
        """One measurement; `reached` is None if there is no goal."""
        verdict = {True: "yes", False: "**no**", None: ""}[reached]
        self.lines.append(f"| {what} | {ours} | {peer} | {figure} | {goal} | {verdict} |")
        print(f"{what}: {ours}" + (f", {peer}" if peer else "") + (f": {figure}" if figure else "") +
              (f" (goal {goal}: {'reached' if reached else 'missed'})" if goal and not self.tiny else ""), flush=True)

    def failed(self, what, error):
        self.lines.append(f"| {what} | not measured | | {error} | | |")
        print(f"{what}: not measured: {error}", flush=True)
        self.failures.append(what)

    def finish(self):
        if not self.tiny:
            self.write()
        if self.failures:
            raise SystemExit(f"not measured: {', '.join(self.failures)}")

    def write(self):
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=self.root, capture_output=True, text=True).stdout.strip()
        now = datetime.datetime.now(datetime.timezone.utc)
        path = self.root / "bench" / "results" / f"{now:%Y-%m-%d}.md"
        path.parent.mkdir(exist_ok=True)
        head = [
            f"# Benchmarks of {now:%Y-%m-%d %H:%M} UTC", "",
            f"`just bench` at {commit} on {cpu()}; load average {self.load:.2f} at the start, {os.getloadavg()[0]:.2f} at the end, nice {os.nice(0)}.",
            "Peers ran in the same minutes, in turns; figures are medians.", "",
            "| what | ours | peer | figure | goal | reached |", "|---|---|---|---|---|---|"]
        path.write_text("\n".join(head + self.lines) + "\n")
        print(f"written to {path.relative_to(self.root)}")
