-- Comments that were wrong or hard to read. Nothing else changes.

COMMENT ON COLUMN models.defaults IS '{num_inference_steps, guidance_scale, true_cfg_scale, strength, width, height, size_multiple}';

COMMENT ON TABLE  workers          IS 'Worker processes, one row per start. Claims and swaps use vram_budget, resident and last_seen_at; leases are in jobs';
COMMENT ON COLUMN workers.resident IS 'Models that its engine last reported as loaded: [{sha256, bytes}]. Valid while the worker is live';

COMMENT ON TABLE  model_uploads            IS 'A file of a model that a client uploads in parts; the bucket knows which parts have arrived';
COMMENT ON COLUMN model_uploads.created_at IS 'When it was started; it is deleted after a week unless an unfinished import needs it';

COMMENT ON COLUMN imports.parts             IS '{text_encoder, text_encoder_2, vae}, each with the fields of source, if the client sent separate parts; the revision of a repository is replaced by its commit at the first attempt';
COMMENT ON COLUMN imports.parts_of_model_id IS 'Checkpoint that supplies the missing parts, if the client named one';
COMMENT ON COLUMN imports.files             IS 'Files that are already in the bucket, as in models.files; the next attempt continues after them. Empty once the job has ended';

COMMENT ON COLUMN exports.model_id IS 'The LoRA; the export is deleted with it';

COMMENT ON TABLE  previews          IS 'The latest preview of a running generation; deleted when its attempt ends';
COMMENT ON COLUMN previews.revision IS 'Increases with each preview, across attempts, so that a reader can tell whether it has seen this one';

COMMENT ON COLUMN jobs.base_sha256 IS 'models.sha256 of the checkpoint that a generation runs on; null for jobs that gain nothing from a loaded model, such as a training, which loads its own copy';
COMMENT ON COLUMN jobs.memory      IS 'Least bytes of memory that it needs, set when a worker could not run it: only workers with such a budget claim it; null = not known, or no worker has that much';
COMMENT ON COLUMN jobs.refused_by  IS 'Workers whose memory was too small for it; they do not claim it again while there are others';
COMMENT ON COLUMN jobs.releases    IS 'Attempts returned by a worker that is stopping or has too little memory; they count towards no other budget';

COMMENT ON COLUMN attempts.overtook IS 'run_at of this job, set when the claim passed older jobs over because the worker had its model loaded. Jobs that were due before it have been passed over since started_at';

COMMENT ON TABLE  inputs IS 'An uploaded picture that generations can use as image or mask';
