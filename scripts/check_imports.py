"""Fails when the modules of a crate import each other in a circle. `just check` runs it.

A module is a file. It imports another one when a `use` or a path in its code names an item of the other; a re-exported
name counts for the module that defines it. A module and the modules below it may use each other, as is usual in Rust.
Unit tests (`#[cfg(test)] mod … { … }`) are ignored.

    python3 scripts/check_imports.py                # the crates of this repository
    python3 scripts/check_imports.py --edges CRATE  # also print which module imports which
    python3 scripts/check_imports.py --self-test
    python3 scripts/check_imports.py --root DIR     # another checkout
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from rust_text import split

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
MODULE = re.compile(rf"((?:#\[[^\]]*\]\s*)*)(?:pub(?:\([^)]*\))?\s+)?mod\s+({NAME})\s*(;|\{{)")
PATH_ATTRIBUTE = re.compile(r"#\[path\s*=")
USE = re.compile(r"\buse\s+([^;]+);")
PATH = re.compile(rf"(?<![\w:.])({NAME}(?:\s*::\s*{NAME})+)")
TARGET_FOLDERS = ("examples", "tests", "benches", "src/bin")


class Module:
    def __init__(self, path, file, code):
        self.path, self.file, self.code = path, file, code
        self.children = set()
        # The name here, and the path that it stands for.
        self.names = {}
        self.globs = []


def roots(crate):
    """The files in which a target of the crate begins."""
    fixed = [crate / "src/lib.rs", crate / "src/main.rs"]
    found = [file for file in fixed if file.is_file()]
    for folder in TARGET_FOLDERS:
        found += sorted((crate / folder).glob("*.rs")) + sorted((crate / folder).glob("*/main.rs"))
    # The system tests keep theirs in `journeys/`, named in Cargo.toml.
    for path in re.findall(r'^path\s*=\s*"([^"]+\.rs)"', (crate / "Cargo.toml").read_text(), re.MULTILINE):
        found.append(crate / path)
    return list(dict.fromkeys(found))


def without_unit_tests(code):
    """Blanks `#[cfg(test)] mod … { … }`."""
    while True:
        match = re.search(rf"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod\s+{NAME}\s*\{{", code)
        if not match:
            return code
        end = closing(code, match.end() - 1)
        code = code[: match.start()] + re.sub(r"[^\n]", " ", code[match.start() : end]) + code[end:]


def closing(code, opening):
    """Where the block that opens here has ended."""
    depth = 0
    for place in range(opening, len(code)):
        depth += {"{": 1, "}": -1}.get(code[place], 0)
        if depth == 0:
            return place + 1
    return len(code)


def read(root):
    """All modules of a target by path; the root's path is empty."""
    modules = {}

    def add(path, file, folder):
        source = file.read_text()
        code = without_unit_tests(split(source)[0])
        module = modules[path] = Module(path, file, code)
        for _, name, opening in MODULE.findall(code):
            if opening == "{":
                continue
            below = [folder / f"{name}.rs", folder / name / "mod.rs"]
            child = next((candidate for candidate in below if candidate.is_file()), None)
            if child is None:
                # `#[path = "…"]`; the attribute's string is prose to `split`.
                named = re.search(rf'#\[path\s*=\s*"([^"]+)"\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+{name}\s*;', source)
                child = file.parent / named.group(1) if named else None
            if child is None or not child.is_file():
                raise SystemExit(f"check_imports: {file} has `mod {name}`, and no file for it is found")
            module.children.add(name)
            add((*path, name), child, child.parent if child.name == "mod.rs" else folder / name)

    add((), root, root.parent)
    for module in modules.values():
        for tree in USE.findall(module.code):
            for path, name in leaves(re.sub(r"\s+", " ", tree).strip()):
                if name == "*":
                    module.globs.append(path)
                else:
                    module.names[name] = path
    return modules


def leaves(tree, before=()):
    """The paths of a `use` tree, each with the name that it binds; `*` for all names of a path."""
    tree = tree.strip()
    if "{" not in tree:
        path, _, alias = (part.strip() for part in tree.partition(" as "))
        parts = tuple(part.strip() for part in path.split("::") if part.strip())
        if parts and parts[-1] == "*":
            yield before + parts[:-1], "*"
        elif parts and parts[-1] == "self":
            whole = before + parts[:-1]
            if whole:
                yield whole, alias or whole[-1]
        elif parts:
            yield before + parts, alias or parts[-1]
        return
    head, _, rest = tree.partition("{")
    prefix = before + tuple(part.strip() for part in head.split("::") if part.strip())
    depth, start = 0, 0
    inner = rest[: rest.rindex("}")]
    for place, character in enumerate(inner + ","):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            if inner[start:place].strip():
                yield from leaves(inner[start:place], prefix)
            start = place + 1


def resolve(modules, here, path, seen=frozenset()):
    """The module that defines what a path means in the module `here`; None if that is in another crate."""
    if not path or (here, path[0], len(path)) in seen or len(seen) > 100:
        return None
    seen = seen | {(here, path[0], len(path))}
    first, rest = path[0], path[1:]
    if first == "crate":
        return below(modules, (), rest, seen)
    if first == "self":
        return below(modules, here, rest, seen)
    if first == "super":
        return below(modules, here[:-1], rest, seen) if here else None
    module = modules[here]
    if first in module.children:
        return below(modules, here + (first,), rest, seen)
    # `use x::x` names something of the crate `x`, and not itself.
    if first in module.names and module.names[first][0] != first:
        return resolve(modules, here, module.names[first] + rest, seen)
    return None


