"""One golden file: named f32 tensors and one JSON note, written so that two runs give the same bytes."""

import json

import numpy
import torch
from safetensors.torch import save_file


class Golden(dict):
    """Integers (token ids) are stored as f32 too, so that a reader needs one dtype only."""

    def put(self, key, value):
        if isinstance(value, numpy.ndarray):
            value = torch.from_numpy(numpy.ascontiguousarray(value))
        value = torch.as_tensor(value).detach().to(torch.float32).contiguous().clone()
        assert torch.isfinite(value).all(), f"{key} is not finite"
        self[key] = value

    def write(self, path, **note):
        # A second metadata key would be written in an order that varies from run to run.
        metadata = {"note": json.dumps(note, sort_keys=True)} if note else None
        save_file(dict(sorted(self.items())), path, metadata=metadata)
