-- The outbox: what is sent to others about a job, in rows that are written in the transaction that changes its state.
-- Each try is a lease of the row with a fencing token, as with jobs.

CREATE FUNCTION uuid_v7() RETURNS uuid VOLATILE LANGUAGE sql AS $$
    SELECT encode(set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid())
            PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
$$;
COMMENT ON FUNCTION uuid_v7 IS 'A UUID of version 7 (RFC 9562), for rows that are written by triggers';

ALTER TABLE generations ADD COLUMN response_format text NOT NULL DEFAULT 'url'
    CHECK (response_format IN ('url', 'b64_json', 'binary', 'upload'));
COMMENT ON COLUMN generations.response_format IS 'How the caller wants its pictures';

ALTER TABLE projects ADD COLUMN archived boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN projects.archived IS 'Whether its pictures are archived, where the server has an archive';

-- Webhooks of a project, and those that a request names.

CREATE TABLE webhooks (
    id              uuid        PRIMARY KEY,
    project_id      uuid        NOT NULL REFERENCES projects,
    url             text        NOT NULL,
    query           text,
    events          text[]      NOT NULL CHECK (cardinality(events) > 0
        AND events <@ ARRAY['started', 'progress', 'succeeded', 'failed', 'canceled']),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at     timestamptz,
    disabled_reason text,
    CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
);
COMMENT ON TABLE  webhooks                 IS 'Endpoints that are notified of the jobs of a project';
COMMENT ON COLUMN webhooks.id              IS 'UUID v7';
COMMENT ON COLUMN webhooks.project_id      IS 'Owner';
COMMENT ON COLUMN webhooks.url             IS 'Where notifications are posted to, without the query of the URL';
COMMENT ON COLUMN webhooks.query           IS 'The query, which may be a secret; NULL: it has none';
COMMENT ON COLUMN webhooks.events          IS 'Of which events';
COMMENT ON COLUMN webhooks.created_at      IS 'When it was created';
COMMENT ON COLUMN webhooks.disabled_at     IS 'Since when nothing is posted to it; NULL: it is enabled';
COMMENT ON COLUMN webhooks.disabled_reason IS 'A sentence: by whom or why';
CREATE INDEX webhooks_of_project ON webhooks (project_id, id);

CREATE TABLE webhook_secrets (
    id         uuid        PRIMARY KEY,
    project_id uuid        NOT NULL REFERENCES projects,
    secret     bytea       NOT NULL CHECK (octet_length(secret) BETWEEN 24 AND 64),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz
);
COMMENT ON TABLE  webhook_secrets            IS 'Secrets with which the webhooks of a project are signed';
COMMENT ON COLUMN webhook_secrets.id         IS 'UUID v7';
COMMENT ON COLUMN webhook_secrets.project_id IS 'Owner';
COMMENT ON COLUMN webhook_secrets.secret     IS 'The bytes that Standard Webhooks writes as whsec_ and Base64';
COMMENT ON COLUMN webhook_secrets.created_at IS 'When it was created';
COMMENT ON COLUMN webhook_secrets.expires_at IS 'Until then it signs beside its successor; NULL: it is the current one';
CREATE UNIQUE INDEX webhook_secrets_current ON webhook_secrets (project_id) WHERE expires_at IS NULL;

CREATE TABLE job_webhooks (
    job_id      uuid    PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    url         text    NOT NULL,
    query       text,
    had_query   boolean NOT NULL,
    events      text[]  NOT NULL CHECK (cardinality(events) > 0
        AND events <@ ARRAY['started', 'progress', 'succeeded', 'failed', 'canceled']),
    disabled_at timestamptz,
    CHECK (had_query OR query IS NULL)
);
COMMENT ON TABLE  job_webhooks             IS 'The endpoint that a request names for notifications of its job';
COMMENT ON COLUMN job_webhooks.job_id      IS 'The job';
COMMENT ON COLUMN job_webhooks.url         IS 'The URL without its query';
COMMENT ON COLUMN job_webhooks.query       IS 'The query, which may be a secret; NULL: it had none, or it is forgotten';
COMMENT ON COLUMN job_webhooks.had_query   IS 'Whether the URL was stated with a query';
COMMENT ON COLUMN job_webhooks.events      IS 'Of which events';
COMMENT ON COLUMN job_webhooks.disabled_at IS 'Since when nothing is posted to it: the endpoint answered 410; NULL: never';

