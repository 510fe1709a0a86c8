"""diffusers' networks at their published sizes, timed: the twin of bench/examples/networks.rs.

The arguments are a network and a size, published or tiny; reads "forward N" from stdin and answers with N times in
milliseconds, as JSON. Random weights, f32, 2 threads.
"""

import json
import sys
import time

import torch

torch.set_num_threads(2)
torch.manual_seed(0)
TINY = sys.argv[2] == "tiny"


def unet():
    from diffusers import UNet2DConditionModel
    small = dict(block_out_channels=(32, 64, 96, 128), layers_per_block=1, attention_head_dim=2)
    width = 32 if TINY else 768
    model = UNet2DConditionModel(cross_attention_dim=width, **small if TINY else {}).eval()
    latents, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, width)
    return lambda: model(latents, torch.tensor([500]), text).sample


def vae():
    from diffusers import AutoencoderKL
    model = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64) if TINY else (128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4).eval()
    latents = torch.randn(1, 4, 32, 32)
    return lambda: model.decode(latents).sample


def clip():
    from transformers import CLIPTextConfig, CLIPTextModel
    width, layers = (32, 2) if TINY else (768, 12)
    model = CLIPTextModel(CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=layers, num_hidden_layers=layers)).eval()
    ids = torch.arange(77)[None] * 600
    return lambda: model(ids).last_hidden_state


def flux(double, single):
    from diffusers import FluxTransformer2DModel
    # The context embedder is not part of a block; it is kept small.
    small = dict(attention_head_dim=16, num_attention_heads=2, axes_dims_rope=(4, 6, 6))
    model = FluxTransformer2DModel(
        num_layers=double, num_single_layers=single, joint_attention_dim=256, guidance_embeds=False,
        **small if TINY else {}).eval()
    positions = torch.zeros(256, 3)
    positions[:, 1], positions[:, 2] = torch.arange(256) // 16, torch.arange(256) % 16
    inputs = dict(
        hidden_states=torch.randn(1, 256, 64), encoder_hidden_states=torch.randn(1, 512, 256),
        pooled_projections=torch.randn(1, 768), timestep=torch.tensor([0.5]), img_ids=positions,
        txt_ids=torch.zeros(512, 3))
    return lambda: model(**inputs).sample


NETWORKS = {"unet": unet, "vae": vae, "clip": clip, "flux_double": lambda: flux(1, 0), "flux_single": lambda: flux(0, 1)}
forward = NETWORKS[sys.argv[1]]()


def milliseconds():
    start = time.perf_counter()
    with torch.inference_mode():
        forward().sum().item()
    return 1000 * (time.perf_counter() - start)


for line in sys.stdin:
    _, count = line.split()
    print(json.dumps([milliseconds() for _ in range(int(count))]), flush=True)
