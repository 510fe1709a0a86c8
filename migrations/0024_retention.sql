-- Retention of a project by what is kept, and places of the bucket where objects may appear that no row will name.

ALTER TABLE projects ADD COLUMN keep_outputs_days     integer CHECK (keep_outputs_days > 0);
ALTER TABLE projects ADD COLUMN keep_inputs_days      integer CHECK (keep_inputs_days > 0);
ALTER TABLE projects ADD COLUMN keep_events_days      integer CHECK (keep_events_days > 0);
ALTER TABLE projects ADD COLUMN keep_failed_jobs_days integer CHECK (keep_failed_jobs_days > 0);

COMMENT ON COLUMN projects.keep_outputs_days     IS 'Days after which generations and exports that succeeded are deleted; NULL: never';
COMMENT ON COLUMN projects.keep_inputs_days      IS 'Days after which uploaded inputs are deleted; NULL: never';
COMMENT ON COLUMN projects.keep_events_days      IS 'Days after the end of a job after which its events but the last are deleted; NULL: never';
COMMENT ON COLUMN projects.keep_failed_jobs_days IS 'Days after which jobs that failed or were canceled are deleted; NULL: never';

UPDATE projects SET keep_outputs_days = retention_days, keep_inputs_days = retention_days
WHERE retention_days IS NOT NULL;
ALTER TABLE projects DROP COLUMN retention_days;

CREATE INDEX jobs_ended ON jobs (project_id, finished_at) WHERE finished_at IS NOT NULL;

-- A picture upload that was never completed, and one of a model, are deleted a day after their last URL was given out.

ALTER TABLE model_uploads ADD COLUMN used_at timestamptz NOT NULL DEFAULT clock_timestamp();
COMMENT ON COLUMN model_uploads.used_at    IS 'When its URLs were given out last; a day later it is deleted, unless an unfinished import needs it';
COMMENT ON COLUMN model_uploads.created_at IS 'When it was begun';
CREATE INDEX uploads_open ON uploads (expires_at) WHERE completed_at IS NULL;

-- What an attempt has stored without a row of its own is looked for once the attempt is over: its last request to the
-- bucket may arrive after its end.

CREATE TABLE leftovers (
    prefix text        PRIMARY KEY,
    due_at timestamptz NOT NULL
);
CREATE INDEX leftovers_due ON leftovers (due_at);

COMMENT ON TABLE  leftovers        IS 'Where the bucket is searched for objects that no row names; nobody can make a row for an object there any more';
COMMENT ON COLUMN leftovers.prefix IS 'An attempt in the bucket, such as artifacts/JOB/EPOCH, or an upload';
COMMENT ON COLUMN leftovers.due_at IS 'When the search is due; after it the row is deleted';

CREATE FUNCTION leave_behind(kind text, job uuid, subject uuid, epoch bigint) RETURNS void VOLATILE LANGUAGE sql AS $$
    INSERT INTO leftovers (prefix, due_at)
    SELECT prefix, clock_timestamp() + interval '30 seconds' FROM (VALUES
        ('generation', 'artifacts/'   || $2 || '/' || $4),
        ('export',     'artifacts/'   || $2 || '/' || $4),
        ('training',   'artifacts/'   || $2 || '/' || $4),
        ('training',   'checkpoints/' || $3 || '/' || $4),
        ('import',     'models/'      || $3 || '/' || $4)) AS places (of_kind, prefix)
    WHERE of_kind = $1
    ON CONFLICT (prefix) DO UPDATE SET due_at = EXCLUDED.due_at
$$;
COMMENT ON FUNCTION leave_behind IS 'Asks for a search of what an attempt that is over has stored';

CREATE FUNCTION attempts_leave_behind() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A training that succeeds may have been storing a checkpoint; the others have rows for all that they have stored.
    PERFORM leave_behind(j.kind, j.id, j.subject, NEW.epoch) FROM jobs j
    WHERE j.id = NEW.job_id AND (NEW.outcome <> 'succeeded' OR j.kind = 'training');
    RETURN NULL;
END $$;

CREATE TRIGGER attempts_leave_behind AFTER UPDATE OF ended_at ON attempts FOR EACH ROW
    WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION attempts_leave_behind();
