-- Previews of a running generation, and models that make them.

ALTER TABLE models DROP CONSTRAINT models_kind_check;
ALTER TABLE models ADD CONSTRAINT models_kind_check CHECK (kind IN ('checkpoint', 'lora', 'vae_approx'));
COMMENT ON COLUMN models.kind IS 'checkpoint | lora | vae_approx';

ALTER TABLE imports DROP CONSTRAINT imports_kind_check;
ALTER TABLE imports ADD CONSTRAINT imports_kind_check CHECK (kind IN ('checkpoint', 'lora', 'vae_approx'));
COMMENT ON COLUMN imports.kind          IS 'checkpoint | lora | vae_approx, if the client said which it must be';
COMMENT ON COLUMN imports.base_model_id IS 'Checkpoint that a LoRA or a vae_approx was made for, if the client said so';

CREATE TABLE previews (
    job_id      uuid    PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    revision    bigint  NOT NULL CHECK (revision > 0),
    step        integer NOT NULL CHECK (step > 0),
    total_steps integer NOT NULL CHECK (total_steps >= step),
    position    integer NOT NULL CHECK (position >= 0),
    width       integer NOT NULL CHECK (width > 0),
    height      integer NOT NULL CHECK (height > 0),
    jpeg        bytea   NOT NULL CHECK (octet_length(jpeg) <= 524288)
);

COMMENT ON TABLE  previews             IS 'How the picture that a running generation works on looks by now: the newest of the attempt alone, gone when the attempt ends';
COMMENT ON COLUMN previews.job_id      IS 'The job';
COMMENT ON COLUMN previews.revision    IS 'Grows with each preview, also over attempts, so that a reader knows whether it has seen this one';
COMMENT ON COLUMN previews.step        IS 'Steps done, as jobs.step counts them';
COMMENT ON COLUMN previews.total_steps IS 'Steps in all';
COMMENT ON COLUMN previews.position    IS 'Which of the pictures it is, from 0';
COMMENT ON COLUMN previews.width       IS 'Pixels';
COMMENT ON COLUMN previews.height      IS 'Pixels';
COMMENT ON COLUMN previews.jpeg        IS 'The JPEG file, at most 512 KiB';

-- However an attempt ends, and whoever ends it.
CREATE FUNCTION previews_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM previews WHERE job_id = NEW.id;
    RETURN NULL;
END $$;

CREATE TRIGGER previews_forget AFTER UPDATE OF status ON jobs FOR EACH ROW
    WHEN (NEW.kind = 'generation' AND NEW.status <> 'running') EXECUTE FUNCTION previews_forget();
