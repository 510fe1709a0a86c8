"""Names and shapes of the published networks, and of the single files that hold them, as text; and the values of tiny ones.

    python tests/reference/key_lists.py [OUT]

The networks are built by diffusers and transformers on the `meta` device, from the configs that the `diffusion` crate brings
along. The lists of single files are those names turned back, and are right because diffusers' own conversion of such a file
gives exactly the network again; that is asserted here. `tiny_*` lists have a digest of each tensor after that conversion, of
values that a formula gives to the file's tensors (`value`), so that no weights need to be committed.
"""

import json
import re
import sys
from pathlib import Path

import diffusers
import numpy
import torch
from diffusers.loaders import single_file_utils as theirs
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from gguf_goldens import llama_t5

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "formats/configs"


# ------------------------------------------------------------------------------------------------------ networks


def config(name, **changes):
    return {**json.loads((CONFIGS / f"{name}.json").read_text()), **changes}


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def network(name, **changes):
    """Names and shapes of the network of a config."""
    values = config(name, **changes)
    with torch.device("meta"):
        if "_class_name" in values:
            kind = getattr(diffusers, values["_class_name"])
            return shapes(kind.from_config(values))
        kind = values["architectures"][0]
        if kind == "T5EncoderModel":
            found = shapes(T5EncoderModel(T5Config(**values)))
            return {name: shape for name, shape in found.items() if name != "encoder.embed_tokens.weight"}
        model = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}[kind]
        found = shapes(model(CLIPTextConfig(**values)))
    # Published files have the prefix, which transformers 5 leaves out of CLIPTextModel.
    bare = ("text_model.", "text_projection.")
    return {name if name.startswith(bare) else f"text_model.{name}": shape for name, shape in found.items()}


# ---------------------------------------------------------------------------------------- their names for our keys


def replaced(name, pairs):
    for old, new in pairs:
        name = re.sub(old, new, name)
    return name


def ldm_unet(keys, layers):
    """latent-diffusion numbers blocks through; attention comes second in a block, an upsampler last."""
    attended = {int(m[1]) for key in keys if (m := re.match(r"up_blocks\.(\d+)\.attentions", key))}
    inside = [(r"\.norm1\.", ".in_layers.0."), (r"\.conv1\.", ".in_layers.2."), (r"\.time_emb_proj\.", ".emb_layers.1."),
              (r"\.norm2\.", ".out_layers.0."), (r"\.conv2\.", ".out_layers.3."), (r"\.conv_shortcut\.", ".skip_connection.")]
    top = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
           "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    names = {}
    for key in keys:
        layer, leaf = key.rsplit(".", 1)
        if layer in top:
            names[key] = f"{top[layer]}.{leaf}"
        elif m := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)(\..*)", key):
            side, block, kind, at, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
            number = (1 if side == "down" else 0) + block * (layers + 1) + at
            blocks = "input_blocks" if side == "down" else "output_blocks"
            rest = replaced(rest, inside) if kind == "resnets" else rest
            names[key] = f"{blocks}.{number}.{int(kind == 'attentions')}{rest}"
        elif m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv(\..*)", key):
            names[key] = f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op{m[2]}"
        elif m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv(\..*)", key):
            place = 2 if int(m[1]) in attended else 1
            names[key] = f"output_blocks.{int(m[1]) * (layers + 1) + layers}.{place}.conv{m[2]}"
        elif m := re.match(r"mid_block\.resnets\.(\d)(\..*)", key):
            names[key] = f"middle_block.{2 * int(m[1])}{replaced(m[2], inside)}"
        elif m := re.match(r"mid_block\.attentions\.0(\..*)", key):
            names[key] = f"middle_block.1{m[1]}"
        else:
            raise KeyError(key)
    return names


