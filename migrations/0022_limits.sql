-- Accounting (which key asked for a job, how long a device was held for it, how many bytes a project has stored), quotas
-- and retention of projects, and their deletion.

ALTER TABLE jobs ADD COLUMN key_id uuid;
COMMENT ON COLUMN jobs.key_id IS 'The key of the caller that asked for it, also of one that is gone; NULL: it had none, or asked before 0022';

-- Device time. An attempt that is open has none yet.

ALTER TABLE attempts ADD COLUMN project_id uuid;
ALTER TABLE attempts ADD COLUMN holds_device boolean;
UPDATE attempts SET project_id = jobs.project_id, holds_device = jobs.kind IN ('generation', 'training')
FROM jobs WHERE jobs.id = attempts.job_id;
ALTER TABLE attempts ALTER COLUMN project_id SET NOT NULL;
ALTER TABLE attempts ALTER COLUMN holds_device SET NOT NULL;
ALTER TABLE attempts ADD COLUMN gpu_seconds double precision NOT NULL GENERATED ALWAYS AS (
    CASE WHEN holds_device AND ended_at > started_at THEN extract(epoch FROM ended_at - started_at) ELSE 0 END) STORED;

CREATE INDEX attempts_of_project ON attempts (project_id, ended_at) INCLUDE (gpu_seconds) WHERE ended_at IS NOT NULL;

COMMENT ON COLUMN attempts.project_id   IS 'Owner, as of the job';
COMMENT ON COLUMN attempts.holds_device IS 'Whether the work ran on the engine, which does one job at a time; false for work beside it';
COMMENT ON COLUMN attempts.gpu_seconds  IS 'Seconds for which the device of the worker was held; 0 while it is open, and for work beside the engine';
COMMENT ON COLUMN attempts.ended_at     IS 'When it ended: reported by its worker, or when the lease ran out; null while it is open';

CREATE FUNCTION gpu_seconds_today(project uuid) RETURNS double precision STABLE LANGUAGE sql AS $$
    SELECT (SELECT coalesce(sum(gpu_seconds), 0) FROM attempts
            WHERE project_id = $1 AND ended_at >= date_trunc('day', statement_timestamp(), 'UTC'))
         + (SELECT coalesce(sum(extract(epoch FROM clock_timestamp() - started_at)), 0)::float8 FROM attempts
            WHERE project_id = $1 AND ended_at IS NULL AND holds_device)
$$;
COMMENT ON FUNCTION gpu_seconds_today IS 'Device time of attempts that ended on this day of UTC, and of those that run';

CREATE OR REPLACE VIEW job_reports AS
SELECT j.id AS job_id,
       to_jsonb(j) || jsonb_build_object(
           'artifacts', (SELECT jsonb_agg(to_jsonb(a) ORDER BY a.position) FROM artifacts a WHERE a.job_id = j.id),
           'gpu_seconds', (SELECT coalesce(sum(t.gpu_seconds), 0) FROM attempts t WHERE t.job_id = j.id)) AS report
FROM jobs j;

CREATE FUNCTION model_of_job(job uuid) RETURNS uuid STABLE LANGUAGE sql AS $$
    SELECT coalesce((SELECT model_id FROM generations WHERE job_id = $1), (SELECT model_id FROM trainings WHERE job_id = $1),
                    (SELECT model_id FROM exports WHERE job_id = $1))
$$;
COMMENT ON FUNCTION model_of_job IS 'The model that the price of a job depends on: the checkpoint, or the LoRA that is exported; NULL: none';

-- Stored bytes. A ledger, so that two transactions of one project do not wait for each other: every change is another
-- row, and rows are merged now and then. `counted` says what a row of a table counts for.

ALTER TABLE generations ADD COLUMN source_bytes bigint NOT NULL DEFAULT 0 CHECK (source_bytes >= 0);
COMMENT ON COLUMN generations.source_bytes IS 'Size of the pictures that are stored with it; 0 if it was made before 0022';

CREATE TABLE stored_bytes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id uuid   NOT NULL,
    bytes      bigint NOT NULL
);
-- No foreign key: the rows that are counted have one.
CREATE INDEX stored_bytes_of_project ON stored_bytes (project_id) INCLUDE (bytes);

COMMENT ON TABLE  stored_bytes            IS 'Changes of the bytes that a project has stored; the sum of its rows is what it has';
COMMENT ON COLUMN stored_bytes.id         IS 'In the order of writing';
COMMENT ON COLUMN stored_bytes.project_id IS 'The project';
COMMENT ON COLUMN stored_bytes.bytes      IS 'Bytes that came, or that went if negative';

CREATE FUNCTION counted(inputs) RETURNS TABLE (project_id uuid, bytes bigint) STABLE LANGUAGE sql AS
    'SELECT $1.project_id, $1.bytes';
CREATE FUNCTION counted(examples) RETURNS TABLE (project_id uuid, bytes bigint) STABLE LANGUAGE sql AS
    'SELECT d.project_id, $1.bytes FROM datasets d WHERE d.id = $1.dataset_id';
-- The file of a trained LoRA is that of its model.
CREATE FUNCTION counted(artifacts) RETURNS TABLE (project_id uuid, bytes bigint) STABLE LANGUAGE sql AS
    $$SELECT j.project_id, $1.bytes FROM jobs j WHERE j.id = $1.job_id AND j.kind <> 'training'$$;
CREATE FUNCTION counted(models) RETURNS TABLE (project_id uuid, bytes bigint) STABLE LANGUAGE sql AS
    'SELECT $1.project_id, $1.bytes WHERE $1.deleted_at IS NULL AND NOT $1.shared';
