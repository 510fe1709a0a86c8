#!/usr/bin/env python3
"""Runs `cargo test` with the given arguments and counts what ran. Tests that lack a program are skipped by name
(tests/src/programs.rs); the last line counts them. With PYROGRAPH_SKIPS_ARE_FAILURES, any such skip is a failure."""

import os
import re
import subprocess
import sys
import tempfile

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed")


def main():
    passed = failed = 0
    with tempfile.NamedTemporaryFile("r", prefix="pyrograph-skips-") as skips:
        environment = os.environ | {"PYROGRAPH_SKIPS": skips.name}
        command = ["cargo", "test", *sys.argv[1:]]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, errors="replace") as run:
            for line in run.stdout:
                print(line, end="", flush=True)
                if result := RESULT.match(line):
                    passed += int(result[1])
                    failed += int(result[2])
        skipped = sorted(set(skips.read().splitlines()))
    # The test runner counts a skipped test as passed.
    passed -= len(skipped)
    print()
    for line in skipped:
        print(f"skipped for want of a program: {line}")
    code = run.returncode
    if skipped and os.environ.get("PYROGRAPH_SKIPS_ARE_FAILURES"):
        print("Here no test may be skipped: scripts/test_programs.sh must be able to install every program.")
        code = code or 1
    print(f"tests: {passed} passed, {failed} failed, {len(skipped)} skipped", flush=True)
    return code


sys.exit(main())
