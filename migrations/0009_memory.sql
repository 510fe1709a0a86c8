-- Jobs that did not fit into one worker's memory go to a worker that has more.

ALTER TABLE workers ADD COLUMN vram_budget bigint CHECK (vram_budget > 0);
COMMENT ON COLUMN workers.vram_budget IS 'Bytes of its device''s memory that its engine may use; null = not known';

ALTER TABLE jobs ADD COLUMN memory bigint CHECK (memory > 0);
COMMENT ON COLUMN jobs.memory IS 'Bytes that it takes, once a worker with less has refused it: only workers that may use as much claim it; null = nobody has';

DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (priority DESC, run_at, id) INCLUDE (kind, memory) WHERE status = 'queued';
DROP INDEX jobs_ready_on_base;
CREATE INDEX jobs_ready_on_base ON jobs (base_sha256, priority DESC, run_at, id) INCLUDE (kind, memory) WHERE status = 'queued';
