"""Pictures of the tiny Stable Diffusion pipelines with an adapter on the UNet, its convolutions and the text encoders.

    python tests/reference/stable_diffusion_lora_goldens.py [OUT]

reads the tiny pipelines under OUT (diffusion/tests/goldens) and writes OUT/stable-diffusion-lora/.
"""

import sys
from pathlib import Path

import diffusers
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from golden_file import Golden
from stable_diffusion_goldens import REQUEST

FOLDERS = {"sd15-tiny": diffusers.StableDiffusionPipeline, "sdxl-tiny": diffusers.StableDiffusionXLPipeline}
UNET = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v", "to_out.0", "ff.net.2", "conv1"])
TEXT = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "out_proj", "fc1"])


def adapter(pipeline, path, seed):
    """Drawn again, so that nothing is zero."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name in ("unet", "text_encoder", "text_encoder_2"):
        network = getattr(pipeline, name, None)
        if network is None:
            continue
        network.add_adapter(UNET if name == "unet" else TEXT, adapter_name="drawn")
        for key, value in sorted(get_peft_model_state_dict(network, adapter_name="drawn").items()):
            # The text model's name in files, wherever transformers keeps its layers.
            key = key if name == "unet" or key.startswith("text_model.") else f"text_model.{key}"
            state[f"{name}.{key}"] = torch.randn(value.shape, generator=generator) * 0.4
    save_file(state, path)


def main():
    default = Path(__file__).resolve().parents[2] / "diffusion" / "tests" / "goldens"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    (root / "stable-diffusion-lora").mkdir(exist_ok=True)
    torch.set_num_threads(1)
    golden, request = Golden(), {**REQUEST, "guidance_scale": 5.0}
    with torch.no_grad():
        for number, (folder, kind) in enumerate(FOLDERS.items()):
            path = root / "stable-diffusion-lora" / f"{folder}.safetensors"
            adapter(kind.from_pretrained(root / folder, local_files_only=True), path, 90 + number)
            pipeline = kind.from_pretrained(root / folder, local_files_only=True)
            pipeline.set_progress_bar_config(disable=True)
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="drawn", local_files_only=True)
            call = {key: value for key, value in request.items() if key != "seed"}
            for scale in (0.0, 0.5, 1.0):
                pipeline.set_adapters(["drawn"], [scale])
                golden.put(f"{folder}.{scale}", pipeline(
                    **call, generator=torch.Generator("cpu").manual_seed(request["seed"]), output_type="np").images)
            effect = (golden[f"{folder}.1.0"] - golden[f"{folder}.0.0"]).abs().max()
            assert effect > 0.1, f"an adapter that does nothing proves nothing: {effect}"
            texts = {key.split(".")[0] for key in pipeline.get_list_adapters()}
            print(folder, texts, float(effect))
    golden.write(root / "stable-diffusion-lora" / "reference.safetensors", request=request)


if __name__ == "__main__":
    main()
