-- Exports: LoRAs written anew in another program's dialect. What an export makes is the one artifact of its job.

ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('generation', 'training', 'import', 'export'));
COMMENT ON COLUMN jobs.kind IS 'Which noun owns the job: generations.job_id, trainings.job_id, imports.job_id or exports.job_id points here';

CREATE TABLE exports (
    id         uuid        PRIMARY KEY,
    job_id     uuid        NOT NULL UNIQUE REFERENCES jobs,
    model_id   uuid        NOT NULL REFERENCES models,
    format     text        NOT NULL CHECK (format IN ('kohya', 'peft', 'comfy')),
    dtype      text        NOT NULL CHECK (dtype IN ('f32', 'f16', 'bf16')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX exports_model ON exports (model_id, format, dtype);

COMMENT ON TABLE  exports            IS 'A request for a LoRA in another dialect';
COMMENT ON COLUMN exports.id         IS 'UUID v7';
COMMENT ON COLUMN exports.job_id     IS 'Its job, written in the same transaction';
COMMENT ON COLUMN exports.model_id   IS 'The LoRA; what was exported goes with it';
COMMENT ON COLUMN exports.format     IS 'Dialect of the file: kohya | peft | comfy';
COMMENT ON COLUMN exports.dtype      IS 'Type of its values: f32 | f16 | bf16';
COMMENT ON COLUMN exports.created_at IS 'When it was asked for';
