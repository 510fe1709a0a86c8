-- Hot swap: what the workers have loaded, requests to change that, and what a claim must know to prefer a job whose model is
-- loaded already without keeping others waiting. A model is known here by its digest, as the engine knows it: the same bytes under
-- two names are loaded once.

ALTER TABLE jobs ADD COLUMN base_sha256 text CHECK (base_sha256 ~ '^[0-9a-f]{64}$');
COMMENT ON COLUMN jobs.base_sha256 IS 'models.sha256 of the checkpoint that a generation runs on; null for what gains nothing from a loaded one: a training loads its own';

UPDATE jobs SET base_sha256 = m.sha256
FROM generations g JOIN models m ON m.id = g.model_id
WHERE g.job_id = jobs.id AND jobs.status IN ('queued', 'running');

CREATE INDEX jobs_ready_on_base ON jobs (base_sha256, priority DESC, run_at, id) INCLUDE (kind) WHERE status = 'queued';

ALTER TABLE attempts ADD COLUMN overtook timestamptz;
COMMENT ON COLUMN attempts.overtook IS 'Set when the claim passed older jobs over because its worker had the model of this one loaded: run_at of this one. Jobs that were due before it have been passed over since started_at';

CREATE INDEX attempts_overtaking ON attempts (overtook) WHERE overtook IS NOT NULL;

ALTER TABLE workers ADD COLUMN resident jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(resident) = 'array');
COMMENT ON COLUMN workers.resident     IS 'What its engine has loaded, as it told last: [{sha256, bytes}]. Counts as long as the worker is live';
COMMENT ON COLUMN workers.last_seen_at IS 'Last sign of life, each 15 s; a worker that is silent for 45 s is not live';

CREATE TABLE swaps (
    id            uuid        NOT NULL UNIQUE,
    worker        uuid        NOT NULL REFERENCES workers ON DELETE CASCADE,
    model_id      uuid        NOT NULL REFERENCES models,
    action        text        NOT NULL CHECK (action IN ('load', 'unload')),
    status        text        NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'succeeded', 'failed')),
    error_message text,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    PRIMARY KEY (worker, model_id),
    CONSTRAINT finished_when_terminal CHECK ((status IN ('succeeded', 'failed')) = (finished_at IS NOT NULL)),
    CONSTRAINT error_when_failed      CHECK ((status = 'failed') = (error_message IS NOT NULL))
);

COMMENT ON TABLE  swaps               IS 'The last request to a worker to load or unload a model; carried out between two jobs. It ends with its worker';
COMMENT ON COLUMN swaps.id            IS 'UUID v7 of this request; another request about the same worker and model takes its place';
COMMENT ON COLUMN swaps.worker        IS 'Process start that is asked (workers.id)';
COMMENT ON COLUMN swaps.model_id      IS 'The checkpoint';
COMMENT ON COLUMN swaps.action        IS 'load | unload';
COMMENT ON COLUMN swaps.status        IS 'queued → running → succeeded | failed';
COMMENT ON COLUMN swaps.error_message IS 'A sentence for the user; set exactly when failed';
COMMENT ON COLUMN swaps.created_at    IS 'When it was asked for';
COMMENT ON COLUMN swaps.finished_at   IS 'When it ended';
