"""diffusers' autoencoder in tiles: its own tile size, and pictures whose last tiles are narrow.

    python tests/reference/tiling_goldens.py [OUT]

reads the tiny pipelines under OUT (diffusion/tests/goldens) and writes OUT/tiling.safetensors.
"""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from golden_file import Golden

# Latents a side of the picture: tiles have 8 and overlap by 2.
CASES = {"flux-tiny": (13, 9), "flux-tiny-cfg": (7, 15)}


def main():
    default = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    torch.set_num_threads(1)
    golden, generator = Golden(), torch.Generator().manual_seed(41)
    for name, (height, width) in CASES.items():
        vae = AutoencoderKL.from_pretrained(root / name / "vae", torch_dtype=torch.float32).eval()
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        image = torch.rand(1, 3, factor * height, factor * width, generator=generator) * 2 - 1
        latents = torch.randn(1, vae.config.latent_channels, height, width, generator=generator)
        with torch.no_grad():
            whole = vae.decode(latents).sample
            vae.enable_tiling()
            posterior, decoded = vae.encode(image).latent_dist, vae.decode(latents).sample
        assert (whole - decoded).abs().max() > 0.01, "tiles that make no difference prove nothing"
        golden.put(f"{name}.image", image)
        golden.put(f"{name}.mean", posterior.mean)
        golden.put(f"{name}.logvar", posterior.logvar)
        golden.put(f"{name}.latents", latents)
        golden.put(f"{name}.decoded", decoded)
    golden.write(root / "tiling.safetensors")


if __name__ == "__main__":
    main()
