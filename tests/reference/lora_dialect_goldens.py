"""LoRA files in every dialect and algorithm, and their effect on a tiny FLUX.1 and on single layers.

The outputs are computed from densely changed weights, by the formulas of the papers, W + s·ΔW or with DoRA's
magnitudes. Where diffusers and peft, or lycoris, can read a file, their outputs must agree.

    python tests/reference/lora_dialect_goldens.py [OUT]
"""

import copy
import json
import math
import sys
from pathlib import Path

import diffusers
import peft
import torch
from lycoris.functional import general, loha, lokr
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from golden_file import Golden

ROOT = Path(__file__).parents[2] / "diffusion" / "tests" / "goldens"
SCALES = (0.0, 0.5, 1.0)
RANK, ALPHA = 2, 3.0


class Draw:
    """Random numbers in sequence."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape, by=1.0):
        return torch.randn(shape, generator=self.generator) * by

    def pair(self, inputs, outputs, by=0.6):
        return self(RANK, inputs, by=inputs**-0.5), self(outputs, RANK, by=by)


# ------------------------------------------------------------------------------------------------------------ formulas


def decomposed(weight, magnitude, outputs):
    """W times m over its norms, each over all axes but the first or but the second."""
    norms = weight.flatten(1).norm(dim=1) if outputs else weight.transpose(0, 1).flatten(1).norm(dim=1)
    shape = [-1, *[1] * (weight.ndim - 1)] if outputs else [1, -1, *[1] * (weight.ndim - 2)]
    return weight * (magnitude.flatten() / norms).view(shape)


class Change(dict):
    """Changes of modules, by path: ΔW at scale 1, m and its axis, a shift of the bias."""

    def put(self, path, delta=None, magnitude=None, outputs=True, bias=None):
        assert path not in self
        self[path] = (delta, magnitude, outputs, bias)

    def apply(self, network, scale):
        changed = copy.deepcopy(network)
        with torch.no_grad():
            for path, (delta, magnitude, outputs, bias) in self.items():
                module = changed.get_submodule(path)
                if delta is not None:
                    module.weight += scale * delta.view(module.weight.shape)
                if magnitude is not None:
                    module.weight.copy_(decomposed(module.weight, magnitude, outputs))
                if bias is not None:
                    module.bias += scale * bias
        return changed


# ---------------------------------------------------------------------------------------------------------------- FLUX

DOUBLE = [
    ("img_attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
    ("txt_attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
    ("img_attn.proj", ["attn.to_out.0"]), ("txt_attn.proj", ["attn.to_add_out"]),
    ("img_mlp.0", ["ff.net.0.proj"]), ("img_mlp.2", ["ff.net.2"]),
    ("txt_mlp.0", ["ff_context.net.0.proj"]), ("txt_mlp.2", ["ff_context.net.2"]),
    ("img_mod.lin", ["norm1.linear"]), ("txt_mod.lin", ["norm1_context.linear"]),
]
SINGLE = [
    ("linear1", ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]), ("linear2", ["proj_out"]),
    ("modulation.lin", ["norm.linear"]),
]
CLIP = ["text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.self_attn.out_proj",
        "text_model.encoder.layers.2.mlp.fc1"]
T5 = ["encoder.block.0.layer.0.SelfAttention.q", "encoder.block.1.layer.1.DenseReluDense.wi_0",
      "encoder.block.1.layer.1.DenseReluDense.wo"]


def original_modules():
    """(name at Black Forest Labs, our paths) of the first double block and of the second single block."""
    for theirs, ours in DOUBLE:
        yield f"double_blocks.0.{theirs}", [f"transformer_blocks.0.{path}" for path in ours]
    for theirs, ours in SINGLE:
        yield f"single_blocks.1.{theirs}", [f"single_transformer_blocks.1.{path}" for path in ours]


class Case:
    """A tiny pipeline's networks, and a file being built with its expected effect on them."""

    def __init__(self, pipeline, name, seed):
        parts = ("transformer", "unet", "text_encoder", "text_encoder_2")
        self.networks = {part: pipeline.components[part] for part in parts if pipeline.components.get(part) is not None}
        self.name, self.draw, self.file, self.header = name, Draw(seed), {}, None
        self.changes = {network: Change() for network in self.networks}

    def module(self, network, path):
        if not hasattr(self.networks[network], "text_model"):
            path = path.removeprefix("text_model.")  # CLIPTextModel of transformers 5 has it in its files only
        return path, self.networks[network].get_submodule(path)

    def inside(self, paths):
        """inputs, [outputs of each]"""
        weights = [self.module("transformer", path)[1].weight for path in paths]
        return weights[0].shape[1], [weight.shape[0] for weight in weights]

    def put(self, network, path, delta=None, **more):
        path, _ = self.module(network, path)
        self.changes[network].put(path, delta, **more)

    def cut(self, paths, delta, magnitude=None):
        sizes = self.inside(paths)[1]
        magnitudes = [None] * len(paths) if magnitude is None else magnitude.flatten().split(sizes)
        for path, rows, m in zip(paths, delta.split(sizes), magnitudes):
            self.put("transformer", path, rows, magnitude=m)

    def low_rank(self, name, network, paths, down="lora_down.weight", up="lora_up.weight", alpha=None, factor=None):
        weights = [self.module(network, path)[1].weight for path in paths]
        (_, inputs, *kernel), sizes = weights[0].shape, [weight.shape[0] for weight in weights]
        # a UNet with all of its layers changed that much would amplify rounding
        by = 0.15 if network == "unet" else 0.6
        a, b = self.draw.pair(inputs * math.prod(kernel), sum(sizes), by)
        a, b = a.view(RANK, inputs, *kernel), b.view(sum(sizes), RANK, *[1] * len(kernel))
        self.file |= {f"{name}.{down}": a, f"{name}.{up}": b}
        if alpha is not None:
            self.file[f"{name}.alpha"] = torch.tensor(alpha)
        delta = b.flatten(1) @ a.flatten(1) * (factor if factor is not None else (alpha or RANK) / RANK)
        for path, rows in zip(paths, delta.split(sizes)):
            self.put(network, path, rows)


