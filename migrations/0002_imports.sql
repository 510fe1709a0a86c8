-- Imports: models that a worker brings in from elsewhere. An import is to its model what a training is to its LoRA: the row
-- of the model is written in the transaction that makes the import's job succeed.

ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('generation', 'training', 'import'));
COMMENT ON COLUMN jobs.kind IS 'Which noun owns the job: generations.job_id, trainings.job_id or imports.job_id points here';

ALTER TABLE models ADD COLUMN source        jsonb;
ALTER TABLE models ADD COLUMN source_commit text;
ALTER TABLE models ADD COLUMN license       text;
COMMENT ON COLUMN models.source        IS 'Where it was imported from, as imports.source; null for one that was sent, trained or built in';
COMMENT ON COLUMN models.source_commit IS 'As imports.source_commit';
COMMENT ON COLUMN models.license       IS 'Text of the licence that lay beside the files, if one did';

CREATE TABLE imports (
    id              uuid        PRIMARY KEY,
    job_id          uuid        NOT NULL UNIQUE REFERENCES jobs,
    name            text        NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    kind            text        CHECK (kind IN ('checkpoint', 'lora')),
    base_model_id   uuid        REFERENCES models,
    source          jsonb       NOT NULL,
    source_commit   text,
    url_query       text,
    files           jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(files) = 'array'),
    output_model_id uuid        REFERENCES models,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX imports_base ON imports (base_model_id) WHERE base_model_id IS NOT NULL;

COMMENT ON TABLE  imports                 IS 'A request to bring a model in from elsewhere';
COMMENT ON COLUMN imports.id              IS 'UUID v7';
COMMENT ON COLUMN imports.job_id          IS 'Its job, written in the same transaction';
COMMENT ON COLUMN imports.name            IS 'Name that the model will have';
COMMENT ON COLUMN imports.kind            IS 'checkpoint | lora, if the client said which it must be';
COMMENT ON COLUMN imports.base_model_id   IS 'Checkpoint that a LoRA was made for, if the client said so';
COMMENT ON COLUMN imports.source          IS '{kind: url, url, sha256} | {kind: hugging_face, repo, revision, files, variant} | {kind: path, path}; never a secret';
COMMENT ON COLUMN imports.source_commit   IS 'Commit that the revision named when the import first looked; every attempt keeps to it';
COMMENT ON COLUMN imports.url_query       IS 'Query string of the URL, which may hold a signature: never shown, and forgotten by a trigger when the job ends';
COMMENT ON COLUMN imports.files           IS 'Files that are in the bucket already, as models.files: the next attempt goes on after them. Empty when the job has ended and they are the model''s or gone';
COMMENT ON COLUMN imports.output_model_id IS 'The model, once the job succeeded';
COMMENT ON COLUMN imports.created_at      IS 'When it was asked for';

-- However a job ends, and whoever ends it.
CREATE FUNCTION imports_forget_query() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE imports SET url_query = NULL WHERE job_id = NEW.id AND url_query IS NOT NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER imports_forget_query AFTER UPDATE OF status ON jobs FOR EACH ROW
    WHEN (NEW.kind = 'import' AND NEW.status IN ('succeeded', 'failed', 'canceled')) EXECUTE FUNCTION imports_forget_query();
