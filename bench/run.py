"""`just bench`: every figure with a goal, in one run. Arguments select parts: block, networks, loading, service.

Runs in .venv-bench (bench/setup.sh) on release builds of the binary and of the examples named here. `--tiny` tests that
every part still runs: on the development build, at a tiny size, without goals, and without writing the figures.
"""

import argparse
import os
import traceback
from pathlib import Path

import flux_block
import loading
import networks
import service
from report import Report

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"block": flux_block.measure, "networks": networks.measure, "loading": loading.measure, "service": service.measure}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    build = target / ("debug" if arguments.tiny else "release")
    report = Report(ROOT, arguments.tiny)
    for name in arguments.parts or PARTS:
        try:
            PARTS[name](report, ROOT, build)
        except Exception as error:  # A failing part must not lose the figures of the others.
            traceback.print_exc()
            report.failed(name, f"{type(error).__name__}: {error}")
    report.finish()


if __name__ == "__main__":
    main()
