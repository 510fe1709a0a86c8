-- Checkpoints made of files: the denoiser from one source, other parts from sources of their own or from another checkpoint.

ALTER TABLE imports ADD COLUMN parts             jsonb;
ALTER TABLE imports ADD COLUMN part_queries      jsonb;
ALTER TABLE imports ADD COLUMN parts_of_model_id uuid REFERENCES models;
CREATE INDEX imports_parts_of ON imports (parts_of_model_id) WHERE parts_of_model_id IS NOT NULL;

COMMENT ON COLUMN imports.parts             IS '{text_encoder, text_encoder_2, vae}, each as source, if the client gave them apart; the revision of one that is a repository becomes its commit when the import first looks';
COMMENT ON COLUMN imports.part_queries      IS 'As url_query, by part';
COMMENT ON COLUMN imports.parts_of_model_id IS 'Checkpoint that has the parts which are in no file, if the client named one';

CREATE OR REPLACE FUNCTION imports_forget_query() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE imports SET url_query = NULL, part_queries = NULL
    WHERE job_id = NEW.id AND (url_query IS NOT NULL OR part_queries IS NOT NULL);
    RETURN NULL;
END $$;
