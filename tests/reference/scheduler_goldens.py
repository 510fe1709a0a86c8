"""Outputs of diffusers' schedulers: timesteps, noise levels and the latents after every step.

    python tests/reference/scheduler_goldens.py [OUT]

The denoiser is a stand-in that both sides compute in f32: 0.5 · input + 0.1 · (call + 1) · pattern, where
the pattern is stored."""

import argparse
from pathlib import Path

import diffusers
import torch

from golden_file import Golden

SHAPE = (1, 4, 5, 3)
SEED = 11

LATENT_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# The published configs of Stable Diffusion 1.5, 2.1 and XL, as far as schedulers read them.
SD15 = LATENT_DIFFUSION | {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SD21 = SD15 | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
SDXL = SD15 | {
    "_class_name": "EulerDiscreteScheduler",
    "prediction_type": "epsilon",
    "interpolation_type": "linear",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
LCM = LATENT_DIFFUSION | {"_class_name": "LCMScheduler", "original_inference_steps": 50, "steps_offset": 1}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}

PNDM, DDIM, EULER, ANCESTRAL = "PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
SDE, KARRAS = {"algorithm_type": "sde-dpmsolver++"}, {"use_karras_sigmas": True}

# Name, config of the model, class that replaces its own (None: keep it), and what a request changes.
CASES = [
    ("sd15-pndm", SD15, None, {}),
    ("sd15-ddim", SD15, DDIM, {}),
    ("sd15-euler", SD15, EULER, {}),
    ("sd15-euler-karras", SD15, EULER, KARRAS),
    ("sd15-euler-a", SD15, ANCESTRAL, {}),
    ("sd15-dpm", SD15, DPM, {}),
    ("sd15-dpm-karras", SD15, DPM, KARRAS),
    ("sd15-dpm-heun", SD15, DPM, {"solver_type": "heun"}),
    ("sd15-dpm-first-order", SD15, DPM, {"solver_order": 1}),
    ("sd15-dpm-sigma-min", SD15, DPM, {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
    ("sd15-dpm-sde", SD15, DPM, SDE),
    ("sd15-dpm-sde-karras", SD15, DPM, SDE | KARRAS),
    ("sd15-dpm-sde-heun", SD15, DPM, SDE | {"solver_type": "heun"}),
    ("sd15-unipc", SD15, UNIPC, {}),
    ("sd15-unipc-karras", SD15, UNIPC, KARRAS),
    ("sd15-unipc-karras-sigma-min", SD15, UNIPC, KARRAS | {"final_sigmas_type": "sigma_min"}),
    ("sd15-unipc-bh1", SD15, UNIPC, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    ("sd15-lcm", SD15, "LCMScheduler", {}),
    ("sd21-ddim", SD21, None, {}),
    ("sd21-pndm", SD21, PNDM, {}),
    ("sd21-euler", SD21, EULER, {}),
    ("sd21-euler-a", SD21, ANCESTRAL, {}),
    ("sd21-dpm", SD21, DPM, {}),
    ("sd21-unipc", SD21, UNIPC, {}),
    ("sd21-lcm", SD21, "LCMScheduler", {}),
    ("sdxl-euler", SDXL, None, {}),
    ("sdxl-euler-a", SDXL, ANCESTRAL, {}),
    ("sdxl-dpm-karras", SDXL, DPM, KARRAS),
    ("sdxl-dpm", SDXL, DPM, {}),
    ("sdxl-unipc", SDXL, UNIPC, {}),
    ("sdxl-ddim-trailing", SDXL, DDIM, {"timestep_spacing": "trailing"}),
    ("sdxl-pndm-trailing", SDXL, PNDM, {"timestep_spacing": "trailing"}),
    ("sdxl-pndm-linspace", SDXL, PNDM, {"timestep_spacing": "linspace"}),
    ("sdxl-euler-trailing", SDXL, EULER, {"timestep_spacing": "trailing"}),
    ("sdxl-euler-range", SDXL, EULER, KARRAS | {"sigma_min": 0.1, "sigma_max": 10.0}),
    ("sdxl-dpm-trailing", SDXL, DPM, {"timestep_spacing": "trailing"}),
    ("lcm", LCM, None, {}),
    # Otherwise the share of the latents in the picture is below 1e-5.
    ("lcm-boundary", LCM | {"timestep_scaling": 0.002}, None, {}),
    ("zero-snr-ddim", SD21 | ZERO_SNR, None, {}),
    ("zero-snr-euler", SD21 | ZERO_SNR, EULER, {}),
    ("zero-snr-euler-a", SD21 | ZERO_SNR, ANCESTRAL, {}),
    ("zero-snr-dpm", SD21 | ZERO_SNR, DPM, {}),
    ("zero-snr-unipc", SD21 | ZERO_SNR, UNIPC, {}),
    ("zero-snr-lcm", SD21 | ZERO_SNR, "LCMScheduler", {}),
    # Each class with its own defaults.
    ("plain-ddim", {"_class_name": DDIM}, None, {}),
    ("plain-ddim-sample", {"_class_name": DDIM, "prediction_type": "sample"}, None, {}),
    ("plain-pndm", {"_class_name": PNDM}, None, {}),
    ("plain-euler", {"_class_name": EULER}, None, {}),
    ("plain-euler-sample", {"_class_name": EULER, "prediction_type": "sample"}, None, {}),
    ("plain-dpm", {"_class_name": DPM}, None, {}),
    ("plain-dpm-sample", {"_class_name": DPM, "prediction_type": "sample"}, None, {}),
    ("cosine-ddim", {"_class_name": DDIM, "beta_schedule": "squaredcos_cap_v2"}, None, {}),
    ("cosine-dpm-karras", {"_class_name": DPM, "beta_schedule": "squaredcos_cap_v2"} | KARRAS, None, {}),
    ("trained-ddim", {"_class_name": DDIM, "num_train_timesteps": 20, "trained_betas": [0.01 * (i + 1) for i in range(20)]}, None, {}),
]


def scheduler(config, name, changes):
    own = getattr(diffusers, config["_class_name"]).from_config(config)
    return (getattr(diffusers, name) if name else type(own)).from_config(own.config, **changes)


def denoise(golden, key, scheduler, steps, strength):
    """As the text-to-image and image-to-image pipelines do it, with one generator for all noise."""
    generator = torch.Generator("cpu").manual_seed(SEED)
    pattern = golden["pattern"]
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    if strength is None:
        latents = torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma
        # Otherwise two first timesteps that round to the same value would lose a step.
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
    else:
        start = max(steps - min(int(steps * strength), steps), 0) * scheduler.order
        timesteps = timesteps[start:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        noise = torch.randn(SHAPE, generator=generator)
        latents = scheduler.add_noise(golden["original"], noise, timesteps[:1])
        golden.put(f"{key}.start", latents)
    golden.put(f"{key}.timesteps", timesteps)
    if hasattr(scheduler, "sigmas"):
        golden.put(f"{key}.sigmas", scheduler.sigmas[-len(timesteps) - 1 :])
    golden.put(f"{key}.initial_scale", float(scheduler.init_noise_sigma))
    takes_generator = "generator" in scheduler.step.__code__.co_varnames
    after, around = [], []
    for i, timestep in enumerate(timesteps):
        seen = scheduler.scale_model_input(latents, timestep)
        output = 0.5 * seen + 0.1 * (i + 1) * pattern
        drawn = {"generator": generator} if takes_generator else {}
        latents = scheduler.step(output, timestep, latents, **drawn).prev_sample
        after.append(latents)
        # What inpainting keeps outside the mask.
        if strength is not None and i + 1 < len(timesteps):
            around.append(scheduler.add_noise(golden["original"], noise, timesteps[i + 1 : i + 2]))
    golden.put(f"{key}.after", torch.stack(after))
    if around:
        golden.put(f"{key}.around", torch.stack(around))


def flow(golden, strength):
    """FLUX's image-to-image pipeline counts its steps in another way."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    steps = 8
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    start = int(max(steps - min(steps * strength, steps), 0))
    scheduler.set_begin_index(start)
    key = f"flow.{strength}"
    golden.put(f"{key}.sigmas", scheduler.sigmas[start:])
    noisy = scheduler.scale_noise(golden["original"], scheduler.timesteps[start : start + 1], golden["pattern"])
    golden.put(f"{key}.start", noisy)


def main(out):
    golden = Golden()
    generator = torch.Generator("cpu").manual_seed(5)
    golden.put("pattern", torch.randn(SHAPE, generator=generator))
    golden.put("original", torch.randn(SHAPE, generator=generator))
    note = {}
    for name, config, other, changes in CASES:
        note[name] = {"config": config, "class": other, "changes": changes}
        for steps, strength in [(8, None), (3, None), (1, None), (8, 0.6)]:
            if name == "plain-pndm" and (steps < 4 or strength):
                continue  # Runge–Kutta takes four steps, from the beginning
            key = f"{name}.{steps}" + (f".{strength}" if strength else "")
            denoise(golden, key, scheduler(config, other, changes), steps, strength)

    for strength in [0.6, 0.99, 1]:
        flow(golden, strength)

    out.mkdir(parents=True, exist_ok=True)
    golden.write(out / "schedulers.safetensors", cases=note, seed=SEED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[2] / "diffusion/tests/goldens"
    parser.add_argument("out", nargs="?", type=Path, default=default)
    main(parser.parse_args().out)
