#!/usr/bin/env python3
"""Checks the links from networks, schedulers and adapter algorithms to their reference implementations.

Each such file must have at least one permalink: a GitHub URL with a full commit hash and a line range. A link to lines
of a branch is an error anywhere in the crate, since the lines move with the next commit.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "diffusion" / "src"
FOLDERS = ["networks", "schedulers", "lora/update"]
# Files that only combine others.
WITHOUT_REFERENCE = {"networks/mod.rs", "schedulers/mod.rs"}

LINK = re.compile(r"https://github\.com/[^\s>)\"]+")
PERMALINK = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{40}/[\w./-]+#L(\d+)-L(\d+)")


def main() -> int:
    faults = []
    for path in sorted(SOURCES.rglob("*.rs")):
        name = path.relative_to(SOURCES).as_posix()
        permalinks = 0
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for link in filter(lambda link: "#L" in link, LINK.findall(line)):
                match = PERMALINK.fullmatch(link)
                if match and int(match[1]) <= int(match[2]):
                    permalinks += 1
                else:
                    faults.append(f"{path.relative_to(ROOT)}:{number}: no permalink with commit and lines: {link}")
        if any(name.startswith(f"{folder}/") for folder in FOLDERS) and name not in WITHOUT_REFERENCE and not permalinks:
            faults.append(f"{path.relative_to(ROOT)}: no permalink to a reference implementation")
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
