"""Gradients by torch autograd on the tiny pipeline: of LoRA factors, base weights, the text encoders and the VAE."""

import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file

from golden_file import Golden
from lora_goldens import draw

STEPS, LEARNING_RATE = 3, 1e-3
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
BASE_WEIGHTS = [
    "x_embedder.weight", "context_embedder.bias", "time_text_embed.timestep_embedder.linear_1.weight",
    "time_text_embed.guidance_embedder.linear_2.weight", "time_text_embed.text_embedder.linear_1.weight",
    "transformer_blocks.0.norm1.linear.weight", "transformer_blocks.0.norm1_context.linear.bias",
    "transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.attn.norm_q.weight",
    "transformer_blocks.1.attn.add_k_proj.weight", "transformer_blocks.1.attn.norm_added_k.weight",
    "transformer_blocks.0.attn.to_add_out.weight", "transformer_blocks.1.ff.net.0.proj.weight",
    "transformer_blocks.0.ff_context.net.2.weight", "single_transformer_blocks.0.norm.linear.weight",
    "single_transformer_blocks.1.attn.to_v.weight", "single_transformer_blocks.0.proj_mlp.weight",
    "single_transformer_blocks.1.proj_out.weight", "norm_out.linear.weight", "proj_out.weight", "proj_out.bias",
]
CLIP_WEIGHTS = [
    "embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight",
    "encoder.layers.1.mlp.fc1.bias", "encoder.layers.2.layer_norm2.weight", "final_layer_norm.bias",
]
T5_WEIGHTS = [
    "shared.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.block.1.layer.0.SelfAttention.k.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    "encoder.block.1.layer.1.layer_norm.weight", "encoder.final_layer_norm.weight",
]
VAE_WEIGHTS = [
    "encoder.conv_in.weight", "encoder.down_blocks.0.downsamplers.0.conv.weight", "encoder.mid_block.attentions.0.to_q.weight",
    "encoder.conv_out.bias", "decoder.conv_in.weight", "decoder.mid_block.attentions.0.group_norm.weight",
    "decoder.up_blocks.0.upsamplers.0.conv.weight", "decoder.up_blocks.1.resnets.0.conv_shortcut.weight",
    "decoder.up_blocks.3.resnets.1.norm2.weight", "decoder.conv_out.weight",
]


def patches(latents):
    """[b, c, h, w] -> [b, h/2 * w/2, 4c], as FluxPipeline packs them."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


class Problem:
    """One batch of flow matching: x_t = (1 - sigma) x + sigma n, the target is n - x, the loss its mean square."""

    def __init__(self, pipeline, prompts):
        generator = torch.Generator().manual_seed(55)
        self.pipeline, self.prompts = pipeline, prompts
        self.latents = torch.randn(2, 4, 6, 10, generator=generator)
        self.noise = torch.randn(2, 4, 6, 10, generator=generator)
        self.sigmas = torch.tensor([0.3, 0.85])
        self.guidance = torch.tensor([1.0, 1.0])

    def text(self):
        length = self.pipeline.tokenizer_2.model_max_length
        clip = self.pipeline.tokenizer(self.prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        t5 = self.pipeline.tokenizer_2(self.prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.pipeline.text_encoder_2(t5.input_ids)[0], self.pipeline.text_encoder(clip.input_ids).pooler_output

    def loss(self, embeds, pooled):
        sigma = self.sigmas.view(2, 1, 1, 1)
        mixed = (1 - sigma) * self.latents + sigma * self.noise
        output = self.pipeline.transformer(
            hidden_states=patches(mixed), encoder_hidden_states=embeds, pooled_projections=pooled, timestep=self.sigmas,
            guidance=self.guidance, txt_ids=torch.zeros(embeds.shape[1], 3),
            img_ids=self.pipeline._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32), return_dict=False)[0]
        return (output - patches(self.noise - self.latents)).square().mean()

    def put(self, golden, embeds, pooled):
        for name in ("latents", "noise", "sigmas", "guidance"):
            golden.put(f"in.{name}", getattr(self, name))
        golden.put("in.prompt_embeds", embeds)
        golden.put("in.pooled_prompt_embeds", pooled)


def keep_gradients(golden, prefix, module, names):
    parameters = dict(module.named_parameters())
    for name in names:
        assert parameters[name].grad.abs().max() > 0, name
        golden.put(f"{prefix}.{name}", parameters[name].grad)


def full_gradients(golden, pipeline, problem):
    """All parameters at once, including text encoders, as for training a whole model."""
    embeds, pooled = problem.text()
    problem.put(golden, embeds, pooled)
    loss = problem.loss(embeds, pooled)
    loss.backward()
    golden.put("loss", loss)
    keep_gradients(golden, "gradient.transformer", pipeline.transformer, BASE_WEIGHTS)
    keep_gradients(golden, "gradient.text_encoder", pipeline.text_encoder, CLIP_WEIGHTS)
    keep_gradients(golden, "gradient.text_encoder_2", pipeline.text_encoder_2, T5_WEIGHTS)


def vae_gradients(golden, pipeline):
    """Mean square error of decode(mean of encode(x)), no sampling."""
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(56)) * 2 - 1
    mean = pipeline.vae.encode(image).latent_dist.mean
    loss = (pipeline.vae.decode(mean, return_dict=False)[0] - image).square().mean()
    loss.backward()
    golden.put("vae.image", image)
    golden.put("vae.loss", loss)
    keep_gradients(golden, "gradient.vae", pipeline.vae, VAE_WEIGHTS)


def lora_steps(folder, golden, pipeline, problem):
    """Three AdamW steps (torch's defaults except the learning rate) on the factors of one adapter, on one batch."""
    _, peft = draw(pipeline.transformer.config, 33)
    peft = {k: v for k, v in peft.items() if any(f".{target}.lora_" in k for target in LORA_TARGETS)}
    save_file(peft, folder / "adapter.safetensors")
    pipeline.load_lora_weights(str(folder), weight_name="adapter.safetensors", adapter_name="golden", local_files_only=True)
    with torch.no_grad():
        embeds, pooled = problem.text()
    factors = {k: v for k, v in pipeline.transformer.named_parameters() if "lora_" in k}
    for parameter in pipeline.transformer.parameters():
        parameter.requires_grad_(False)
    for parameter in factors.values():
        parameter.requires_grad_(True)
    assert len(factors) == len(peft)
    optimizer = torch.optim.AdamW(factors.values(), lr=LEARNING_RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = problem.loss(embeds, pooled)
        loss.backward()
        golden.put(f"lora.loss.{step}", loss)
        if step == 0:
            for name, factor in factors.items():
                golden.put(f"lora.gradient.{peft_key(name)}", factor.grad)
        optimizer.step()
    for name, factor in factors.items():
        golden.put(f"lora.after.{peft_key(name)}", factor)


def peft_key(parameter):
    return "transformer." + parameter.replace(".golden.", ".")


def write(folder, pipeline_folder, prompts):
    folder.mkdir()
    golden = Golden()
    pipeline = FluxPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    problem = Problem(pipeline, prompts[:2])
    full_gradients(golden, pipeline, problem)
    vae_gradients(golden, pipeline)
    pipeline.transformer.zero_grad()
    lora_steps(folder, golden, pipeline, problem)
    golden.write(folder / "reference.safetensors", prompts=prompts[:2], learning_rate=LEARNING_RATE, steps=STEPS)
