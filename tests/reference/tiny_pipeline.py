"""Tiny FLUX pipelines with random weights: every part of the published layout, a few hundred kilobytes each.

Sizes are chosen so that no two widths agree by chance, and each parameter (norm gains and biases included) is moved
from its initial value, so that a forgotten, swapped or transposed tensor is detected.
"""

import collections
import io
import json
import random
from pathlib import Path

import diffusers
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer)

CORPUS = (
    "a red fox in the snow. an oil painting of two owls on a blue background, low quality, blurry, ugly! "
    "the small green turtle looks at 3 big yellow stars; a smiling woman's portrait, long hair (mirrored). "
    "don't forget the rocket, the lighthouse and the piano at night in deep snow under the yellow sun. "
)


def perturb(module, seed):
    """Changes every parameter: matrices are drawn at 1/sqrt(fan in), vectors are shifted by a tenth."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * drawn)
            elif "embedding" in name or "shared" in name or "relative_attention_bias" in name:
                parameter.copy_(0.5 * drawn)
            else:
                parameter.copy_(drawn / parameter[0].numel() ** 0.5)
    return module.eval()


# ---------------------------------------------------------------------------------------------------- tokenizers


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes, in the order CLIP's vocabulary has them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(byte) for byte in printable]
    return alphabet + [chr(256 + i) for i in range(256 - len(printable))]


def byte_pair_merges(text, count):
    """Plain byte pair encoding of an ASCII text; ties go to the pair that sorts first."""
    words = collections.Counter(text.lower().split())
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in pieces.items():
            joined, i = [], 0
            while i < len(parts):
                step = 2 if tuple(parts[i : i + 2]) == best else 1
                joined.append("".join(parts[i : i + step]))
                i += step
            pieces[word] = joined
    return merges


def clip_tokenizer():
    alphabet, merges = byte_alphabet(), byte_pair_merges(CORPUS, 150)
    entries = alphabet + [a + "</w>" for a in alphabet] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=merges, model_max_length=77)


def t5_tokenizer(max_length):
    """A real, small SentencePiece unigram model. Its spiece.model is not kept: 240 KB, the same in tokenizer.json."""
    words = CORPUS.split()
    draw = random.Random(0)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(draw.choices(words, k=12)) for _ in range(1500)]), model_writer=model,
        vocab_size=220, hard_vocab_limit=False, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>", minloglevel=2, num_threads=1)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=max_length)


# ------------------------------------------------------------------------------------------------------ networks


def clip_text_model(tokenizer, hidden, seed, eos_token_id, hidden_act="quick_gelu", projection_dim=None):
    """With a projection to the shared space where its width is given."""
    network = CLIPTextModelWithProjection if projection_dim else CLIPTextModel
    return perturb(network(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden + 8, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=77, hidden_act=hidden_act, projection_dim=projection_dim or hidden,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=eos_token_id, pad_token_id=tokenizer.pad_token_id)), seed)


def t5_encoder(tokenizer, width, seed):
    return perturb(T5EncoderModel(T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=52, num_layers=2, num_heads=5,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
        dropout_rate=0.0)), seed)


def flux_tiny():
    """The shape of FLUX.1-dev: guidance embedding, dynamic shifting, four VAE levels with attention in the middle."""
    clip, t5 = clip_tokenizer(), t5_tokenizer(48)
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
            max_image_seq_len=4096),
        vae=perturb(diffusers.AutoencoderKL(
            in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[8, 16, 16, 24], layers_per_block=1,
            latent_channels=4, norm_num_groups=4, sample_size=64, scaling_factor=0.3611, shift_factor=0.1159,
            use_quant_conv=False, use_post_quant_conv=False), 13),
        # FLUX.1's own config.json says eos_token_id 2, which transformers interprets as "the largest id is the end".
        text_encoder=clip_text_model(clip, 40, 11, eos_token_id=2), tokenizer=clip,
        text_encoder_2=t5_encoder(t5, 24, 12), tokenizer_2=t5,
        transformer=perturb(diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
            num_attention_heads=3, joint_attention_dim=24, pooled_projection_dim=40, guidance_embeds=True,
            axes_dims_rope=(4, 6, 6)), 14),
    )


def flux_tiny_cfg():
    """No guidance embedding, so true CFG guides it; fixed shift; three VAE levels, quant convs, no attention; bf16."""
    clip, t5 = clip_tokenizer(), t5_tokenizer(24)
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=perturb(diffusers.AutoencoderKL(
            in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3, block_out_channels=[8, 16, 24], layers_per_block=2,
            latent_channels=6, norm_num_groups=4, sample_size=32, scaling_factor=0.7, shift_factor=-0.05,
            mid_block_add_attention=False, use_quant_conv=True, use_post_quant_conv=True), 23),
        text_encoder=clip_text_model(clip, 32, 21, eos_token_id=clip.eos_token_id), tokenizer=clip,
        text_encoder_2=t5_encoder(t5, 40, 22), tokenizer_2=t5,
        transformer=perturb(diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=24, num_layers=1, num_single_layers=2, attention_head_dim=12,
            num_attention_heads=2, joint_attention_dim=40, pooled_projection_dim=32, guidance_embeds=False,
            axes_dims_rope=(4, 4, 4)), 24),
    )


def save(pipeline, folder, shard_sizes=None, published_clip_keys=False):
    """Writes the layout of the published repositories: with CLIP's vocab.json and merges.txt, and shards if requested.

    Published CLIP files call their tensors `text_model.…`; transformers 5 writes them without that prefix and reads both.
    """
    folder = Path(folder)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name, size in (shard_sizes or {}).items():
        for old in (folder / name).glob("*.safetensors"):
            old.unlink()
        getattr(pipeline, name).save_pretrained(folder / name, max_shard_size=size)
    if published_clip_keys:
        with_published_clip_keys(folder / "text_encoder")
    write_older_clip_files(folder / "tokenizer")


def with_published_clip_keys(text_encoder):
    weights = text_encoder / "model.safetensors"
    save_file({f"text_model.{k}": v for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})


def write_older_clip_files(tokenizer):
    """The vocab.json and merges.txt equivalent to tokenizer.json."""
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tokenizer / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
