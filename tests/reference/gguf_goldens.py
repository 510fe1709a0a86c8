"""GGUF files written by the `gguf` package, and the values that it reads from them.

    python tests/reference/gguf_goldens.py [OUT]

`blocks.gguf` has one tensor of each supported type. The package cannot quantise to the K formats: these tensors are
random blocks with finite scales. `t5.gguf` is the T5 encoder of `flux-tiny` with llama.cpp's names, in F32. The types
in `t5-quantised.gguf` differ from layer to layer, as in the files of `llama-quantize`; its outputs are those of
transformers with the weights that the package reads from it.
"""

import sys
from pathlib import Path

import gguf
import numpy
import torch
from transformers import T5Config, T5EncoderModel

from golden_file import Golden

TYPES = gguf.GGMLQuantizationType
QUANTISED = [TYPES.BF16, TYPES.F16, TYPES.Q4_0, TYPES.Q4_1, TYPES.Q5_0, TYPES.Q5_1, TYPES.Q8_0]
# Offsets of the f16 scales in a block.
K_SCALES = {TYPES.Q4_K: [0, 2], TYPES.Q5_K: [0, 2], TYPES.Q6_K: [208], TYPES.Q2_K: [80, 82], TYPES.Q3_K: [108]}
ROWS, COLUMNS = 4, 512


def random_blocks(kind, draw, rows=ROWS, columns=COLUMNS, scale=0.1):
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = draw.integers(0, 256, (rows * columns // values, size), dtype=numpy.uint8)
    for at in K_SCALES[kind]:
        scales = draw.uniform(-scale, scale, (len(blocks), 1)).astype(numpy.float16)
        blocks[:, at : at + 2] = scales.view(numpy.uint8)
    return blocks.reshape(rows, -1)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def blocks_goldens(out):
    draw = numpy.random.default_rng(5)
    writer, golden = gguf.GGUFWriter(out / "blocks.gguf", "flux"), Golden()
    # Metadata of every type, which readers must skip.
    writer.add_quantization_version(2)
    writer.add_array("tokens", ["a", "bc", "def"])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_bool("yes", True)
    writer.add_string("text", "kept")
    writer.add_uint64("large", 2**40)
    plain = draw.standard_normal((3, 5)).astype(numpy.float32)
    writer.add_tensor("F32", plain)
    golden.put("F32", plain)
    for kind in QUANTISED:
        values = draw.standard_normal((ROWS, COLUMNS)).astype(numpy.float32)
        stored = gguf.quantize(values, kind)
        writer.add_tensor(kind.name, stored, raw_dtype=kind)
        golden.put(kind.name, gguf.dequantize(stored, kind))
    for kind in K_SCALES:
        stored = random_blocks(kind, draw)
        writer.add_tensor(kind.name, stored, raw_dtype=kind)
        golden.put(kind.name, gguf.dequantize(stored, kind))
    finish(writer)
    golden.write(out / "blocks.safetensors")


# ----------------------------------------------------------------------------------------------------------- T5


def llama_t5(keys):
    """llama.cpp's names of the encoder's tensors, by transformers'."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, sum(key.endswith("SelfAttention.q.weight") for key in keys))
    return {key: names.get_name(key, try_suffixes=(".weight",)) for key in keys}


def t5_writer(path, config):
    """With the metadata that llama.cpp's converter writes, including a vocabulary."""
    writer = gguf.GGUFWriter(path, "t5encoder")
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_tokenizer_model("t5")
    writer.add_token_list([f"token {number}" for number in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    return writer


def weights(network):
    found = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    found.pop("encoder.embed_tokens.weight", None)  # `shared.weight` again
    return found


def t5_goldens(out, folder):
    network = T5EncoderModel.from_pretrained(folder, dtype=torch.float32)
    writer, found = t5_writer(out / "t5.gguf", network.config), weights(network)
    for key, name in llama_t5(found).items():
        writer.add_tensor(name, found[key])
    finish(writer)


def quantised_t5_goldens(out):
    config = T5Config(vocab_size=24, d_model=256, d_kv=8, d_ff=32, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu",
                      is_encoder_decoder=False, use_cache=False, dropout_rate=0.0)
    network = T5EncoderModel(config).eval()
    # Such files do not quantise norms and relative positions; rows of 32 values have no K format.
    kinds = {"token_embd": TYPES.F16, "attn_q": TYPES.Q3_K, "attn_k": TYPES.Q2_K, "attn_v": TYPES.Q5_K, "attn_o": TYPES.Q8_0,
             "ffn_gate": TYPES.Q4_K, "ffn_up": TYPES.Q6_K, "ffn_down": TYPES.Q5_1}
    draw, found = numpy.random.default_rng(6), weights(network)
    writer, read = t5_writer(out / "t5-quantised.gguf", config), {}
    for key, name in llama_t5(found).items():
        kind, shape = kinds.get(name.split(".")[-2], TYPES.F32), found[key].shape
        if kind in K_SCALES:
            stored = random_blocks(kind, draw, *shape, scale=1e-3)
        else:
            middle = 1 if key.endswith("norm.weight") else 0
            stored = gguf.quantize((middle + 0.3 * draw.standard_normal(shape)).astype(numpy.float32), kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
        read[key] = torch.from_numpy(gguf.dequantize(stored, kind).reshape(shape).copy())
    finish(writer)
    network.load_state_dict({**read, "encoder.embed_tokens.weight": read["shared.weight"]})
    golden, ids = Golden(), torch.tensor([[3, 17, 9, 22, 3, 8, 1, 0, 0, 0], [5, 1, 0, 0, 0, 0, 0, 0, 0, 0]])
    golden.put("ids", ids)
    with torch.no_grad():
        golden.put("states", network(ids).last_hidden_state)
    golden.write(out / "t5-quantised.safetensors")


def write(out):
    out.mkdir(parents=True, exist_ok=True)
    blocks_goldens(out)
    t5_goldens(out, out.parent / "flux-tiny" / "text_encoder_2")
    quantised_t5_goldens(out)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "diffusion/tests/goldens/gguf")