def flat(name):
    return name.replace(".", "_")


def kohya(case):
    for theirs, ours in original_modules():
        case.low_rank(f"lora_unet_{flat(theirs)}", "transformer", ours, alpha=ALPHA)
    for path in CLIP:
        case.low_rank(f"lora_te1_{flat(path)}", "text_encoder", [path], alpha=ALPHA)
    for path in T5:
        case.low_rank(f"lora_te3_{flat(path)}", "text_encoder_2", [path], alpha=ALPHA)


def comfy(case):
    for theirs, ours in original_modules():
        case.low_rank(f"diffusion_model.{theirs}", "transformer", ours, "lora_A.weight", "lora_B.weight")
    # diffusers keeps the halves of the last norm in the other order
    weight = case.module("transformer", "norm_out.linear")[1].weight
    a, b = case.draw.pair(weight.shape[1], weight.shape[0])
    name = "diffusion_model.final_layer.adaLN_modulation.1"
    case.file |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    case.put("transformer", "norm_out.linear", torch.cat(list(reversed((b @ a).chunk(2)))))
    for path in CLIP:
        name = f"text_encoders.clip_l.transformer.{path}"
        case.low_rank(name, "text_encoder", [path], "lora_A.weight", "lora_B.weight")


def named_adapter(case):
    for theirs, ours in original_modules():
        case.low_rank(f"base_model.model.{theirs}", "transformer", ours, "lora_A.default.weight", "lora_B.default.weight")


