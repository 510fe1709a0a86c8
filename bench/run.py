"""`just bench`: every figure with a goal, in one run. Arguments select parts: block, networks, loading, service.

Runs in .venv-bench (bench/setup.sh) on release builds of the binary and of the examples named here.
"""

import os
import sys
from pathlib import Path

import flux_block
import loading
import networks
import service
from report import Report

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PARTS = {"block": flux_block.measure, "networks": networks.measure, "loading": loading.measure, "service": service.measure}


def main():
    wanted = sys.argv[1:] or list(PARTS)
    report = Report(ROOT)
    for name in wanted:
        try:
            PARTS[name](report, ROOT, BUILD)
        except Exception as error:  # A failing part must not lose the figures of the others.
            report.failed(name, f"{type(error).__name__}: {error}")
    report.write()


if __name__ == "__main__":
    main()
