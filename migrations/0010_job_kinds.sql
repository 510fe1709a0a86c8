-- A job of any kind: one public id, the models that it needs, the model that it will make, and retries.

-- The kinds are a table of the program (domain/src/job/kind.rs).
ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE jobs ADD COLUMN subject    uuid;
ALTER TABLE jobs ADD COLUMN makes      text;
ALTER TABLE jobs ADD COLUMN retry_of   uuid REFERENCES jobs;
ALTER TABLE jobs ADD COLUMN deleted_at timestamptz;
COMMENT ON COLUMN jobs.id         IS 'UUID v7, for the queue alone. Equal to subject since migration 10, another one in older rows';
COMMENT ON COLUMN jobs.kind       IS 'What the job is about: generation | training | import | export and so on, as the program''s table of kinds';
COMMENT ON COLUMN jobs.subject    IS 'Public id: that of the generation, training, import or export';
COMMENT ON COLUMN jobs.makes      IS 'Name of the model that the job will make; null if it makes none';
COMMENT ON COLUMN jobs.retry_of   IS 'The failed job that this one repeats (jobs.id)';
COMMENT ON COLUMN jobs.deleted_at IS 'When its subject was deleted: clients do not see the job from then on';

ALTER TABLE jobs DISABLE TRIGGER USER;
UPDATE jobs SET subject = noun.id, makes = noun.makes, deleted_at = noun.deleted_at FROM (
    SELECT id, job_id, NULL AS makes, deleted_at FROM generations
    UNION ALL SELECT id, job_id, name, deleted_at FROM trainings
    UNION ALL SELECT id, job_id, name, NULL FROM imports
    UNION ALL SELECT e.id, e.job_id, NULL, m.deleted_at FROM exports e JOIN models m ON m.id = e.model_id) AS noun
WHERE noun.job_id = jobs.id;
UPDATE jobs SET subject = id WHERE subject IS NULL;
ALTER TABLE jobs ENABLE TRIGGER USER;

ALTER TABLE jobs ALTER COLUMN subject SET NOT NULL;
CREATE UNIQUE INDEX jobs_subject ON jobs (subject);
CREATE INDEX jobs_makes ON jobs (makes) WHERE makes IS NOT NULL;
CREATE INDEX jobs_retry_of ON jobs (retry_of) WHERE retry_of IS NOT NULL;

CREATE OR REPLACE FUNCTION jobs_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'queued' OR NEW.epoch <> 0 THEN
            RAISE EXCEPTION 'a job begins queued, at epoch 0' USING ERRCODE = 'PJ001';
        END IF;
        RETURN NEW;
    END IF;

    IF OLD.status IN ('succeeded', 'failed', 'canceled') THEN
        -- All that may still happen is that its subject is deleted.
        IF OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL
           AND to_jsonb(NEW) - 'deleted_at' = to_jsonb(OLD) - 'deleted_at' THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'job % is % and never changes again', OLD.subject, OLD.status USING ERRCODE = 'PJ003';
    END IF;

    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('queued', 'running'), ('queued', 'canceled'),
        ('running', 'queued'), ('running', 'succeeded'), ('running', 'failed'), ('running', 'canceled')) THEN
        RAISE EXCEPTION 'job % may not go from % to %', OLD.subject, OLD.status, NEW.status USING ERRCODE = 'PJ002';
    END IF;

    -- Only a claim moves the epoch, and a lease never changes hands without one.
    IF NEW.epoch <> OLD.epoch + (OLD.status = 'queued' AND NEW.status = 'running')::int
       OR (OLD.status = 'running' AND NEW.status = 'running' AND NEW.worker IS DISTINCT FROM OLD.worker) THEN
        RAISE EXCEPTION 'job %: epoch % of % may not become % of %', OLD.subject, OLD.epoch, OLD.worker, NEW.epoch, NEW.worker
            USING ERRCODE = 'PJ004';
    END IF;
    RETURN NEW;
END $$;

CREATE TABLE job_needs (
    job_id   uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    model_id uuid NOT NULL REFERENCES models,
    PRIMARY KEY (job_id, model_id)
);
CREATE INDEX job_needs_model ON job_needs (model_id, job_id);

COMMENT ON TABLE  job_needs          IS 'Models that a job runs with, written when it is enqueued: none of them can be deleted while the job is queued or running';
COMMENT ON COLUMN job_needs.job_id   IS 'The job';
COMMENT ON COLUMN job_needs.model_id IS 'The model';

INSERT INTO job_needs (job_id, model_id)
SELECT job_id, model_id FROM generations
UNION SELECT g.job_id, l.model_id FROM generation_loras l JOIN generations g ON g.id = l.generation_id
UNION SELECT job_id, model_id FROM trainings
UNION SELECT job_id, base_model_id FROM imports WHERE base_model_id IS NOT NULL
UNION SELECT job_id, parts_of_model_id FROM imports WHERE parts_of_model_id IS NOT NULL
UNION SELECT job_id, model_id FROM exports;

-- They served the question which jobs need a model.
DROP INDEX generations_model, generation_loras_model, trainings_model, imports_base, imports_parts_of;

-- What answers tell of a job, with its artifacts.
CREATE VIEW job_reports AS
SELECT j.id AS job_id,
       to_jsonb(j) || jsonb_build_object('artifacts',
           (SELECT jsonb_agg(to_jsonb(a) ORDER BY a.position) FROM artifacts a WHERE a.job_id = j.id)) AS report
FROM jobs j;

-- An import whose query string was forgotten cannot be retried. Of one that ended before this migration nobody knows whether
-- its URL had one.
ALTER TABLE imports ADD COLUMN query_forgotten boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN imports.query_forgotten IS 'A query string of its URLs was forgotten when the job ended, so the same request cannot be made again';
UPDATE imports SET query_forgotten = true FROM jobs
WHERE jobs.id = imports.job_id AND jobs.status IN ('succeeded', 'failed', 'canceled')
  AND (source ->> 'kind' = 'url' OR jsonb_path_exists(coalesce(parts, '{}'), '$.* ? (@.kind == "url")'));

CREATE OR REPLACE FUNCTION imports_forget_query() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE imports SET url_query = NULL, part_queries = NULL, query_forgotten = true
    WHERE job_id = NEW.id AND (url_query IS NOT NULL OR part_queries IS NOT NULL);
    RETURN NULL;
END $$;
