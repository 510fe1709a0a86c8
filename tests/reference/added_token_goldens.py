"""Ids of CLIP tokenizers with added words, by transformers' CLIPTokenizer: one JSON file.

Each case is the tokenizer of sd15-tiny with some of its small files changed as trainers write them. The ids are those
of the padded prompt. Needs transformers only.
"""

import json
import os
import shutil
import sys
import tempfile

from transformers import CLIPTokenizer

GOLDENS = os.path.join(os.path.dirname(__file__), "../../diffusion/tests/goldens")
TOKENIZER = os.path.join(GOLDENS, "sd15-tiny/tokenizer")
PROMPTS = [
    "a photo of <cat-toy>",
    "a photo of <cat-toy> on the beach",
    "a <Cat-Toy>, red",
    "x<cat-toy>y",
    "the  <cat-toy>  and a <cat-toy>",
    "<cat-toy>_1 fox",
    "sks dog",
    "sksdog SKS",
    "the small green turtle " * 25 + "<cat-toy>",
    "<cat-toy> " * 90,
]


def word(content, **flags):
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}
    return {"content": content, **plain, **flags}


def cases():
    def stated(name):
        return json.load(open(os.path.join(TOKENIZER, name)))

    def decoder(**words):
        words = {key[1:]: value for key, value in words.items()}
        return {"tokenizer_config.json": {**stated("tokenizer_config.json"), "added_tokens_decoder": words}}

    special = {**stated("special_tokens_map.json"), "additional_special_tokens": ["<cat-toy>"]}

    yield "added_tokens.json", {"added_tokens.json": {"<cat-toy>": 658, "sks": 659}}
    yield "added_tokens_decoder", decoder(_658=word("<cat-toy>"))
    yield "both", {"added_tokens.json": {"<cat-toy>": 658}, **decoder(_658=word("<cat-toy>"))}
    yield "not normalized", decoder(_658=word("<cat-toy>", normalized=False))
    yield "special", decoder(_658=word("<cat-toy>", normalized=False, special=True))
    yield "single words", decoder(_658=word("sks", single_word=True), _659=word("<cat-toy>", lstrip=True, rstrip=True))
    yield "additional special tokens", {"special_tokens_map.json": special}
    yield "a further special token", {"added_tokens.json": {"<cat-toy>": 658}, "special_tokens_map.json": special}


def write(path):
    written = []
    for name, files in cases():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(TOKENIZER, folder, dirs_exist_ok=True)
            for file, content in files.items():
                json.dump(content, open(os.path.join(folder, file), "w"))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            ids = [tokenizer(prompt, padding="max_length", truncation=True).input_ids for prompt in PROMPTS]
        written.append({"name": name, "files": files, "ids": ids})
    with open(path, "w") as out:
        json.dump({"prompts": PROMPTS, "cases": written}, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    write(os.path.join(sys.argv[1] if len(sys.argv) > 1 else GOLDENS, "added-tokens.json"))
