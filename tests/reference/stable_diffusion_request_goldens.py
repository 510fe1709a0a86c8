"""Further Stable Diffusion requests with the tiny pipelines, and weighted prompts, which diffusers does not support.

    python tests/reference/stable_diffusion_request_goldens.py [OUT]

reads the tiny pipelines under OUT (diffusion/tests/goldens) and writes OUT/stable-diffusion-requests.safetensors.
"""

import sys
from pathlib import Path

import diffusers
import numpy
import torch

from flux_goldens import NEGATIVE_PROMPT, PROMPTS
from golden_file import Golden
from stable_diffusion_goldens import HEIGHT, WIDTH, example_mask, example_picture

SIZED = {"height": HEIGHT, "width": WIDTH}
REQUEST = {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE_PROMPT, "num_inference_steps": 4, "guidance_scale": 5.0, "seed": 5}
LONG = "the small green turtle looks at the lighthouse, " * 12

# Prompts and their meaning: chunks of (text, weight), also split after 75 tokens.
WEIGHTED = {
    "brackets": ("a (red) [fox] ((in)) the snow", [[("a ", 1), ("red", 1.1), (" ", 1), ("fox", 1 / 1.1), (" ", 1), ("in", 1.21), (" the snow", 1)]]),
    "numbers": (r"a (red fox:1.5), (in the (snow:0.5):1.2), \(mirrored\)",
                [[("a ", 1), ("red fox", 1.5), (", ", 1), ("in the ", 1.2), ("snow", 0.6), (", (mirrored)", 1)]]),
    "break": ("a red fox BREAK (the lighthouse:0.8)", [[("a red fox", 1)], [("the lighthouse", 0.8)]]),
    "long": (LONG, [[(LONG, 1)]]),
    "long_weighted": (f"a fox, ({LONG}:1.3)", [[("a fox, ", 1), (LONG, 1.3)]]),
    "plain": (PROMPTS[1].replace("(", "").replace(")", ""), [[(PROMPTS[1].replace("(", "").replace(")", ""), 1)]]),
}


def chunks_of(tokenizer, parts):
    """Ids with start, end and padding, and their weights."""
    for part in parts:
        words = [(i, weight) for text, weight in part for i in tokenizer(text, add_special_tokens=False).input_ids]
        for at in range(0, max(len(words), 1), 75):
            chunk = words[at : at + 75]
            padding = [tokenizer.pad_token_id] * (75 - len(chunk))
            ids = [tokenizer.bos_token_id, *(i for i, _ in chunk), tokenizer.eos_token_id, *padding]
            yield ids, [1.0, *(weight for _, weight in chunk), 1.0, *(1.0 for _ in padding)]


def weighted(tokenizer, encoder, parts, states, count=0):
    """A1111's formula: states times weights, then each chunk rescaled to its original mean."""
    hidden, chunks = [], list(chunks_of(tokenizer, parts))
    chunks += list(chunks_of(tokenizer, [[]])) * (count - len(chunks))
    for ids, weights in chunks:
        z = states(encoder(torch.tensor([ids]), output_hidden_states=True))
        if any(weight != 1.0 for weight in weights):
            mean = z.mean()
            z = z * torch.tensor(weights).reshape(1, -1, 1)
            z = z * (mean / z.mean())
        hidden.append(z)
    pooled = encoder(torch.tensor([chunks[0][0]]))
    return torch.cat(hidden, dim=1), getattr(pooled, "text_embeds", None)


def prompts(golden, name, pipeline):
    encoders = [(pipeline.tokenizer, pipeline.text_encoder)]
    states = lambda output: output.last_hidden_state
    if hasattr(pipeline, "text_encoder_2"):
        encoders.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
        states = lambda output: output.hidden_states[-2]
    for case, (_, parts) in WEIGHTED.items():
        count = max(len(list(chunks_of(tokenizer, parts))) for tokenizer, _ in encoders)
        wanted = [weighted(tokenizer, encoder, parts, states, count) for tokenizer, encoder in encoders]
        negative = [weighted(tokenizer, encoder, [[(NEGATIVE_PROMPT, 1)]], states, count) for tokenizer, encoder in encoders]
        both = [torch.cat([hidden for hidden, _ in found], dim=-1) for found in (negative, wanted)]
        golden.put(f"{name}.{case}.hidden", torch.cat(both))
        if wanted[-1][1] is not None:
            golden.put(f"{name}.{case}.pooled", torch.cat([negative[-1][1], wanted[-1][1]]))


def requests(golden, root):
    """name: folder, kind of pipeline, scheduler class and its options, what differs from the base request."""
    picture, mask = {"image": example_picture()}, {"mask_image": example_mask()}
    cases = {
        "unguided": ("sd21-tiny", "", None, {}, {"guidance_scale": 1.0, **SIZED}),
        "rescaled": ("sd21-tiny", "", None, {}, {"guidance_rescale": 0.7, **SIZED}),
        "no_negative": ("sdxl-tiny", "", None, {}, {"negative_prompt": None, **SIZED}),
        "skipped": ("sdxl-tiny", "", None, {}, {"clip_skip": 1, **SIZED}),
        "ancestral_inpaint": ("sd15-tiny", "Inpaint", "EulerAncestralDiscreteScheduler", {}, {"strength": 0.8, **SIZED, **picture, **mask}),
        "ancestral_inpaint_nine": ("sd15-inpaint-tiny", "Inpaint", "EulerAncestralDiscreteScheduler", {},
                                   {"strength": 1.0, **SIZED, **picture, **mask}),
        "sde_img2img": ("sdxl-tiny", "Img2Img", "DPMSolverMultistepScheduler",
                        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, {"strength": 0.8, **picture}),
    }
    notes = {}
    for name, (folder, kind, scheduler, options, differs) in cases.items():
        pipeline = getattr(diffusers, f"StableDiffusion{'XL' if 'xl' in folder else ''}{kind}Pipeline").from_pretrained(
            root / folder, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        if scheduler:
            pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, **options)
        request = {**REQUEST, **differs}
        notes[name] = {key: value for key, value in {**request, **SIZED}.items() if key not in (*picture, *mask)}
        notes[name]["folder"] = folder
        seed = request.pop("seed")
        images = pipeline(**request, generator=torch.Generator("cpu").manual_seed(seed), output_type="np").images
        golden.put(f"{name}.images", images)
        clipped = float(((images <= 0) | (images >= 1)).mean())
        assert clipped < 0.3 and images.std() > 0.05, f"{name} cannot show a difference: {clipped} {images.std()}"
    golden.put("picture", numpy.array(picture["image"]))
    golden.put("mask", numpy.array(mask["mask_image"]))
    return notes


def main():
    default = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    torch.set_num_threads(1)
    golden = Golden()
    with torch.no_grad():
        for folder, kind in [("sd21-tiny", diffusers.StableDiffusionPipeline), ("sdxl-tiny", diffusers.StableDiffusionXLPipeline)]:
            prompts(golden, folder, kind.from_pretrained(root / folder, local_files_only=True))
        notes = requests(golden, root)
    texts = {name: text for name, (text, _) in WEIGHTED.items()}
    golden.write(root / "stable-diffusion-requests.safetensors", requests=notes, prompts=texts, negative_prompt=NEGATIVE_PROMPT)


if __name__ == "__main__":
    main()