CREATE TABLE deliveries (
    id           uuid        PRIMARY KEY,
    project_id   uuid        NOT NULL REFERENCES projects,
    job_id       uuid        NOT NULL REFERENCES jobs ON DELETE CASCADE,
    target       text        NOT NULL CHECK (target IN ('upload', 'archive', 'webhook')),
    position     integer     CHECK (position >= 0),
    webhook_id   uuid        REFERENCES webhooks ON DELETE CASCADE,
    event        text        CHECK (event IN ('started', 'progress', 'succeeded', 'failed', 'canceled')),
    body         jsonb,
    url          text,
    status       text        NOT NULL DEFAULT 'pending'
        CHECK (status IN ('waiting', 'pending', 'succeeded', 'failed', 'canceled')),
    attempts     integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    status_code  integer,
    error        text,
    epoch        bigint      NOT NULL DEFAULT 0,
    sender       uuid,
    lease_until  timestamptz,
    due_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at     timestamptz,
    CHECK ((sender IS NULL) = (lease_until IS NULL)),
    CHECK ((ended_at IS NULL) = (status IN ('waiting', 'pending'))),
    CHECK ((target = 'webhook') = (event IS NOT NULL)),
    CHECK ((target = 'webhook') = (body IS NOT NULL)),
    CHECK ((target = 'webhook') = (position IS NULL)),
    CHECK ((target = 'upload') = (url IS NOT NULL))
);
COMMENT ON TABLE  deliveries             IS 'The outbox: what is to be sent, and what became of it';
COMMENT ON COLUMN deliveries.id          IS 'UUID v7. That of a webhook is its webhook-id, the same at each try';
COMMENT ON COLUMN deliveries.project_id  IS 'Owner, as of the job';
COMMENT ON COLUMN deliveries.job_id      IS 'The job that it is about';
COMMENT ON COLUMN deliveries.target      IS 'upload: a picture, to a URL of the caller. archive: a picture and its request, to the archive. webhook: an event';
COMMENT ON COLUMN deliveries.position    IS 'Position of the picture in its job; NULL for webhooks';
COMMENT ON COLUMN deliveries.webhook_id  IS 'The webhook of the project; NULL: the one that the request names';
COMMENT ON COLUMN deliveries.event       IS 'The event that a webhook is about';
COMMENT ON COLUMN deliveries.body        IS 'The payload of a webhook, the same at each try';
COMMENT ON COLUMN deliveries.url         IS 'The URL of an upload, without its query';
COMMENT ON COLUMN deliveries.status      IS 'waiting: its job has not ended. pending: to be sent. canceled: it will not be sent, since its job did not succeed';
COMMENT ON COLUMN deliveries.attempts    IS 'Tries, of which the last one may be under way';
COMMENT ON COLUMN deliveries.status_code IS 'HTTP status of the last answer; NULL: there was none';
COMMENT ON COLUMN deliveries.error       IS 'A sentence about the last failure; NULL: there was none';
COMMENT ON COLUMN deliveries.epoch       IS 'Fencing token: rises with each try and with each change of the URL';
COMMENT ON COLUMN deliveries.sender      IS 'The process that tries; NULL: none';
COMMENT ON COLUMN deliveries.lease_until IS 'When another process may try, unless the try ends before; NULL: at once';
COMMENT ON COLUMN deliveries.due_at      IS 'Not before then';
COMMENT ON COLUMN deliveries.created_at  IS 'When it was written';
COMMENT ON COLUMN deliveries.ended_at    IS 'When it was delivered, given up or canceled';

CREATE INDEX deliveries_due ON deliveries (target, due_at) WHERE status = 'pending';
CREATE INDEX deliveries_failed ON deliveries (target, ended_at) WHERE status = 'failed';
CREATE INDEX deliveries_under_way ON deliveries (project_id, target, lease_until) WHERE lease_until IS NOT NULL;
CREATE UNIQUE INDEX deliveries_of_picture ON deliveries (job_id, target, position) WHERE position IS NOT NULL;
CREATE INDEX deliveries_of_job ON deliveries (job_id) WHERE target = 'webhook';
CREATE INDEX deliveries_of_progress ON deliveries (job_id, created_at) WHERE event = 'progress';
CREATE INDEX job_webhooks_secret ON job_webhooks (job_id) WHERE query IS NOT NULL;
CREATE INDEX deliveries_of_old_progress ON deliveries (created_at) WHERE event = 'progress';
CREATE INDEX deliveries_of_webhook ON deliveries (webhook_id, id) WHERE webhook_id IS NOT NULL;
CREATE INDEX deliveries_of_project ON deliveries (project_id, id) WHERE target = 'webhook';

