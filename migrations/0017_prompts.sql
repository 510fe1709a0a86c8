-- A LoRA's own strength on the text encoders, as prompts can state it: <lora:name:text encoders:denoiser>.
ALTER TABLE generation_loras ADD COLUMN text_encoder_scale double precision;
COMMENT ON COLUMN generation_loras.text_encoder_scale IS 'Factor on its effect on the text encoders; null = scale';
