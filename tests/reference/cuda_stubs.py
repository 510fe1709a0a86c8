"""Lets `import torch` work from PyPI's CUDA wheel on a machine without the nvidia wheels.

That wheel links against about 2 GB of CUDA libraries that CPU computation never calls. The loader needs only their
names, version nodes and symbols, so this writes one empty shared object for each into torch/lib.
`torch.cuda.is_available()` is then False. The small `nvidia-cuda-runtime` wheel is real and must be installed.

Needs gcc and binutils. Run with the environment's own Python, after `pip install --no-deps torch`.
"""

import re
import subprocess
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

REAL = {"libcudart.so.13"}
# Symbols without a version node are recognised by their prefix; longer prefixes are tried first.
PREFIXES = {
    "libcublasLt": ["cublasLt"], "libcublas": ["cublas"], "libcudnn": ["cudnn"], "libcufft": ["cufft"],
    "libcurand": ["curand"], "libcusparseLt": ["cusparseLt"], "libcusparse": ["cusparse"], "libcusolver": ["cusolver"],
    "libnccl": ["nccl", "pncclx"], "libnvshmem_host": ["nvshmem"], "libnvrtc": ["nvrtc"], "libcufile": ["cuFile"],
    "libcupti": ["cupti"],
}


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def missing_libraries(libraries, folder):
    """Sonames of CUDA libraries that are linked against and missing."""
    wanted = set()
    for library in libraries:
        wanted |= set(re.findall(r"NEEDED.*\[(lib(?:cu|nv|nc)[^\]]*)\]", output("readelf", "-dW", str(library))))
    return {name for name in wanted if name not in REAL and not (folder / name).exists()}


def version_nodes(libraries, wanted):
    """Which library each version node belongs to, according to the `needs` sections."""
    owner = {}
    for library in libraries:
        current = None
        for line in output("readelf", "-VW", str(library)).splitlines():
            if found := re.search(r"File: (\S+)", line):
                current = found[1]
            elif (found := re.search(r"^\s+\S+:\s+Name: (\S+)", line)) and current in wanted:
                owner[found[1]] = current
    return owner


def symbols(libraries):
    """All undefined symbols (with their `@version`) and the names that torch defines itself."""
    undefined, defined = set(), set()
    for library in libraries:
        for line in output("nm", "-D", str(library)).splitlines():
            parts = line.split()
            if len(parts) == 2 and parts[0] in "Uwv":
                undefined.add(parts[1])
            elif len(parts) == 3:
                defined.add(parts[2].split("@")[0])
    return undefined, defined


def owner_by_prefix(symbol, wanted):
    for library in sorted(wanted, key=len, reverse=True):
        if any(symbol.startswith(prefix) for prefix in PREFIXES.get(library.split(".so")[0], [])):
            return library
    return None


def write_stub(folder, library, names, nodes):
    with tempfile.TemporaryDirectory() as scratch:
        source, script = Path(scratch, "stub.c"), Path(scratch, "stub.map")
        source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in sorted(names)) + "int stub_only;\n")
        first, *rest = sorted(nodes) or [library]
        script.write_text(f"{first} {{ global: *; }};\n" + "".join(f"{node} {{ }};\n" for node in rest))
        subprocess.run(
            ["gcc", "-w", "-shared", "-fPIC", "-o", str(folder / library), str(source),
             f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"], check=True)


def main():
    folder = Path(sysconfig.get_paths()["purelib"], "torch", "lib")
    libraries = sorted(folder.glob("*.so*"))
    wanted = missing_libraries(libraries, folder)
    owner = version_nodes(libraries, wanted)
    undefined, defined = symbols(libraries)
    names, nodes = defaultdict(set), defaultdict(set)
    for node, library in owner.items():
        nodes[library].add(node)
    for symbol in undefined:
        name, _, version = symbol.partition("@")
        library = owner.get(version.strip("@")) or (None if version or name in defined else owner_by_prefix(name, wanted))
        if library:
            names[library].add(name)
    for library in sorted(wanted):
        write_stub(folder, library, names[library], nodes[library])
    print(f"{len(wanted)} stub libraries written")


if __name__ == "__main__":
    main()
