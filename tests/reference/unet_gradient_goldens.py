"""Gradients of a UNet's weights by torch autograd, through residual, attention and gated feed-forward layers.

Computed in f64, so that the reference adds no rounding to the comparison.
`python tests/reference/unet_gradient_goldens.py [OUT]` reads `sd15-tiny` below OUT and writes `gradients/unet`.
"""

import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from golden_file import Golden

WEIGHTS = [
    "conv_in.weight", "time_embedding.linear_1.weight",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
    "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj.bias",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight", "down_blocks.1.resnets.0.conv1.weight",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight", "mid_block.attentions.0.proj_in.weight",
    "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
    "up_blocks.2.attentions.0.transformer_blocks.0.norm3.weight",
    "up_blocks.2.attentions.2.transformer_blocks.0.attn1.to_q.weight", "conv_out.weight",
]


def write(folder):
    unet = UNet2DConditionModel.from_pretrained(folder / "sd15-tiny", subfolder="unet", local_files_only=True).double()
    generator = torch.Generator().manual_seed(57)
    latents = torch.randn(2, 4, 8, 12, generator=generator)
    text = torch.randn(2, 7, unet.config.cross_attention_dim, generator=generator)
    noise = torch.randn(2, 4, 8, 12, generator=generator)
    timesteps = torch.tensor([41.0, 700.0])
    output = unet(latents.double(), timesteps.double(), text.double(), return_dict=False)[0]
    loss = (output - noise.double()).square().mean()
    loss.backward()
    golden = Golden()
    for name, value in {"latents": latents, "text": text, "noise": noise, "timesteps": timesteps, "loss": loss}.items():
        golden.put(name, value)
    parameters = dict(unet.named_parameters())
    for name in WEIGHTS:
        assert parameters[name].grad.abs().max() > 0, name
        golden.put(f"gradient.{name}", parameters[name].grad)
    golden.write(folder / "gradients" / "unet.safetensors")


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens"
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
