"""GGUF files as the `gguf` package writes them, and what it reads out of them.

    python tests/reference/gguf_goldens.py [OUT]

`blocks.gguf` has one tensor of each type that is read. The package cannot quantise to the K formats: theirs are random
blocks, with scales that stay finite.
"""

import sys
from pathlib import Path

import gguf
import numpy

from golden_file import Golden

TYPES = gguf.GGMLQuantizationType
QUANTISED = [TYPES.BF16, TYPES.F16, TYPES.Q4_0, TYPES.Q4_1, TYPES.Q5_0, TYPES.Q5_1, TYPES.Q8_0]
# Where the halves are that scale a block.
K_SCALES = {TYPES.Q4_K: [0, 2], TYPES.Q5_K: [0, 2], TYPES.Q6_K: [208]}
ROWS, COLUMNS = 4, 512


def random_blocks(kind, draw):
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = draw.integers(0, 256, (ROWS * COLUMNS // values, size), dtype=numpy.uint8)
    for at in K_SCALES[kind]:
        scales = draw.uniform(-0.1, 0.1, (len(blocks), 1)).astype(numpy.float16)
        blocks[:, at : at + 2] = scales.view(numpy.uint8)
    return blocks.reshape(ROWS, -1)


def write(out):
    out.mkdir(parents=True, exist_ok=True)
    draw = numpy.random.default_rng(5)
    writer, golden = gguf.GGUFWriter(out / "blocks.gguf", "flux"), Golden()
    # Metadata of every shape, to be passed over.
    writer.add_quantization_version(2)
    writer.add_array("tokens", ["a", "bc", "def"])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_bool("yes", True)
    writer.add_string("text", "kept")
    writer.add_uint64("large", 2**40)
    plain = draw.standard_normal((3, 5)).astype(numpy.float32)
    writer.add_tensor("F32", plain)
    golden.put("F32", plain)
    for kind in QUANTISED:
        values = draw.standard_normal((ROWS, COLUMNS)).astype(numpy.float32)
        stored = gguf.quantize(values, kind)
        writer.add_tensor(kind.name, stored, raw_dtype=kind)
        golden.put(kind.name, gguf.dequantize(stored, kind))
    for kind in K_SCALES:
        stored = random_blocks(kind, draw)
        writer.add_tensor(kind.name, stored, raw_dtype=kind)
        golden.put(kind.name, gguf.dequantize(stored, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    golden.write(out / "blocks.safetensors")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "diffusion/tests/goldens/gguf")