def xlabs(case):
    for block, kind, paths in [
        ("double_blocks.0", "qkv_lora1", ["attn.to_q", "attn.to_k", "attn.to_v"]),
        ("double_blocks.0", "qkv_lora2", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
        ("double_blocks.0", "proj_lora1", ["attn.to_out.0"]), ("double_blocks.0", "proj_lora2", ["attn.to_add_out"]),
        ("single_blocks.1", "qkv_lora", ["attn.to_q", "attn.to_k", "attn.to_v"]), ("single_blocks.1", "proj_lora", ["proj_out"]),
    ]:
        ours = "transformer_blocks.0" if block[0] == "d" else "single_transformer_blocks.1"
        case.low_rank(f"{block}.processor.{kind}", "transformer", [f"{ours}.{path}" for path in paths], "down.weight", "up.weight")


def onetrainer_old(case):
    for _, ours in original_modules():
        for path in ours:
            case.low_rank(f"lora_transformer_{flat(path)}", "transformer", [path], alpha=ALPHA)
    for path in CLIP:
        case.low_rank(f"lora_te1_{flat(path)}", "text_encoder", [path], alpha=ALPHA)
    for path in T5:
        case.low_rank(f"lora_te2_{flat(path)}", "text_encoder_2", [path], alpha=ALPHA)


def onetrainer_new(case):
    for theirs, ours in original_modules():
        for number, path in enumerate(ours):
            name = f"transformer.{theirs}.{number}" if len(ours) > 1 else f"transformer.{theirs}"
            case.low_rank(name, "transformer", [path], alpha=ALPHA)


def legacy(case):
    for _, ours in original_modules():
        for path in ours:
            case.low_rank(f"transformer.{path}", "transformer", [path], "lora.down.weight", "lora.up.weight")
    for path in CLIP:
        case.low_rank(f"text_encoder.{path}", "text_encoder", [path], "lora_linear_layer.down.weight", "lora_linear_layer.up.weight")


def peft_with_header(case):
    rslora = ALPHA / RANK**0.5
    for _, ours in original_modules():
        for path in ours:
            factor = rslora * 2 if path.endswith("to_k") else rslora
            case.low_rank(f"transformer.{path}", "transformer", [path], "lora_A.weight", "lora_B.weight", factor=factor)
    for path in CLIP:
        case.low_rank(f"text_encoder.{path}", "text_encoder", [path], "lora_A.weight", "lora_B.weight", factor=5 / RANK)
    names = sorted({".".join(path.split(".")[2:]) for _, ours in original_modules() for path in ours})
    case.header = {"transformer.target_modules": names, "text_encoder.target_modules": ["q_proj", "out_proj", "fc1"],
                   "transformer.r": RANK, "transformer.lora_alpha": ALPHA, "transformer.use_rslora": True,
                   "transformer.alpha_pattern": {"attn.to_k": 2 * ALPHA},
                   "text_encoder.r": RANK, "text_encoder.lora_alpha": 5}


def dora_peft(case):
    for _, ours in original_modules():
        for path in ours:
            case.low_rank(f"transformer.{path}", "transformer", [path], "lora_A.weight", "lora_B.weight")
            delta, _, _, _ = case.changes["transformer"].pop(path)
            m = 1 + case.draw(len(delta), by=0.2).abs()
            case.file[f"transformer.{path}.lora_magnitude_vector"] = m
            case.put("transformer", path, delta, magnitude=m)


def dora_kohya(case):
    """Over outputs where layers are fused, over inputs elsewhere."""
    for theirs, ours in original_modules():
        name = f"lora_unet_{flat(theirs)}"
        inputs, sizes = case.inside(ours)
        a, b = case.draw.pair(inputs, sum(sizes))
        case.file |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(ALPHA)}
        delta = b @ a * (ALPHA / RANK)
        if len(ours) > 1:
            m = 1 + case.draw(sum(sizes), 1, by=0.2).abs()
            case.cut(ours, delta, m)
        else:
            m = 1 + case.draw(1, inputs, by=0.2).abs()
            case.put("transformer", ours[0], delta, magnitude=m, outputs=False)
        case.file[f"{name}.dora_scale"] = m


