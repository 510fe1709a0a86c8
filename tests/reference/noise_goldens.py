"""torch.randn from torch.Generator("cpu"), for seeds and sizes on both sides of torch's two code paths.

Fewer than 16 values: pairs by Box-Muller in double precision, one value kept for the next call. From 16 on: chunks of
sixteen, the last sixteen drawn again if the size is not a multiple.
"""

import torch

from golden_file import Golden

SEEDS = [0, 1, 42, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 0x0123456789ABCDEF]
SIZES = [1, 2, 5, 15, 16, 17, 31, 64, 1000]
# Several draws from one generator, to check the state that a call leaves behind.
SEQUENCES = [[5, 4, 3], [1, 1, 1, 1], [3, 20, 2, 16, 1], [64, 64], [17, 700, 3]]


def write(path):
    golden = Golden()
    for seed in SEEDS:
        for size in SIZES:
            golden.put(f"randn.{seed}.{size}", torch.randn(size, generator=torch.Generator("cpu").manual_seed(seed)))
    for sequence in SEQUENCES:
        generator = torch.Generator("cpu").manual_seed(42)
        name = "-".join(map(str, sequence))
        for i, size in enumerate(sequence):
            golden.put(f"sequence.{name}.{i}", torch.randn(size, generator=generator))
    golden.write(path)
