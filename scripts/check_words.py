"""Counts phrases that we no longer use and lines that are too long, and fails when there are more of them than the
ceilings in `scripts/words.tsv` allow. `just check` runs it.

It reads the tracked files; in Rust it looks for phrases in comments and strings only. It skips generated files, and
migrations, which cannot change once an installation has applied them.

    python3 scripts/check_words.py                 # check
    python3 scripts/check_words.py --lower         # lower each ceiling to today's count; none is ever raised
    python3 scripts/check_words.py --show apart    # print the lines that a row counts
    python3 scripts/check_words.py --self-test
    python3 scripts/check_words.py --root DIR --counts   # print the counts of another checkout
"""

import argparse
import functools
import re
import subprocess
import sys
from pathlib import Path

from rust_text import split

HERE = Path(__file__).resolve()
CEILINGS = HERE.parent / "words.tsv"
LONGEST = 120
ENDINGS = (".rs", ".md", ".sql", ".py", ".sh")
OTHER_FILES = ("justfile", "justw")
SKIPPED = (
    "migrations/", "target/", ".",
    # Written by programs.
    "bench/results/", "domain/tests/database/dumps/",
    # They name the phrases themselves.
    "scripts/check_words.py", "scripts/words.tsv",
)
LONG_LINES = re.compile(r"lines over 120 columns in \*(\.\w+)")


def rows(text):
    """Ceiling, phrase (what a person reads) and pattern of each line."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            ceiling, phrase, pattern, _ = (line.split("\t") + ["", "", ""])[:4]
            yield int(ceiling), phrase, pattern


def tracked(root):
    try:
        listed = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True, check=True)
        names = [name for name in listed.stdout.split("\0") if name]
    except subprocess.CalledProcessError:
        names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    for name in sorted(names):
        path = Path(name)
        if name.startswith(SKIPPED) or not (root / path).is_file():
            continue
        if path.suffix in ENDINGS or name in OTHER_FILES:
            yield name, (root / path).read_text(errors="replace")


@functools.cache
def prose(name, text):
    if name == "CONTRIBUTING.md":
        # Its table of words names the phrases.
        return re.sub(r"(?m)^\|.*", lambda row: " " * len(row.group()), text)
    return split(text)[1] if name.endswith(".rs") else text


def places(pattern, name, text):
    """Line numbers. A phrase may be broken over lines, of which the next begins with a comment mark."""
    gap = r"\s+(?:(?://[/!]?|#|--)\s+)?"
    for match in re.finditer(pattern.replace(" ", gap), prose(name, text), re.IGNORECASE):
        yield text.count("\n", 0, match.start()) + 1


def long_lines(ending, name, text):
    if name.endswith(ending):
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > LONGEST:
                yield number


def found(phrase, pattern, files):
    lines = LONG_LINES.fullmatch(phrase)
    for name, text in files:
        for number in long_lines(lines.group(1), name, text) if lines else places(pattern, name, text):
            yield name, number, text.splitlines()[number - 1].strip()


def self_test():
    cases = [
        ("x.md", "It goes\nwith its model.", r"\bgoes with\b", [1]),
        ("x.rs", "// One goes\n// with it\nf(\"goes with\"); goes with;", r"\bgoes with\b", [1, 3]),
        ("x.rs", "fn told() { r#\"told\"#; 'a' }", r"\btold\b", [1]),
        ("x.sh", "# Told, and tolder", r"\btold\b", [1]),
        ("x.rs", "fn retold() {}", r"\btold\b", []),
    ]
    wrong = [case for case in cases if list(places(case[2], case[0], case[1])) != case[3]]
    text = "a" * 120 + "\n" + "ü" * 121
    if list(long_lines(".md", "x.md", text)) != [2] or list(long_lines(".rs", "x.md", text)):
        wrong.append("long lines")
    if over({"a": 2, "b": 1}, [(1, "a", ""), (1, "b", "")]) != [("a", 2, 1)]:
        wrong.append("ceilings")
    if wrong:
        raise SystemExit(f"check_words: the self-test failed: {wrong}")


def over(counts, ceilings):
    return [(phrase, counts[phrase], most) for most, phrase, _ in ceilings if counts[phrase] > most]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=HERE.parents[1])
    parser.add_argument("--lower", action="store_true")
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--show", metavar="PHRASE")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    self_test()
    if arguments.self_test:
        print("check_words: all cases pass")
        return
    ceilings = list(rows(CEILINGS.read_text()))
    files = list(tracked(arguments.root))
    if arguments.show:
        for _, phrase, pattern in ceilings:
            if phrase == arguments.show:
                for name, number, line in found(phrase, pattern, files):
                    print(f"{name}:{number}: {line}")
        return
    counts = {phrase: len(list(found(phrase, pattern, files))) for _, phrase, pattern in ceilings}
    if arguments.counts:
        for phrase, count in counts.items():
            print(f"{count}\t{phrase}")
        return
    faults = over(counts, ceilings)
    for phrase, count, most in faults:
        print(f"check_words: {phrase}: {count}, and at most {most} are allowed; `--show '{phrase}'` lists them",
              file=sys.stderr)
    if arguments.lower:
        lines = CEILINGS.read_text().splitlines()
        for place, line in enumerate(lines):
            if line and not line.startswith("#"):
                ceiling, phrase, *rest = line.split("\t")
                lines[place] = "\t".join([str(min(int(ceiling), counts[phrase])), phrase, *rest])
        CEILINGS.write_text("\n".join(lines) + "\n")
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