def hadamard(case):
    for theirs, ours in original_modules():
        name = f"lora_unet_{flat(theirs)}"
        inputs, sizes = case.inside(ours)
        (b1, a1), (b2, a2) = case.draw.pair(inputs, sum(sizes)), case.draw.pair(inputs, sum(sizes))
        b1, b2 = b1 * 3, b2 * 3
        case.file |= {f"{name}.hada_w1_a": a1, f"{name}.hada_w1_b": b1, f"{name}.hada_w2_a": a2, f"{name}.hada_w2_b": b2,
                      f"{name}.alpha": torch.tensor(ALPHA)}
        delta = (a1 @ b1) * (a2 @ b2) * (ALPHA / RANK)
        assert torch.allclose(delta, loha.diff_weight(b1, a1, b2, a2, None, None, gamma=ALPHA / RANK), atol=1e-6)
        case.cut(ours, delta)


def kronecker(case):
    """Fused layers whose parts do not end at factor boundaries, with both sides whole; others with factors."""
    for theirs, ours in original_modules():
        inputs, sizes = case.inside(ours)
        name, outputs = f"lora_unet_{flat(theirs)}", sum(sizes)
        rows = next(rows for rows in (5, 4, 3, 2) if outputs % rows == 0)
        left = case.draw(rows, 4, by=0.4)
        if len(ours) > 1:
            right = case.draw(outputs // rows, inputs // 4, by=0.4)
            tensors, scale = {"lokr_w1": left, "lokr_w2": right, "alpha": torch.tensor(1e9)}, 1
        else:
            a, b = case.draw(outputs // rows, RANK, by=0.4), case.draw(RANK, inputs // 4, by=0.4)
            right = a @ b
            tensors, scale = {"lokr_w1": left, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(ALPHA)}, ALPHA / RANK
        case.file |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
        case.cut(ours, torch.kron(left, right) * scale)


def lycoris_names(case):
    for _, ours in original_modules():
        for path in ours:
            inputs, (outputs,) = case.inside([path])
            left, right = case.draw(4, 6, by=0.4), case.draw(outputs // 4, inputs // 6, by=0.4)
            case.file |= {f"lycoris_{flat(path)}.lokr_w1": left, f"lycoris_{flat(path)}.lokr_w2": right}
            case.put("transformer", path, torch.kron(left, right))


def full(case):
    """Differences of weights and biases, and a LoRA with its own bias."""
    for number, (theirs, ours) in enumerate(original_modules()):
        name = f"diffusion_model.{theirs}"
        inputs, sizes = case.inside(ours)
        if len(ours) > 1:
            delta, bias = case.draw(sum(sizes), inputs, by=0.2), None
            case.file[f"{name}.diff"] = delta
            case.cut(ours, delta)
            continue
        bias = case.draw(*sizes, by=0.3)
        if number % 2:
            a, b = case.draw.pair(inputs, *sizes)
            case.file |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b, f"{name}.lora_B.bias": bias}
            case.put("transformer", ours[0], b @ a, bias=bias)
        else:
            case.file[f"{name}.diff_b"] = bias
            case.put("transformer", ours[0], bias=bias)


def read_by_diffusers(pipeline, case, folder, answer):
    """The same output from diffusers and peft, which leave the base unchanged."""
    pipeline = copy.deepcopy(pipeline)
    pipeline.load_lora_weights(str(folder), weight_name=f"{case.name}.safetensors", adapter_name="x", local_files_only=True)
    networks = {name: network for name, network in pipeline.components.items() if name in case.networks}
    for scale in SCALES:
        pipeline.set_adapters(["x"], [scale])
        for part, value in answer(networks).items():
            # diffusers has no adapters on T5
            expected = case.answers[scale][part] if part != "text_encoder_2" or "unet" in networks else value
            error = (value - expected).norm() / expected.norm()
            assert error < 1e-5, f"{case.name} {part} at {scale}: diffusers is {error} off"


def write_case(case, folder, golden, answer, pipeline):
    """The file, the outputs, and those of diffusers if there is a pipeline for it."""
    header = {"lora_adapter_metadata": json.dumps(case.header, sort_keys=True)} if case.header else None
    tensors = {key: value.contiguous() for key, value in sorted(case.file.items())}
    save_file(tensors, folder / f"{case.name}.safetensors", metadata=header)
    case.answers = {}
    for scale in SCALES:
        changed = {name: case.changes[name].apply(network, scale) for name, network in case.networks.items()}
        case.answers[scale] = answer(changed)
        for part, value in case.answers[scale].items():
            if case.changes[part]:
                golden.put(f"{case.name}.{scale}.{part}", value)
    if pipeline is not None:
        read_by_diffusers(pipeline, case, folder, answer)
    print(folder.name, case.name, "ok", "(diffusers agrees)" if pipeline is not None else "")


def write_flux(folder):
    folder.mkdir(parents=True)
    pipeline = diffusers.FluxPipeline.from_pretrained(ROOT / "flux-tiny", local_files_only=True)
    inputs = load_file(ROOT / "lora" / "reference.safetensors")
    inputs = {key.removeprefix("transformer.in."): value for key, value in inputs.items() if key.startswith("transformer.in.")}
    generator = torch.Generator().manual_seed(5)
    clip_ids = torch.randint(0, 100, (1, 9), generator=generator)
    t5_ids = torch.randint(0, 100, (1, 7), generator=generator)

    def answer(networks):
        with torch.no_grad():
            return {"transformer": networks["transformer"](**inputs, return_dict=False)[0],
                    "text_encoder": networks["text_encoder"](clip_ids)[0],
                    "text_encoder_2": networks["text_encoder_2"](t5_ids)[0]}

    golden = Golden()
    golden.put("in.clip_ids", clip_ids)
    golden.put("in.t5_ids", t5_ids)
    readers = {  # what diffusers reads of these, at this size
        comfy: False, kohya: False, named_adapter: False, xlabs: True, onetrainer_old: False, onetrainer_new: False,
        legacy: False, peft_with_header: True, dora_peft: True, dora_kohya: False, hadamard: False, kronecker: False,
        lycoris_names: False, full: False,
    }
    for number, (write, read) in enumerate(readers.items()):
        case = Case(pipeline, write.__name__, 100 + number)
        write(case)
        write_case(case, folder, golden, answer, pipeline if read else None)
    golden.write(folder / "reference.safetensors")


# ---------------------------------------------------------------------------------------------------- Stable Diffusion


def adaptable(network):
    """Paths of all layers that LoRA files have."""
    return [path for path, module in network.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))]