CREATE TABLE delivery_secrets (
    delivery_id uuid  PRIMARY KEY REFERENCES deliveries ON DELETE CASCADE,
    query       text,
    headers     jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE  delivery_secrets             IS 'What opens the URLs of uploads. A row is deleted when its delivery has succeeded, or a day after it could not';
COMMENT ON COLUMN delivery_secrets.delivery_id IS 'The delivery';
COMMENT ON COLUMN delivery_secrets.query       IS 'The query of the URL; NULL: it has none';
COMMENT ON COLUMN delivery_secrets.headers     IS 'Headers to be sent, by name';

-- Every way in which a job changes its state passes here. Deferred to the COMMIT, when the results of the job are there.
CREATE FUNCTION deliver_job() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    happened text := CASE NEW.status WHEN 'running' THEN 'started' ELSE NEW.status END;
BEGIN
    IF NEW.status = 'succeeded' THEN
        UPDATE deliveries SET status = 'pending', due_at = clock_timestamp()
        WHERE job_id = NEW.id AND position IS NOT NULL AND status = 'waiting';
    END IF;
    IF happened IN ('started', 'succeeded', 'failed', 'canceled') THEN
        PERFORM notify_webhooks(NEW, happened, '{}');
    END IF;
    RETURN NULL;
END $$;

-- Of the progress of a job, a webhook gets one event in half a second.
CREATE FUNCTION notify_webhooks(job jobs, happened text, details jsonb) RETURNS void LANGUAGE sql AS $$
    WITH wanted AS (
        SELECT id FROM webhooks WHERE project_id = job.project_id AND disabled_at IS NULL AND happened = ANY (events)
        UNION ALL
        SELECT NULL FROM job_webhooks WHERE job_id = job.id AND disabled_at IS NULL AND happened = ANY (events)
    )
    INSERT INTO deliveries (id, project_id, job_id, target, webhook_id, event, body)
    SELECT uuid_v7(), job.project_id, job.id, 'webhook', wanted.id, happened, jsonb_build_object(
        'type', job.kind || '.' || happened,
        'timestamp', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'data', jsonb_build_object('id', job.subject, 'kind', job.kind, 'status', job.status, 'project', job.project_id,
            'attempts', job.epoch,
            'artifacts', coalesce((SELECT jsonb_agg(id ORDER BY position) FROM artifacts WHERE job_id = job.id), '[]'),
            'error', CASE WHEN job.error_class IS NOT NULL
                THEN jsonb_build_object('class', job.error_class, 'message', job.error_message) END,
            'urls', jsonb_build_object('self', '/v1/jobs/' || job.subject,
                'subject', '/v1/' || job.kind || 's/' || job.subject)) || details)
    FROM wanted
    WHERE happened <> 'progress' OR NOT EXISTS (
        SELECT FROM deliveries d
        WHERE d.job_id = job.id AND d.event = 'progress' AND d.webhook_id IS NOT DISTINCT FROM wanted.id
          AND d.created_at > clock_timestamp() - interval '0.5 seconds')
$$;

CREATE FUNCTION deliver_progress() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM notify_webhooks(NEW, 'progress', jsonb_build_object('step', NEW.step, 'total_steps', NEW.total_steps));
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER deliver_job AFTER UPDATE OF status ON jobs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION deliver_job();
CREATE TRIGGER deliver_progress AFTER UPDATE OF step ON jobs
    FOR EACH ROW WHEN (NEW.status = 'running' AND NEW.step > 0 AND NEW.step IS DISTINCT FROM OLD.step)
    EXECUTE FUNCTION deliver_progress();

COMMENT ON FUNCTION deliver_job     IS 'Makes deliveries of a job due, and writes its webhooks';
COMMENT ON FUNCTION deliver_progress IS 'Writes webhooks about the progress of a job';
COMMENT ON FUNCTION notify_webhooks IS 'Writes an event of a job for each webhook that wants it';

CREATE OR REPLACE VIEW job_reports AS
SELECT j.id AS job_id,
       to_jsonb(j) || jsonb_build_object(
           'artifacts', (SELECT jsonb_agg(to_jsonb(a) || jsonb_build_object('delivery', to_jsonb(d)) ORDER BY a.position)
                         FROM artifacts a
                         LEFT JOIN deliveries d ON d.job_id = a.job_id AND d.target = 'upload' AND d.position = a.position
                         WHERE a.job_id = j.id),
           'webhook', (SELECT jsonb_build_object('url', w.url, 'events', w.events) FROM job_webhooks w
                       WHERE w.job_id = j.id),
           'gpu_seconds', (SELECT coalesce(sum(t.gpu_seconds), 0) FROM attempts t WHERE t.job_id = j.id)) AS report
FROM jobs j;