CREATE FUNCTION counted(model_uploads) RETURNS TABLE (project_id uuid, bytes bigint) STABLE LANGUAGE sql AS
    'SELECT $1.project_id, $1.bytes';
CREATE FUNCTION counted(generations) RETURNS TABLE (project_id uuid, bytes bigint) STABLE LANGUAGE sql AS
    'SELECT $1.project_id, $1.source_bytes WHERE $1.deleted_at IS NULL';

CREATE FUNCTION count_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stored_bytes (project_id, bytes)
    SELECT project_id, sum(change) FROM (
        SELECT project_id, -bytes FROM counted(OLD) UNION ALL SELECT project_id, bytes FROM counted(NEW)
    ) AS changes (project_id, change)
    WHERE project_id IS NOT NULL GROUP BY project_id HAVING sum(change) <> 0;
    RETURN NULL;
END $$;

CREATE TRIGGER count_bytes AFTER INSERT OR DELETE ON inputs        FOR EACH ROW EXECUTE FUNCTION count_bytes();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE ON examples      FOR EACH ROW EXECUTE FUNCTION count_bytes();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE ON artifacts     FOR EACH ROW EXECUTE FUNCTION count_bytes();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE ON model_uploads FOR EACH ROW EXECUTE FUNCTION count_bytes();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE OR UPDATE OF deleted_at, shared, project_id ON models
    FOR EACH ROW EXECUTE FUNCTION count_bytes();
-- Most generations have no pictures of their own.
CREATE TRIGGER count_bytes_in AFTER INSERT ON generations
    FOR EACH ROW WHEN (NEW.source_bytes > 0) EXECUTE FUNCTION count_bytes();
CREATE TRIGGER count_bytes_out AFTER DELETE OR UPDATE OF deleted_at ON generations
    FOR EACH ROW WHEN (OLD.source_bytes > 0) EXECUTE FUNCTION count_bytes();

INSERT INTO stored_bytes (project_id, bytes)
SELECT project_id, sum(bytes) FROM (
    SELECT c.* FROM inputs, counted(inputs) c
    UNION ALL SELECT c.* FROM examples, counted(examples) c
    UNION ALL SELECT c.* FROM artifacts, counted(artifacts) c
    UNION ALL SELECT c.* FROM models, counted(models) c
    UNION ALL SELECT c.* FROM model_uploads, counted(model_uploads) c
) AS stored GROUP BY project_id;

-- Quotas, retention and deletion of projects.

ALTER TABLE projects ADD COLUMN max_queued_jobs         integer CHECK (max_queued_jobs >= 0);
ALTER TABLE projects ADD COLUMN max_running_jobs        integer CHECK (max_running_jobs >= 0);
ALTER TABLE projects ADD COLUMN max_jobs_per_day        integer CHECK (max_jobs_per_day >= 0);
ALTER TABLE projects ADD COLUMN max_gpu_seconds_per_day bigint  CHECK (max_gpu_seconds_per_day >= 0);
ALTER TABLE projects ADD COLUMN max_stored_bytes        bigint  CHECK (max_stored_bytes >= 0);
ALTER TABLE projects ADD COLUMN retention_days          integer CHECK (retention_days > 0);
ALTER TABLE projects ADD COLUMN deleted_at              timestamptz;
ALTER TABLE projects ADD COLUMN purged_at               timestamptz;
ALTER TABLE projects ADD COLUMN limited boolean NOT NULL GENERATED ALWAYS AS (deleted_at IS NOT NULL
    OR num_nonnulls(max_queued_jobs, max_jobs_per_day, max_gpu_seconds_per_day, max_stored_bytes) > 0) STORED;

COMMENT ON COLUMN projects.name                    IS 'Unique among the projects that are not deleted';
COMMENT ON COLUMN projects.max_queued_jobs         IS 'Quota of jobs that are queued at a time; NULL: none';
COMMENT ON COLUMN projects.max_running_jobs        IS 'Quota of jobs that run at a time; further ones wait. NULL: none';
COMMENT ON COLUMN projects.max_jobs_per_day        IS 'Quota of jobs that are asked for on a day of UTC; NULL: none';
COMMENT ON COLUMN projects.max_gpu_seconds_per_day IS 'Quota of device time on a day of UTC, by the end of the attempts; further jobs wait. NULL: none';
COMMENT ON COLUMN projects.max_stored_bytes        IS 'Quota of stored bytes; NULL: none';
COMMENT ON COLUMN projects.retention_days          IS 'Days after which its generations and inputs are deleted; NULL: never';
COMMENT ON COLUMN projects.deleted_at              IS 'Tombstone, for the audit log: invisible from then on, and what it has is being deleted';
COMMENT ON COLUMN projects.purged_at               IS 'When nothing of a deleted project was left';
COMMENT ON COLUMN projects.limited                 IS 'Whether a request for a job has to be checked against quotas';

ALTER TABLE projects DROP CONSTRAINT projects_name_key;
CREATE UNIQUE INDEX projects_name ON projects (name) WHERE deleted_at IS NULL;

-- The claim skips jobs of projects that have used up a quota.
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (priority DESC, created_at, id)
    INCLUDE (kind, run_at, memory, refused_by, local, project_id) WHERE status = 'queued';
DROP INDEX jobs_ready_on_base;
CREATE INDEX jobs_ready_on_base ON jobs (base_sha256, priority DESC, created_at, id)
    INCLUDE (kind, run_at, memory, refused_by, project_id) WHERE status = 'queued';
-- Callers with a token of the Hugging Face Hub have no key.

ALTER TABLE audit ADD COLUMN account text;
COMMENT ON COLUMN audit.account IS 'Account of the Hugging Face Hub whose token the caller had; NULL: it had none';
