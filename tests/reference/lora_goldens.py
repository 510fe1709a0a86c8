"""LoRA files in three dialects, and their effect on the tiny pipeline in diffusers and peft.

`kohya.safetensors` names modules as Black Forest Labs do (fused qkv) and has alpha 2 at rank 4. `peft.safetensors` is
the same adapter with diffusers' names and the scale baked in. `second.safetensors` is another adapter, written by
peft itself, whose alpha is only in the header.
"""

import json

import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from golden_file import Golden

RANK, ALPHA = 4, 2.0
SECOND = dict(r=3, lora_alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj"])


def fused_modules(config):
    """(kohya name, inputs, [(diffusers name, outputs)]) of every linear layer inside the blocks."""
    hidden = config.num_attention_heads * config.attention_head_dim
    for i in range(config.num_layers):
        ours = f"transformer_blocks.{i}"
        for stream, attention, out, feed, norm in [
            ("img", ["to_q", "to_k", "to_v"], "to_out.0", "ff", "norm1"),
            ("txt", ["add_q_proj", "add_k_proj", "add_v_proj"], "to_add_out", "ff_context", "norm1_context"),
        ]:
            theirs = f"lora_unet_double_blocks_{i}_{stream}"
            yield f"{theirs}_attn_qkv", hidden, [(f"{ours}.attn.{name}", hidden) for name in attention]
            yield f"{theirs}_attn_proj", hidden, [(f"{ours}.attn.{out}", hidden)]
            yield f"{theirs}_mlp_0", hidden, [(f"{ours}.{feed}.net.0.proj", 4 * hidden)]
            yield f"{theirs}_mlp_2", 4 * hidden, [(f"{ours}.{feed}.net.2", hidden)]
            yield f"{theirs}_mod_lin", hidden, [(f"{ours}.{norm}.linear", 6 * hidden)]
    for i in range(config.num_single_layers):
        ours, theirs = f"single_transformer_blocks.{i}", f"lora_unet_single_blocks_{i}"
        yield f"{theirs}_linear1", hidden, [
            (f"{ours}.attn.to_q", hidden), (f"{ours}.attn.to_k", hidden), (f"{ours}.attn.to_v", hidden),
            (f"{ours}.proj_mlp", 4 * hidden)]
        yield f"{theirs}_linear2", 5 * hidden, [(f"{ours}.proj_out", hidden)]
        yield f"{theirs}_modulation_lin", hidden, [(f"{ours}.norm.linear", 3 * hidden)]


def draw(config, seed):
    """One random adapter in both spellings. Splitting a fused layer copies A and cuts B along its outputs."""
    generator = torch.Generator().manual_seed(seed)
    kohya, peft = {}, {}
    for name, inputs, parts in fused_modules(config):
        down = torch.randn(RANK, inputs, generator=generator) / inputs**0.5
        up = torch.randn(sum(outputs for _, outputs in parts), RANK, generator=generator) * 0.5
        kohya |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(ALPHA)}
        for (target, _), rows in zip(parts, up.split([outputs for _, outputs in parts])):
            peft[f"transformer.{target}.lora_A.weight"] = down.clone()
            peft[f"transformer.{target}.lora_B.weight"] = rows.contiguous() * (ALPHA / RANK)
    return kohya, peft


def check_against_diffusers(kohya, peft):
    """diffusers' own converter must agree with ours where it can run: its linear1 supports FLUX.1's width only."""
    converted = FluxPipeline.lora_state_dict({k: v.clone() for k, v in kohya.items() if "_linear1" not in k})
    assert len(converted) > 40
    for key, value in converted.items():
        if key.endswith("lora_B.weight"):
            other = key.replace("lora_B", "lora_A")
            assert torch.allclose(value @ converted[other], peft[key] @ peft[other], atol=1e-6), key


def second_adapter(transformer, path, seed):
    transformer.add_adapter(LoraConfig(**SECOND, init_lora_weights=False), adapter_name="second")
    generator = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(transformer, adapter_name="second")
    state = {f"transformer.{k}": torch.randn(v.shape, generator=generator) * 0.15 for k, v in sorted(state.items())}
    transformer.delete_adapters("second")
    header = {f"transformer.{k}": SECOND[k] for k in ("r", "lora_alpha", "target_modules")}
    save_file(state, path, metadata={"lora_adapter_metadata": json.dumps(header, sort_keys=True)})


def write(folder, pipeline, prompt):
    folder.mkdir()
    kohya, peft = draw(pipeline.transformer.config, 31)
    check_against_diffusers(kohya, peft)
    save_file(kohya, folder / "kohya.safetensors")
    save_file(peft, folder / "peft.safetensors")
    second_adapter(pipeline.transformer, folder / "second.safetensors", 32)

    golden, transformer = Golden(), pipeline.transformer
    generator = torch.Generator().manual_seed(78)
    config = transformer.config
    inputs = dict(
        hidden_states=torch.randn(1, 12, config.in_channels, generator=generator),
        encoder_hidden_states=torch.randn(1, 6, config.joint_attention_dim, generator=generator),
        pooled_projections=torch.randn(1, config.pooled_projection_dim, generator=generator),
        timestep=torch.tensor([0.5]), guidance=torch.tensor([3.5]), txt_ids=torch.zeros(6, 3),
        img_ids=pipeline._prepare_latent_image_ids(1, 3, 4, "cpu", torch.float32))
    for name, value in inputs.items():
        golden.put(f"transformer.in.{name}", value)

    def call(name):
        golden.put(f"transformer.out.{name}", transformer(**inputs, return_dict=False)[0])

    def picture(name):
        golden.put(f"image.{name}", pipeline(
            prompt, height=32, width=48, num_inference_steps=3, guidance_scale=3.5, output_type="np",
            max_sequence_length=pipeline.tokenizer_2.model_max_length, generator=torch.Generator("cpu").manual_seed(9)).images)

    call("base")
    picture("base")
    for name in ("peft", "second"):
        pipeline.load_lora_weights(str(folder), weight_name=f"{name}.safetensors", adapter_name=name, local_files_only=True)
    for scale in (0.0, 0.5, 1.0):
        pipeline.set_adapters(["peft"], [scale])
        call(f"peft.{scale}")
        picture(f"peft.{scale}")
    pipeline.set_adapters(["second"], [1.0])
    call("second.1.0")
    pipeline.set_adapters(["peft", "second"], [0.7, -0.4])
    call("peft.0.7+second.-0.4")
    picture("peft.0.7+second.-0.4")
    pipeline.unload_lora_weights()
    assert torch.equal(golden["image.base"], golden["image.peft.0.0"])
    assert (golden["image.base"] - golden["image.peft.0.5"]).abs().max() > 0.1, "an adapter that does nothing proves nothing"
    golden.write(folder / "reference.safetensors", prompt=prompt, seed=9, width=48, height=32, num_inference_steps=3, guidance_scale=3.5)
