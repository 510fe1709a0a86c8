-- Imports that ask nothing of the network do not wait behind downloads.

ALTER TABLE jobs ADD COLUMN local boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN jobs.local IS 'Whether an import asks nothing of the network: all of its files are uploads, or on the worker''s disk';

DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (priority DESC, created_at, id)
    INCLUDE (kind, run_at, memory, refused_by, local) WHERE status = 'queued';
