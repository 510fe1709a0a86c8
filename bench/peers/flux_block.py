"""diffusers' FLUX transformer with one double block, timed: the twin of bench/examples/flux_block.rs.

Reads "forward N" or "training N" from stdin and answers with N times in milliseconds, as JSON. Width 512, 8 heads,
384 picture tokens and 128 text tokens, f32, 2 threads.
"""

import json
import sys
import time

import torch
from diffusers import FluxTransformer2DModel

torch.set_num_threads(2)
torch.manual_seed(0)
model = FluxTransformer2DModel(
    patch_size=1, in_channels=64, num_layers=1, num_single_layers=0, attention_head_dim=64, num_attention_heads=8,
    joint_attention_dim=512, pooled_projection_dim=256, guidance_embeds=False, axes_dims_rope=(16, 24, 24))
positions = torch.zeros(384, 3)
positions[:, 1], positions[:, 2] = torch.arange(384) // 24, torch.arange(384) % 24
inputs = dict(
    hidden_states=torch.randn(1, 384, 64), encoder_hidden_states=torch.randn(1, 128, 512),
    pooled_projections=torch.randn(1, 256), timestep=torch.tensor([0.5]), img_ids=positions, txt_ids=torch.zeros(128, 3),
    return_dict=False)


def forward():
    with torch.inference_mode():
        model(**inputs)[0].sum().item()


def training():
    model.zero_grad(set_to_none=True)
    model(**inputs)[0].square().mean().backward()


def milliseconds(work):
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


for line in sys.stdin:
    name, count = line.split()
    work = {"forward": forward, "training": training}[name]
    print(json.dumps([milliseconds(work) for _ in range(int(count))]), flush=True)