def of_blocks(case, *ends):
    """Paths in the UNet's inner blocks with this ending."""
    paths = [path for path in adaptable(case.networks["unet"]) if path.startswith(("down_blocks.1.", "mid_block.", "up_blocks.1."))]
    return [path for path in paths if path.endswith(ends)]


def te_numbers(case):
    if "text_encoder_2" not in case.networks:
        return [("lora_te_", "text_encoder")]
    return [("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2")]


def sd_kohya(case):
    """Every layer, convolutions too."""
    for path in adaptable(case.networks["unet"]):
        # diffusers knows these by their original name only
        name = path.replace("add_embedding.linear_1", "label_emb.0.0").replace("add_embedding.linear_2", "label_emb.0.2")
        case.low_rank(f"lora_unet_{flat(name)}", "unet", [path], alpha=ALPHA)
    for prefix, network in te_numbers(case):
        for path in CLIP:
            case.low_rank(prefix + flat(path), network, [path], alpha=ALPHA)


def sd_peft(case):
    for path in of_blocks(case, "to_q", "to_k", "to_v", "to_out.0", "proj_in", "net.2", "conv1", "conv_shortcut"):
        case.low_rank(f"unet.{path}", "unet", [path], "lora_A.weight", "lora_B.weight")
    for _, network in te_numbers(case):
        for path in CLIP:
            case.low_rank(f"{network}.{path}", network, [path], "lora_A.weight", "lora_B.weight")


def sd_legacy(case):
    """As diffusers' own trainers used to write it."""
    for path in of_blocks(case, "to_q", "to_k", "to_v", "to_out.0"):
        attention, layer = path.removesuffix(".0").rsplit(".", 1)
        case.low_rank(f"unet.{attention}.processor.{layer}_lora", "unet", [path], "down.weight", "up.weight")
    for path in CLIP[:2]:
        attention, layer = path.rsplit(".", 1)
        layer = {"q_proj": "to_q", "out_proj": "to_out"}[layer]
        case.low_rank(f"text_encoder.{attention}.{layer}_lora", "text_encoder", [path], "down.weight", "up.weight")


