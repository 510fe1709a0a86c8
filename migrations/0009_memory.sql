-- Jobs that did not fit into one worker's memory go to a worker that has more.

ALTER TABLE workers ADD COLUMN vram_budget bigint CHECK (vram_budget > 0);
COMMENT ON COLUMN workers.vram_budget IS 'Bytes of its device''s memory that its engine may use; null = not known';

ALTER TABLE jobs ADD COLUMN memory     bigint CHECK (memory > 0);
ALTER TABLE jobs ADD COLUMN refused_by uuid[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN jobs.memory     IS 'Bytes that it takes at the least, once a worker could not do it: only workers that may use as much claim it; null = nobody said so, or nobody has as much';
COMMENT ON COLUMN jobs.refused_by IS 'Workers into whose memory it did not fit: they do not claim it again while there are others';
COMMENT ON COLUMN jobs.releases   IS 'Attempts given back by a worker that stops, or into whose memory the work does not fit; they cost no other budget';

ALTER TABLE attempts DROP CONSTRAINT attempts_outcome_check;
ALTER TABLE attempts ADD CONSTRAINT attempts_outcome_check
    CHECK (outcome IN ('succeeded', 'failed', 'crashed', 'expired', 'released', 'refused', 'canceled'));
COMMENT ON COLUMN attempts.outcome IS 'succeeded | failed (reported error) | crashed (engine died) | expired (lease lost) | released (drain) | refused (does not fit into memory) | canceled';
COMMENT ON COLUMN attempts.error   IS 'Message of a failed, crashed or refused attempt';

DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (priority DESC, run_at, id) INCLUDE (kind, memory, refused_by) WHERE status = 'queued';
DROP INDEX jobs_ready_on_base;
CREATE INDEX jobs_ready_on_base ON jobs (base_sha256, priority DESC, run_at, id) INCLUDE (kind, memory, refused_by) WHERE status = 'queued';
CREATE INDEX jobs_with_memory ON jobs (memory) WHERE status = 'queued' AND memory IS NOT NULL;
