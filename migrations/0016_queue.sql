-- A job keeps its place in the queue, whatever happens to its attempts: it is the time at which it was enqueued. A
-- pause only delays it.

DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (priority DESC, created_at, id)
    INCLUDE (kind, run_at, memory, refused_by) WHERE status = 'queued';
DROP INDEX jobs_ready_on_base;
CREATE INDEX jobs_ready_on_base ON jobs (base_sha256, priority DESC, created_at, id)
    INCLUDE (kind, run_at, memory, refused_by) WHERE status = 'queued';

COMMENT ON COLUMN jobs.created_at   IS 'When it was enqueued, which is its place in the queue';
COMMENT ON COLUMN jobs.run_at       IS 'Not claimed before this instant: when it became due, or will be';
COMMENT ON COLUMN attempts.overtook IS 'created_at of this job, set when the claim passed older jobs over because the worker had its model loaded. Jobs that were enqueued before it have been passed over since started_at';

-- Trouble of a worker's machine costs a job nothing, and a job that failed on one worker is retried on another.

ALTER TABLE jobs ADD COLUMN setbacks integer NOT NULL DEFAULT 0 CHECK (setbacks >= 0);
COMMENT ON COLUMN jobs.setbacks   IS 'Attempts returned because of trouble with the worker''s machine. They count towards no budget, and lengthen the pause';
COMMENT ON COLUMN jobs.refused_by IS 'Workers that could not do it: it did not fit into their memory, or it failed there. They do not claim it again while another worker may';
COMMENT ON COLUMN jobs.failures   IS 'Attempts that ended with an error that the worker reported, since the last checkpoint of a training';
COMMENT ON COLUMN jobs.crashes    IS 'Attempts that ended without a report, since the last checkpoint of a training: lease lost, engine killed';
COMMENT ON COLUMN jobs.releases   IS 'Attempts returned by a worker that is stopping or has too little memory, since the last checkpoint of a training; they count towards no other budget';

CREATE INDEX jobs_refused ON jobs (run_at) WHERE status = 'queued' AND refused_by <> '{}';
CREATE INDEX attempts_unsuccessful ON attempts (worker, ended_at) WHERE outcome IN ('failed', 'crashed');

ALTER TABLE workers ADD COLUMN paused text;
COMMENT ON COLUMN workers.paused IS 'Why it claims no jobs at present; null if it does';
COMMENT ON COLUMN attempts.error IS 'Message of a failed, crashed or refused attempt, or of one that was released because of trouble with the machine';