def sd_original(case):
    """The original numbering, which counts two resnets on each level."""
    for original, path in [
        ("input_blocks.0.0", "conv_in"), ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks.4.0.in_layers.2", "down_blocks.1.resnets.0.conv1"),
        ("input_blocks.4.0.skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        ("input_blocks.5.0.emb_layers.1", "down_blocks.1.resnets.1.time_emb_proj"),
        ("input_blocks.5.1.transformer_blocks.0.attn2.to_k", "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k"),
        ("middle_block.1.proj_in", "mid_block.attentions.0.proj_in"), ("middle_block.2.out_layers.3", "mid_block.resnets.1.conv2"),
        ("output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks.3.1.transformer_blocks.0.ff.net.0.proj", "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj"),
        ("output_blocks.8.0.out_layers.3", "up_blocks.2.resnets.2.conv2"), ("out.2", "conv_out"),
    ]:
        case.low_rank(f"diffusion_model.{original}", "unet", [path], "lora_A.weight", "lora_B.weight")


def write_stable_diffusion(folder, name, pipeline_class, cases):
    folder.mkdir(parents=True)
    pipeline = pipeline_class.from_pretrained(ROOT / name, local_files_only=True)
    reference = load_file(ROOT / name / "reference.safetensors")
    begin = "unet.odd.in."
    inputs = {key.removeprefix(begin): value for key, value in reference.items() if key.startswith(begin)}
    added = {key: inputs.pop(key) for key in ("text_embeds", "time_ids") if key in inputs}
    ids = torch.randint(0, 100, (1, 9), generator=torch.Generator().manual_seed(5))

    def answer(networks):
        with torch.no_grad():
            answers = {"unet": networks["unet"](**inputs, added_cond_kwargs=added or None, return_dict=False)[0]}
            for part in ("text_encoder", "text_encoder_2"):
                if part in networks:
                    answers[part] = networks[part](ids, output_hidden_states=True).hidden_states[-1]
            return answers

    golden = Golden()
    golden.put("in.clip_ids", ids)
    for number, (write, read) in enumerate(cases.items()):
        case = Case(pipeline, write.__name__.removeprefix("sd_"), 300 + number)
        write(case)
        write_case(case, folder, golden, answer, pipeline if read else None)
    golden.write(folder / "reference.safetensors")


# -------------------------------------------------------------------------------------------------------------- layers

LAYERS = {  # path in a UNet: inputs, outputs, kernel, stride; kernel 0 is a linear layer
    "down_blocks.0.resnets.0.conv1": (6, 10, 3, 1),
    "down_blocks.0.resnets.1.conv1": (8, 8, 3, 1),
    "down_blocks.0.downsamplers.0.conv": (10, 12, 3, 2),
    "down_blocks.0.attentions.0.proj_in": (12, 8, 1, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (12, 10, 0, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0": (8, 8, 0, 1),
}
SGM = {  # the same layers in the original numbering
    "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
    "down_blocks.0.resnets.1.conv1": "input_blocks_2_0_in_layers_2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
    "down_blocks.0.attentions.0.proj_in": "input_blocks_1_1_proj_in",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0": "input_blocks_1_1_transformer_blocks_0_attn2_to_out_0",
}


def layer(draw, inputs, outputs, kernel, stride):
    made = torch.nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2) if kernel else torch.nn.Linear(inputs, outputs)
    with torch.no_grad():
        made.weight.copy_(draw(*made.weight.shape, by=(inputs * max(kernel, 1) ** 2) ** -0.5))
        made.bias.copy_(draw(outputs, by=0.3))
    return made


def locon(draw, name, shape):
    outputs, inputs, *kernel = shape
    down, up = draw(RANK, inputs, *kernel, by=0.3), draw(outputs, RANK, *[1] * len(kernel), by=0.6)
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(ALPHA)}
    return tensors, (up.flatten(1) @ down.flatten(1)).view(shape) * (ALPHA / RANK)


def tucker(draw, name, shape):
    outputs, inputs, *kernel = shape
    if not any(size > 1 for size in kernel):
        return locon(draw, name, shape)
    down, mid, up = draw(RANK, inputs, 1, 1, by=0.5), draw(3, RANK, *kernel, by=0.4), draw(outputs, 3, 1, 1, by=0.6)
    delta = general.tucker_weight_from_conv(up, down, mid) * (ALPHA / RANK)
    return {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": torch.tensor(ALPHA)}, delta


def hada(draw, name, shape):
    outputs, inputs, *kernel = shape
    flat_inputs = inputs * (kernel[0] ** 2 if kernel else 1)
    b1, a1 = draw(RANK, flat_inputs, by=0.6), draw(outputs, RANK, by=0.6)
    b2, a2 = draw(RANK, flat_inputs, by=0.6), draw(outputs, RANK, by=0.6)
    delta = loha.diff_weight(b1, a1, b2, a2, None, None, gamma=ALPHA / RANK).view(shape)
    assert torch.allclose(delta.flatten(1), (a1 @ b1) * (a2 @ b2) * (ALPHA / RANK), atol=1e-6)
    return {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(ALPHA)}, delta


def hada_tucker(draw, name, shape):
    outputs, inputs, *kernel = shape
    if not any(size > 1 for size in kernel):
        return hada(draw, name, shape)
    a1, b1, t1 = draw(RANK, outputs, by=0.8), draw(RANK, inputs, by=0.8), draw(RANK, RANK, *kernel, by=0.5)
    a2, b2, t2 = draw(RANK, outputs, by=0.8), draw(RANK, inputs, by=0.8), draw(RANK, RANK, *kernel, by=0.5)
    delta = loha.diff_weight(b1, a1, b2, a2, t1, t2, gamma=ALPHA / RANK)
    return {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "hada_t1": t1, "hada_t2": t2,
            "alpha": torch.tensor(ALPHA)}, delta


def kron(draw, name, shape, core=False):
    outputs, inputs, *kernel = shape
    left = (draw(2, 3, by=0.6), draw(3, 2, by=0.6))
    b, d = outputs // 2, inputs // 2
    if core and any(size > 1 for size in kernel):
        w2a, w2b, t2 = draw(RANK, b, by=0.8), draw(RANK, d, by=0.8), draw(RANK, RANK, *kernel, by=0.5)
        right, tensors = general.rebuild_tucker(t2, w2a, w2b), {"lokr_w2_a": w2a, "lokr_w2_b": w2b, "lokr_t2": t2}
    else:
        w2a, w2b = draw(b, RANK, by=0.6), draw(RANK, d * (kernel[0] ** 2 if kernel else 1), by=0.6)
        right, tensors = (w2a @ w2b).view(b, d, *kernel), {"lokr_w2_a": w2a, "lokr_w2_b": w2b}
    tensors |= {"lokr_w1_a": left[0], "lokr_w1_b": left[1], "alpha": torch.tensor(ALPHA)}
    gamma = ALPHA / RANK
    # with both sides factored LyCORIS has one rank for both; here the left one has 3, and alpha counts by the right one
    return tensors, lokr.make_kron(left[0] @ left[1], right, gamma)


def kron_tucker(draw, name, shape):
    return kron(draw, name, shape, core=True)


def kron_whole(draw, name, shape):
    outputs, inputs, *kernel = shape
    left, right = draw(2, 2, by=0.6), draw(outputs // 2, inputs // 2, *kernel, by=0.4)
    return {"lokr_w1": left, "lokr_w2": right, "alpha": torch.tensor(1e9)}, lokr.make_kron(left, right, 1)


def difference(draw, name, shape):
    delta = draw(*shape, by=0.2)
    return {"diff": delta, "diff_b": draw(shape[0], by=0.2)}, delta


def peft_layer(module, tensors, scale):
    """The same LoRA or DoRA by PEFT."""
    model = torch.nn.Sequential(copy.deepcopy(module))
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"], use_dora="magnitude" in tensors)
    model = peft.get_peft_model(model, config)
    state = {"base_model.model.0.lora_A.weight": tensors["lora_down.weight"], "base_model.model.0.lora_B.weight": tensors["lora_up.weight"]}
    if "magnitude" in tensors:
        shape = (1, -1, 1, 1) if module.weight.ndim == 4 else (-1,)
        state["base_model.model.0.lora_magnitude_vector"] = tensors["magnitude"].view(shape)
    peft.set_peft_model_state_dict(model, state)
    model.base_model.model[0].set_scale("default", scale)
    return model.eval()


def write_layers(folder):
    folder.mkdir(parents=True)
    draw, golden = Draw(7), Golden()
    layers = torch.nn.ModuleDict({path.replace(".", "/"): layer(draw, *sizes) for path, sizes in LAYERS.items()})
    layers = {path.replace("/", "."): made for path, made in layers.items()}
    inputs = {}
    for path, made in layers.items():
        golden.put(f"base.{path}.weight", made.weight)
        golden.put(f"base.{path}.bias", made.bias)
        inputs[path] = draw(2, LAYERS[path][0], 5, 4) if LAYERS[path][2] else draw(2, 3, LAYERS[path][0])
        golden.put(f"in.{path}", inputs[path])
    cases = {f"{algorithm.__name__}{kind}": (algorithm, kind) for algorithm, kind in [
        (locon, ""), (tucker, ""), (hada, ""), (hada_tucker, ""), (kron, ""), (kron_tucker, ""), (kron_whole, ""), (difference, ""),
        (locon, "_dora"), (locon, "_dora_inputs"), (tucker, "_dora"), (hada, "_dora"), (kron, "_dora_inputs")]}
    for number, (name, (algorithm, kind)) in enumerate(cases.items()):
        draw, file = Draw(200 + number), {}
        for path, made in layers.items():
            tensors, delta = algorithm(draw, path, tuple(made.weight.shape))
            outputs, magnitude = "inputs" not in kind, None
            if kind:
                size = made.weight.shape[0 if outputs else 1]
                magnitude = 1 + draw(size, by=0.2).abs()
                ones = [1] * (made.weight.ndim - 2)
                tensors["dora_scale"] = magnitude.view(size, 1, *ones) if outputs else magnitude.view(1, size, *ones)
            # half of the files are in the original numbering
            flat_name = SGM[path] if number % 2 else flat(path)
            file |= {f"lora_unet_{flat_name}.{part}": tensor for part, tensor in tensors.items()}
            for scale in SCALES:
                with torch.no_grad():
                    weight = made.weight + scale * delta
                    if kind:
                        weight = decomposed(weight, magnitude, outputs)
                    bias = made.bias + scale * tensors["diff_b"] if "diff_b" in tensors else made.bias
                    x = inputs[path]
                    y = F.conv2d(x, weight, bias, made.stride, made.padding) if weight.ndim == 4 else F.linear(x, weight, bias)
                    golden.put(f"{name}.{scale}.{path}", y)
                    if algorithm is locon and outputs:
                        also = peft_layer(made, tensors | ({"magnitude": magnitude} if kind else {}), scale)(x)
                        assert torch.allclose(also, y, atol=1e-4), f"{name} {path} at {scale}: peft is off by {(also - y).abs().max()}"
        save_file({key: value.contiguous() for key, value in sorted(file.items())}, folder / f"{name}.safetensors")
        print(name, "ok")
    golden.write(folder / "reference.safetensors")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "lora-dialects"
    write_flux(out / "flux")
    write_stable_diffusion(out / "sd15", "sd15-tiny", diffusers.StableDiffusionPipeline,
                           {sd_kohya: True, sd_peft: True, sd_legacy: True, sd_original: False})
    write_stable_diffusion(out / "sdxl", "sdxl-tiny", diffusers.StableDiffusionXLPipeline, {sd_kohya: True, sd_peft: True})
    write_layers(out / "layers")
