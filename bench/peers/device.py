"""Peer figures for `pyrograph gauge`: the same matrix products, attentions and FLUX.1 steps in PyTorch and in
diffusers, eager and compiled, with random weights on the same device. Writes a line of JSON for each, under the names
that bench/src uses.

    python3 peers.py --figures FILE --device cuda|cpu [--tiny]
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

CALLS = 10

SD15 = {"cross_attention_dim": 768}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SMALL = {"attention_head_dim": 2, "cross_attention_dim": 32, "transformer_layers_per_block": 1, "layers_per_block": 1}

FULL = {
    "sides": [1024, 512],
    "text": 512,
    "calls": 10,
    "products": [(4096, 3072, 3072), (4608, 3072, 3072), (4608, 12288, 3072), (4608, 3072, 15360), (512, 3072, 3072),
                 (1536, 3072, 3072), (8192, 8192, 8192)],
    "attentions": [(24, 4608, 128), (24, 1536, 128)],
    "copy": 4 << 30,
    "flux": {"guidance_embeds": True},
    "unets": [("sdxl", 1024, SDXL), ("sd15", 512, SD15)],
}
TINY = {
    "sides": [64, 32],
    "text": 16,
    "calls": 2,
    "products": [(64, 64, 64), (32, 64, 128)],
    "attentions": [(2, 32, 32)],
    "copy": 1 << 20,
    "flux": {"guidance_embeds": True, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32,
             "num_attention_heads": 2, "joint_attention_dim": 64, "pooled_projection_dim": 32, "axes_dims_rope": (8, 12, 12)},
    "unets": [("sdxl", 64, {**SDXL, **SMALL, "block_out_channels": (32, 64, 96), "addition_time_embed_dim": 8,
                            "projection_class_embeddings_input_dim": 80}),
              ("sd15", 32, {**SD15, **SMALL, "block_out_channels": (32, 64, 96, 128)})],
}


class Peers:
    def __init__(self, arguments):
        self.scale = TINY if arguments.tiny else FULL
        self.device = arguments.device
        self.dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
        self.file = open(arguments.figures, "a", buffering=1)

    def put(self, section, name, value, unit, by):
        self.file.write(json.dumps({"section": section, "name": name, "value": value, "unit": unit, "by": by}) + "\n")
        print(f"{'peers':>12} {name:<34} {value:12.5f} {unit} {by}", flush=True)

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def once(self, work):
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return 1e3 * (time.perf_counter() - start)

    def first_and_median(self, work):
        first = self.once(work)
        for _ in range(2):
            work()
        return first, statistics.median(self.once(work) for _ in range(self.scale["calls"]))

    def random(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def kernels(self):
        by = f"torch {torch.__version__}"
        for rows, columns, depth in self.scale["products"]:
            x, weight = self.random(rows, depth), self.random(columns, depth) * 0.02
            _, median = self.first_and_median(lambda: [F.linear(x, weight) for _ in range(CALLS)])
            self.put("kernels", f"product {rows}×{columns}×{depth}", 2e-9 * rows * columns * depth * CALLS / median, "TFLOP/s", by)
        for heads, tokens, head in self.scale["attentions"]:
            q, k, v = (self.random(1, heads, tokens, head) for _ in range(3))
            _, median = self.first_and_median(lambda: [F.scaled_dot_product_attention(q, k, v) for _ in range(CALLS)])
            rate = 4e-9 * heads * tokens * tokens * head * CALLS / median
            self.put("kernels", f"attention {heads}×{tokens}×{head}", rate, "TFLOP/s", by)
        source = torch.ones(self.scale["copy"] // 4, device=self.device)
        _, median = self.first_and_median(lambda: source + 1)
        self.put("kernels", "copy on the device", 2e-6 * self.scale["copy"] / median, "GB/s", by)

    def steps(self):
        import diffusers
        from diffusers import FluxTransformer2DModel, UNet2DConditionModel

        network = self.draw(FluxTransformer2DModel, self.scale["flux"])
        self.time_steps(network, f"diffusers {diffusers.__version__}, eager")
        for family, side, config in self.scale["unets"]:
            unet = self.draw(UNet2DConditionModel, config)
            self.time_unet(unet, family, side, f"diffusers {diffusers.__version__}, eager")
            del unet
        # The slowest to start comes last. A rehearsal has no time for a compiler.
        backend = "eager" if self.scale is TINY else "inductor"
        self.time_steps(torch.compile(network, backend=backend), f"diffusers {diffusers.__version__}, torch.compile")

    @torch.no_grad()
    def draw(self, network, config):
        with torch.device(self.device):
            before = torch.get_default_dtype()
            torch.set_default_dtype(self.dtype)
            network = network(**config).eval()
            torch.set_default_dtype(before)
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02)
        return network

    @torch.no_grad()
    def time_unet(self, network, family, side, by):
        config = network.config
        inputs = {"encoder_hidden_states": self.random(2, 77, config.cross_attention_dim), "return_dict": False}
        if config.addition_embed_type:
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            time_ids = torch.full((2, 6), float(side), device=self.device, dtype=self.dtype)
            inputs["added_cond_kwargs"] = {"text_embeds": self.random(2, pooled), "time_ids": time_ids}
        sample, timestep = self.random(2, config.in_channels, side // 8, side // 8), torch.tensor(500, device=self.device)
        first, median = self.first_and_median(lambda: network(sample, timestep, **inputs))
        self.put("unets", f"{family} guided step {side} px", median, "ms", by)
        self.put("unets", f"{family} first guided step {side} px", first / 1e3, "s", by)

    @torch.no_grad()
    def time_steps(self, network, by):
        config, text = network.config, self.scale["text"]
        for side in self.scale["sides"]:
            grid = side // 16
            hidden = self.random(1, grid * grid, config.in_channels)
            ids = torch.zeros(grid, grid, 3, device=self.device)
            ids[..., 1] += torch.arange(grid, device=self.device)[:, None]
            ids[..., 2] += torch.arange(grid, device=self.device)[None, :]
            inputs = {
                "encoder_hidden_states": self.random(1, text, config.joint_attention_dim),
                "pooled_projections": self.random(1, config.pooled_projection_dim),
                "timestep": torch.full((1,), 0.7, device=self.device, dtype=self.dtype),
                "guidance": torch.full((1,), 3.5, device=self.device, dtype=self.dtype),
                "img_ids": ids.reshape(-1, 3),
                "txt_ids": torch.zeros(text, 3, device=self.device),
                "return_dict": False,
            }
            first, median = self.first_and_median(lambda: hidden + network(hidden_states=hidden, **inputs)[0] * 0.05)
            self.put("denoising", f"step {side} px", median, "ms", by)
            self.put("denoising", f"first step {side} px", first / 1e3, "s", by)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--figures", required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--tiny", action="store_true")
    peers = Peers(parser.parse_args())
    peers.kernels()
    try:
        peers.steps()
    except ImportError as missing:
        print(f"peers: no steps of diffusers, since {missing}", flush=True)


if __name__ == "__main__":
    main()