def below(modules, at, path, seen):
    """The module that defines `path` as seen from the module `at`."""
    if not path:
        return at
    first, rest = path[0], path[1:]
    if first == "super":
        return below(modules, at[:-1], rest, seen) if at else None
    module = modules[at]
    if first in module.children:
        return below(modules, at + (first,), rest, seen)
    if first in module.names and module.names[first][0] != first:
        return resolve(modules, at, module.names[first] + rest, seen)
    if re.search(rf"\b(?:fn|struct|enum|trait|type|const|static|union|macro_rules!)\s+{first}\b", module.code):
        return at
    for glob in module.globs:
        source = resolve(modules, at, glob, seen)
        if source is not None and source != at:
            mark = (source, "*", path)
            found = below(modules, source, path, seen | {mark}) if mark not in seen else None
            if found is not None and (found != source or first in re.findall(NAME, modules[source].code)):
                return found
    return at


def imports(modules):
    """Which module imports which, without imports between a module and those below it."""
    edges = {path: set() for path in modules}
    for here, module in modules.items():
        paths = [path for path in module.names.values()] + list(module.globs)
        code = USE.sub(" ", module.code)
        paths += [tuple(part.strip() for part in path.split("::")) for path in PATH.findall(code)]
        for path in paths:
            target = resolve(modules, here, path)
            if target is None or target not in modules:
                continue
            if target[: len(here)] == here or here[: len(target)] == target:
                continue
            edges[here].add(target)
    return edges


def circles(edges):
    """Sets of modules that reach each other (strongly connected components of more than one, after Tarjan)."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        for target in sorted(edges[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in on_stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = set()
            while not component or node not in component:
                component.add(stack.pop())
            on_stack.difference_update(component)
            if len(component) > 1:
                found.append(component)

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def title(path):
    return "::".join(path) or "(root)"


def crates(root):
    """The folders of this repository that have a Cargo.toml with a package."""
    found = []
    for manifest in sorted(root.rglob("Cargo.toml")):
        if any(part in ("target", "node_modules") or part.startswith(".") for part in manifest.relative_to(root).parts):
            continue
        if "[package]" in manifest.read_text():
            found.append(manifest.parent)
    return found


def check(root, shown=None):
    """The circles of all crates, one sentence each."""
    faults = []
    for crate in crates(root):
        name = str(crate.relative_to(root))
        for file in roots(crate):
            modules = read(file)
            edges = imports(modules)
            if shown == name:
                print(f"{file.relative_to(root)}:")
                for path, targets in sorted(edges.items()):
                    print(f"  {title(path)} -> {', '.join(map(title, sorted(targets))) or 'none'}")
            for component in circles(edges):
                inside = [
                    f"    {title(path)} imports {', '.join(title(to) for to in sorted(edges[path] & component))}"
                    for path in sorted(component)
                ]
                title_line = f"{file.relative_to(root)}: {len(component)} modules import each other in a circle:"
                faults.append("\n".join([title_line, *inside]))
    return faults


LIB = "mod a; mod b; pub use b::B;"
# Name, number of circles, files.
CASES = [
    ("each other", 1, {"lib": LIB, "a": "use crate::b::B;", "b": "use crate::a::A; pub struct B;"}),
    ("one way only", 0, {"lib": LIB, "a": "use crate::b::B; pub struct A;", "b": "pub struct B;"}),
    ("a path in an expression", 1, {"lib": LIB, "a": "fn f() { crate::b::g(); }", "b": "use super::a::f; fn g() {}"}),
    ("a re-export", 1, {"lib": LIB, "a": "use crate::B; fn f() {}", "b": "use crate::{a::{self, f}}; pub struct B;"}),
    ("an imported module", 1, {"lib": LIB, "a": "use crate::b; fn f() { b::g() }", "b": "use crate::a::f; fn g() {}"}),
    ("comments, strings", 0, {"lib": LIB, "a": 'fn f() { r#"crate::b"# } // crate::b', "b": "use crate::a;"}),
    ("unit tests", 0, {"lib": LIB, "a": "#[cfg(test)] mod tests { use crate::b::B; }", "b": "use crate::a::f;"}),
    ("module and child", 0, {"lib": "mod a;", "a": "mod c; use c::C; struct A;", "a/c": "use super::A; pub struct C;"}),
    ("through a child", 1, {"lib": LIB, "a": "mod c; pub use c::C;", "a/c": "use crate::b;", "b": "use crate::a::C;"}),
    ("three", 1, {"lib": "mod a; mod b; mod c;", "a": "use crate::b;", "b": "use crate::c;", "c": "use crate::a;"}),
    ("a crate named like a module", 0, {"lib": LIB, "a": "use b::B;", "b": "use ::a::A; use a::X;"}),
]


def circles_of(files):
    with tempfile.TemporaryDirectory() as folder:
        crate = Path(folder)
        (crate / "Cargo.toml").write_text("[package]")
        for name, text in files.items():
            file = crate / "src" / f"{name}.rs"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return len(check(crate))


def self_test():
    counts = [(name, circles_of(files), wanted) for name, wanted, files in CASES]
    wrong = [f"{name}: {found} instead of {wanted}" for name, found, wanted in counts if found != wanted]
    if wrong:
        raise SystemExit("check_imports: the self-test failed: " + "; ".join(wrong))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--edges", metavar="CRATE")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    sys.setrecursionlimit(10_000)
    self_test()
    if arguments.self_test:
        print(f"check_imports: all {len(CASES)} cases pass")
        return
    faults = check(arguments.root, arguments.edges)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        raise SystemExit(f"check_imports: {len(faults)} circles; move the shared part to a new module below them")


if __name__ == "__main__":
    main()