def ldm_vae(keys):
    levels = 1 + max(int(m[1]) for key in keys if (m := re.match(r"decoder\.up_blocks\.(\d+)", key)))
    pairs = [(r"mid_block\.resnets\.0", "mid.block_1"), (r"mid_block\.resnets\.1", "mid.block_2"),
             (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"), (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
             (r"mid_block\.attentions\.0\.to_(.)", r"mid.attn_1.\1"), (r"conv_norm_out", "norm_out"),
             (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"), (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
             (r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block"),
             (r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample"),
             (r"conv_shortcut", "nin_shortcut")]
    return {key: replaced(key, pairs) for key in keys}


def single_file_vae(found):
    """Attention is made of 1×1 convolutions there."""
    names = ldm_vae(found)
    attention = re.compile(r"attentions\.0\.to_.*weight")
    return {names[key]: (*shape, 1, 1) if attention.search(key) else shape for key, shape in found.items()}


def single_file_open_clip(found, unused_last_layer):
    pairs = [(r"^text_model\.final_layer_norm", "ln_final"), (r"^text_model\.encoder\.layers", "transformer.resblocks"),
             (r"layer_norm", "ln_"), (r"self_attn", "attn"), (r"\.fc1\.", ".c_fc."), (r"\.fc2\.", ".c_proj."),
             (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
             (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding")]
    out = {"logit_scale": ()}
    width = found["text_model.final_layer_norm.weight"][0]
    for key, shape in found.items():
        if key == "text_projection.weight":
            continue
        if m := re.match(r"(.*\.)([qkv])_proj\.(weight|bias)", key):
            if m[2] == "q":
                out[replaced(m[1], pairs) + f"in_proj_{m[3]}"] = (3 * shape[0], *shape[1:])
        else:
            out[replaced(key, pairs)] = shape
    out["text_projection"] = (width, found.get("text_projection.weight", (width,))[0])
    if unused_last_layer:
        last = max(int(m[1]) for name in out if (m := re.match(r"transformer\.resblocks\.(\d+)", name)))
        copy = {re.sub(rf"resblocks\.{last}\.", f"resblocks.{last + 1}.", name): shape for name, shape in out.items()}
        out.update(copy)
    return out


def single_file_flux(doubles, singles, width, head, inputs, outputs, context, pooled, guided, inner):
    """`inner`: columns where only the number of rows matters to the conversion; the width in a real file."""
    out = {}

    def layer(name, rows, columns):
        out[f"{name}.weight"], out[f"{name}.bias"] = (rows, columns), (rows,)

    layer("img_in", width, inputs)
    layer("txt_in", width, context)
    for name, columns in [("time_in", 256), ("vector_in", pooled), *([("guidance_in", 256)] if guided else [])]:
        layer(f"{name}.in_layer", width, columns)
        layer(f"{name}.out_layer", width, inner)
    for i in range(doubles):
        for side in ["img", "txt"]:
            block = f"double_blocks.{i}.{side}"
            layer(f"{block}_mod.lin", 6 * width, inner)
            layer(f"{block}_attn.qkv", 3 * width, inner)
            layer(f"{block}_attn.proj", width, inner)
            layer(f"{block}_mlp.0", 4 * width, inner)
            layer(f"{block}_mlp.2", width, 4 * inner)
            for norm in ["query_norm", "key_norm"]:
                out[f"{block}_attn.norm.{norm}.scale"] = (head,)
    for i in range(singles):
        block = f"single_blocks.{i}"
        layer(f"{block}.modulation.lin", 3 * width, inner)
        layer(f"{block}.linear1", 7 * width, inner)
        layer(f"{block}.linear2", width, 5 * inner)
        for norm in ["query_norm", "key_norm"]:
            out[f"{block}.norm.{norm}.scale"] = (head,)
    layer("final_layer.linear", outputs, inner)
    layer("final_layer.adaLN_modulation.1", 2 * width, inner)
    return out


def below(prefix, found):
    return {f"{prefix}{name}": shape for name, shape in found.items()}


# ------------------------------------------------------------------------------- diffusers' conversion of such files


def converted(kind, file, settings):
    """What diffusers makes of one part of a file of tensors."""
    file = dict(file)
    if kind == "unet":
        return theirs.convert_ldm_unet_checkpoint(file, settings)
    if kind == "vae":
        bare = not any(name.startswith(("first_stage_model.", "vae.")) for name in file)
        return theirs.convert_ldm_vae_checkpoint(below("vae.", file) if bare else file, settings)
    if kind == "flux":
        return theirs.convert_flux_transformer_checkpoint_to_diffusers(
            {name: tensor for name, tensor in file.items() if "_blocks." in name or "_in." in name or "final_layer" in name})
    if kind == "t5":
        return theirs.convert_sd3_t5_checkpoint_to_diffusers(file)
    if kind == "clip":
        prefix = next(p for p in ["cond_stage_model.transformer.", "conditioner.embedders.0.transformer.",
                                  "text_encoders.clip_l.transformer."] if any(name.startswith(p) for name in file))
        found = theirs.convert_ldm_clip_checkpoint(file, prefix)
        return {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}
    prefix = next(p for p in ["cond_stage_model.model.", "conditioner.embedders.1.model."] if f"{p}ln_final.bias" in file)
    text_model = type("Model", (), {"config": type("Config", (), {"hidden_size": 1024})})
    return theirs.convert_open_clip_checkpoint(text_model, file, prefix=prefix)


def check(file, kind, settings, wanted):
    tensors = {name: torch.empty(shape, device="meta") for name, shape in file.items()}
    found = {name: tuple(tensor.shape) for name, tensor in converted(kind, tensors, settings).items()}
    assert found == wanted, {k: (found.get(k), wanted.get(k)) for k in found.keys() ^ wanted.keys()}


# ---------------------------------------------------------------------------------------------------------- values

WEYL = numpy.uint64(0x9E3779B97F4A7C15)


def hash_of(name):
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def value(name, shape):
    """The values of a tensor: a Weyl sequence that begins at the hash of its name, in −0.5..0.5 by 24 bits."""
    count = int(numpy.prod(shape, dtype=numpy.int64))
    with numpy.errstate(over="ignore"):
        bits = numpy.uint64(hash_of(name)) + numpy.arange(count, dtype=numpy.uint64) * WEYL
    numbers = (bits >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**24) - numpy.float32(0.5)
    return torch.from_numpy(numbers.reshape(shape))


def digest(tensor):
    """The bits of all values, each times a power of one number."""
    bits = tensor.contiguous().flatten().numpy().view(numpy.uint32).astype(numpy.uint64)
    with numpy.errstate(over="ignore"):
        powers = numpy.cumprod(numpy.full(bits.shape, WEYL))
        return int((bits * powers).sum(dtype=numpy.uint64))


def put(out, name, found, digests=None):
    line = lambda key: f"{key} {'x'.join(map(str, found[key])) or '-'}" + (f" {digests[key]:016x}" if digests else "")
    (out / f"{name}.txt").write_text("".join(line(key) + "\n" for key in sorted(found)))


# ------------------------------------------------------------------------------------------------- whole files

STATISTICS = ["alphas_cumprod", "alphas_cumprod_prev", "betas", "log_one_minus_alphas_cumprod", "posterior_log_variance_clipped",
              "posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance", "sqrt_alphas_cumprod",
              "sqrt_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"]


def stable_diffusion_1(unet, vae, clip, layers):
    names = ldm_unet(unet, layers)
    return {**below("model.diffusion_model.", {names[key]: shape for key, shape in unet.items()}),
            **below("first_stage_model.", single_file_vae(vae)), **below("cond_stage_model.transformer.", clip),
            "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
            **{name: (1000,) for name in STATISTICS}, "model_ema.decay": (), "model_ema.num_updates": ()}


def stable_diffusion_2(unet, vae, clip, layers):
    names = ldm_unet(unet, layers)
    return {**below("model.diffusion_model.", {names[key]: shape for key, shape in unet.items()}),
            **below("first_stage_model.", single_file_vae(vae)),
            **below("cond_stage_model.model.", single_file_open_clip(clip, True)), **{name: (1000,) for name in STATISTICS}}


def stable_diffusion_xl(unet, vae, clip, big, layers):
    names = ldm_unet(unet, layers)
    return {**below("model.diffusion_model.", {names[key]: shape for key, shape in unet.items()}),
            **below("first_stage_model.", single_file_vae(vae)), **below("conditioner.embedders.0.transformer.", clip),
            "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": (1, 77),
            **below("conditioner.embedders.1.model.", single_file_open_clip(big, False)), "denoiser.sigmas": (1000,)}


def comfy_flux(transformer, vae, clip, t5):
    return {**below("model.diffusion_model.", transformer), **below("vae.", single_file_vae(vae)),
            **below("text_encoders.clip_l.transformer.", clip), "text_encoders.clip_l.logit_scale": (),
            **below("text_encoders.t5xxl.transformer.", t5), "text_encoders.t5xxl.logit_scale": ()}


def published(out):
    unet1, unet2, unet_xl = network("sd1_unet"), network("sd2_unet"), network("sdxl_unet")
    vae, flux_vae = network("sd1_vae"), network("flux_vae")
    clip, clip_h, big_g, t5 = network("clip_l"), network("open_clip_h"), network("open_clip_big_g"), network("t5_xxl")
    dev, schnell = network("flux_dev_transformer"), network("flux_schnell_transformer")
    assert network("sd2_vae") == network("sdxl_vae") == vae
    parameters = lambda found: sum(int(numpy.prod(shape, dtype=numpy.int64)) for shape in found.values())
    # As the model cards and papers count them.
    assert parameters(unet1) == 859_520_964 and parameters(unet_xl) == 2_567_463_684, (parameters(unet1), parameters(unet_xl))
    assert parameters(unet2) == 865_910_724 and parameters(dev) == 11_901_408_320, (parameters(unet2), parameters(dev))
    assert parameters(vae) == 83_653_863 and parameters(clip) == 123_060_480, (parameters(vae), parameters(clip))

    bfl = lambda guided: single_file_flux(19, 38, 3072, 128, 64, 64, 4096, 768, guided, 3072)
    files = {
        "sd1": stable_diffusion_1(unet1, vae, clip, 2), "sd2": stable_diffusion_2(unet2, vae, clip_h, 2),
        "sdxl": stable_diffusion_xl(unet_xl, vae, clip, big_g, 2),
        "flux_dev": bfl(True), "flux_comfy": comfy_flux(bfl(False), flux_vae, clip, t5), "flux_ae": single_file_vae(flux_vae),
        "t5_llama": {name: t5[key] for key, name in llama_t5(t5).items()},
    }
    for file, kind, settings, wanted in [
        ("sd1", "unet", "sd1_unet", unet1), ("sd1", "vae", "sd1_vae", vae), ("sd1", "clip", None, clip),
        ("sd2", "unet", "sd2_unet", unet2), ("sd2", "vae", "sd2_vae", vae), ("sd2", "open_clip", None, clip_h),
        ("sdxl", "unet", "sdxl_unet", unet_xl), ("sdxl", "vae", "sdxl_vae", vae), ("sdxl", "clip", None, clip),
        ("sdxl", "open_clip", None, big_g), ("flux_dev", "flux", None, dev), ("flux_comfy", "flux", None, schnell),
        ("flux_comfy", "vae", "flux_vae", flux_vae), ("flux_comfy", "clip", None, clip), ("flux_comfy", "t5", None, t5),
        ("flux_ae", "vae", "flux_vae", flux_vae),
    ]:
        check(files[file], kind, settings and config(settings), wanted)
    for name, found in files.items():
        put(out, f"{name}.single", found)
    for name, found in [("sd1.unet", unet1), ("sd2.unet", unet2), ("sdxl.unet", unet_xl), ("vae", vae), ("flux.vae", flux_vae),
                        ("clip_l", clip), ("open_clip_h", clip_h), ("open_clip_big_g", big_g), ("t5_xxl", t5),
                        ("flux_dev.transformer", dev), ("flux_schnell.transformer", schnell)]:
        put(out, name, found)


def tiny(out):
    """Small enough to convert with values; no two sizes agree that need not."""
    text = dict(vocab_size=60, hidden_size=16, intermediate_size=40, num_attention_heads=1, max_position_embeddings=77)
    vae_settings = config("sd1_vae", block_out_channels=[32, 64], down_block_types=["DownEncoderBlock2D"] * 2,
                          up_block_types=["UpDecoderBlock2D"] * 2, layers_per_block=1)
    vae = network("sd1_vae", **{key: vae_settings[key] for key in vae_settings})
    down, cross, up, cross_up = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
    unet1 = dict(block_out_channels=[32, 64], down_block_types=[cross, down], up_block_types=[up, cross_up],
                 layers_per_block=1, cross_attention_dim=16, in_channels=9)
    unet2 = dict(block_out_channels=[32, 64], down_block_types=[cross, down], up_block_types=[up, cross_up],
                 layers_per_block=2, cross_attention_dim=16, attention_head_dim=[1, 1])
    unet_xl = dict(block_out_channels=[32, 64, 64], down_block_types=[down, cross, cross], up_block_types=[cross_up, cross_up, up],
                   layers_per_block=1, cross_attention_dim=40, attention_head_dim=[1, 1, 1],
                   transformer_layers_per_block=[1, 2, 3], projection_class_embeddings_input_dim=48)
    clip = network("clip_l", num_hidden_layers=2, **text)
    clip_h = network("open_clip_h", num_hidden_layers=23, **text)
    big = network("open_clip_big_g", num_hidden_layers=2, **{**text, "hidden_size": 24, "projection_dim": 12})
    flux = single_file_flux(1, 2, 3072, 128, 4, 4, 5, 6, True, 1)
    for name, file, parts in [
        ("tiny_sd1", stable_diffusion_1(network("sd1_unet", **unet1), vae, clip, 1),
         [("unet", config("sd1_unet", **unet1)), ("vae", vae_settings), ("clip", None)]),
        ("tiny_sd2", stable_diffusion_2(network("sd2_unet", **unet2), vae, clip_h, 2),
         [("unet", config("sd2_unet", **unet2)), ("open_clip", None)]),
        ("tiny_sdxl", stable_diffusion_xl(network("sdxl_unet", **unet_xl), vae, clip, big, 1),
         [("unet", config("sdxl_unet", **unet_xl)), ("clip", None), ("open_clip", None)]),
        ("tiny_flux", flux, [("flux", None)]),
    ]:
        put(out, f"{name}.single", file)
        tensors = {key: value(key, shape) for key, shape in file.items()}
        for kind, settings in parts:
            found = converted(kind, tensors, settings)
            put(out, f"{name}.{kind}", {key: tuple(t.shape) for key, t in found.items()}, {key: digest(t) for key, t in found.items()})


def write(out):
    out.mkdir(parents=True, exist_ok=True)
    published(out)
    tiny(out)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "diffusion/tests/goldens/keys")
