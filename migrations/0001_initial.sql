-- The whole schema of Pyrograph. Identifiers are UUID v7 and are made by the application, so that a row and
-- its storage keys are known before anything is written. A status is text under a CHECK, not an enum type:
-- adding one then needs no ALTER TYPE. All digests are lowercase hexadecimal.

-- ───────────────────────────────────────────────────────────────────────────── jobs: the row is the queue

CREATE TABLE jobs (
    id                  uuid        PRIMARY KEY,
    kind                text        NOT NULL CHECK (kind IN ('generation', 'training')),
    status              text        NOT NULL DEFAULT 'queued'
                                    CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    priority            smallint    NOT NULL DEFAULT 0,
    run_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    epoch               bigint      NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    worker              uuid,
    lease_until         timestamptz,
    failures            integer     NOT NULL DEFAULT 0  CHECK (failures >= 0),
    max_failures        integer     NOT NULL DEFAULT 3  CHECK (max_failures >= 1),
    crashes             integer     NOT NULL DEFAULT 0  CHECK (crashes >= 0),
    max_crashes         integer     NOT NULL DEFAULT 3  CHECK (max_crashes >= 1),
    releases            integer     NOT NULL DEFAULT 0  CHECK (releases >= 0),
    max_releases        integer     NOT NULL DEFAULT 20 CHECK (max_releases >= 1),
    cancel_requested_at timestamptz,
    step                integer     NOT NULL DEFAULT 0 CHECK (step >= 0),
    total_steps         integer     NOT NULL DEFAULT 0 CHECK (total_steps >= 0),
    progress            jsonb,
    error_class         text        CHECK (error_class IN ('invalid_input', 'upstream', 'resource', 'crash', 'timeout', 'internal')),
    error_message       text,
    last_sequence       bigint      NOT NULL DEFAULT 0 CHECK (last_sequence >= 0),
    created_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at          timestamptz,
    finished_at         timestamptz,

    CONSTRAINT leased_while_running  CHECK ((status = 'running') = (worker IS NOT NULL)
                                        AND (status = 'running') = (lease_until IS NOT NULL)),
    CONSTRAINT finished_when_terminal CHECK ((status IN ('succeeded', 'failed', 'canceled')) = (finished_at IS NOT NULL)),
    CONSTRAINT error_when_failed     CHECK ((status = 'failed') = (error_class IS NOT NULL)
                                        AND (status = 'failed') = (error_message IS NOT NULL)),
    CONSTRAINT canceled_on_request   CHECK (status <> 'canceled' OR cancel_requested_at IS NOT NULL),
    CONSTRAINT started_with_epoch    CHECK ((epoch > 0) = (started_at IS NOT NULL)),
    CONSTRAINT within_budgets        CHECK (failures <= max_failures AND crashes <= max_crashes AND releases <= max_releases),
    CONSTRAINT step_within_total     CHECK (step <= total_steps)
) WITH (fillfactor = 70);  -- beats and progress update in place: no index below names a column that they change

CREATE INDEX jobs_ready   ON jobs (priority DESC, run_at, id) INCLUDE (kind) WHERE status = 'queued';
CREATE INDEX jobs_running ON jobs (id) WHERE status = 'running';

COMMENT ON TABLE  jobs                     IS 'One unit of work for a worker, and at the same time its place in the queue. Terminal rows never change.';
COMMENT ON COLUMN jobs.id                  IS 'UUID v7';
COMMENT ON COLUMN jobs.kind                IS 'Which noun owns the job: generations.job_id or trainings.job_id points here';
COMMENT ON COLUMN jobs.status              IS 'queued → running → succeeded | failed | canceled; running may fall back to queued. Enforced by the trigger jobs_guard';
COMMENT ON COLUMN jobs.priority            IS 'Higher goes first';
COMMENT ON COLUMN jobs.run_at              IS 'Not to be claimed before this instant: retries back off by moving it';
COMMENT ON COLUMN jobs.epoch               IS 'Fencing token: grows by one with each claim, so it also counts the attempts. 0 = never claimed';
COMMENT ON COLUMN jobs.worker              IS 'Process start (workers.id) that holds the lease; set exactly while running';
COMMENT ON COLUMN jobs.lease_until         IS 'The reaper may take the job back after this instant; an expired lease that nobody reaped is still valid';
COMMENT ON COLUMN jobs.failures            IS 'Attempts that ended with an error that the worker reported';
COMMENT ON COLUMN jobs.max_failures        IS 'The failure that reaches this number is final';
COMMENT ON COLUMN jobs.crashes             IS 'Attempts that ended without a report: lease lost, engine killed';
COMMENT ON COLUMN jobs.max_crashes         IS 'The crash that reaches this number is final';
COMMENT ON COLUMN jobs.releases            IS 'Attempts given back by a draining worker; they cost no other budget';
COMMENT ON COLUMN jobs.max_releases        IS 'The release that reaches this number is final';
COMMENT ON COLUMN jobs.cancel_requested_at IS 'Somebody asked for the end. From then on any end but success is canceled, never a retry';
COMMENT ON COLUMN jobs.step                IS 'Steps done by the attempt that reported last';
COMMENT ON COLUMN jobs.total_steps         IS 'Steps to do; 0 = not known';
COMMENT ON COLUMN jobs.progress            IS 'Data of the last progress report, for instance {"loss": 0.12}';
COMMENT ON COLUMN jobs.error_class         IS 'Why a failed job failed: invalid_input | upstream | resource | crash | timeout | internal';
COMMENT ON COLUMN jobs.error_message       IS 'A sentence for the user; set exactly when failed';
COMMENT ON COLUMN jobs.last_sequence       IS 'Sequence of the newest row of job_events: events are numbered under the lock of this row';
COMMENT ON COLUMN jobs.created_at          IS 'When it was enqueued';
COMMENT ON COLUMN jobs.started_at          IS 'When it was claimed for the first time';
COMMENT ON COLUMN jobs.finished_at         IS 'When it became terminal';

CREATE FUNCTION jobs_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'queued' OR NEW.epoch <> 0 THEN
            RAISE EXCEPTION 'a job begins queued, at epoch 0' USING ERRCODE = 'PJ001';
        END IF;
        RETURN NEW;
    END IF;

    IF OLD.status IN ('succeeded', 'failed', 'canceled') THEN
        RAISE EXCEPTION 'job % is % and never changes again', OLD.id, OLD.status USING ERRCODE = 'PJ003';
    END IF;

    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('queued', 'running'), ('queued', 'canceled'),
        ('running', 'queued'), ('running', 'succeeded'), ('running', 'failed'), ('running', 'canceled')) THEN
        RAISE EXCEPTION 'job % may not go from % to %', OLD.id, OLD.status, NEW.status USING ERRCODE = 'PJ002';
    END IF;

    -- Only a claim moves the epoch, and a lease never changes hands without one.
    IF NEW.epoch <> OLD.epoch + (OLD.status = 'queued' AND NEW.status = 'running')::int
       OR (OLD.status = 'running' AND NEW.status = 'running' AND NEW.worker IS DISTINCT FROM OLD.worker) THEN
        RAISE EXCEPTION 'job %: epoch % of % may not become % of %', OLD.id, OLD.epoch, OLD.worker, NEW.epoch, NEW.worker
            USING ERRCODE = 'PJ004';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER jobs_guard BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_guard();

-- Rows that are written once. Deleting them is allowed, changing them is not.
CREATE FUNCTION immutable_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME USING ERRCODE = 'PJ005';
END $$;

CREATE TABLE attempts (
    job_id     uuid        NOT NULL REFERENCES jobs ON DELETE CASCADE,
    epoch      bigint      NOT NULL CHECK (epoch > 0),
    worker     uuid        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    outcome    text        CHECK (outcome IN ('succeeded', 'failed', 'crashed', 'expired', 'released', 'canceled')),
    error      text,
    PRIMARY KEY (job_id, epoch),
    CONSTRAINT outcome_when_ended CHECK ((ended_at IS NULL) = (outcome IS NULL))
);

CREATE UNIQUE INDEX attempts_one_open ON attempts (job_id) WHERE ended_at IS NULL;

COMMENT ON TABLE  attempts            IS 'One claim of a job by one worker; at most one of a job is open';
COMMENT ON COLUMN attempts.job_id     IS 'The job';
COMMENT ON COLUMN attempts.epoch      IS 'jobs.epoch that the claim got';
COMMENT ON COLUMN attempts.worker     IS 'Process start that made the claim (workers.id)';
COMMENT ON COLUMN attempts.started_at IS 'When it was claimed';
COMMENT ON COLUMN attempts.ended_at   IS 'When it ended; null while it is open';
COMMENT ON COLUMN attempts.outcome    IS 'succeeded | failed (reported error) | crashed (engine died) | expired (lease lost) | released (drain) | canceled';
COMMENT ON COLUMN attempts.error      IS 'Message of a failed or crashed attempt';

CREATE TABLE job_events (
    job_id     uuid        NOT NULL REFERENCES jobs ON DELETE CASCADE,
    sequence   bigint      NOT NULL CHECK (sequence > 0),
    kind       text        NOT NULL CHECK (kind IN ('queued', 'started', 'progress', 'checkpoint', 'warning', 'retrying',
                                                    'succeeded', 'failed', 'canceled')),
    data       jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job_id, sequence)
);

CREATE TRIGGER job_events_immutable BEFORE UPDATE ON job_events FOR EACH ROW EXECUTE FUNCTION immutable_row();

COMMENT ON TABLE  job_events            IS 'What happened to a job, in order, for replay over SSE';
COMMENT ON COLUMN job_events.job_id     IS 'The job';
COMMENT ON COLUMN job_events.sequence   IS '1, 2, 3 … without a gap for each job; the SSE event id';
COMMENT ON COLUMN job_events.kind       IS 'queued | started | progress | checkpoint | warning | retrying | succeeded | failed | canceled';
COMMENT ON COLUMN job_events.data       IS 'Details by kind, for instance {"step": 3, "total_steps": 20}';
COMMENT ON COLUMN job_events.created_at IS 'When it happened';

CREATE TABLE workers (
    id           uuid        PRIMARY KEY,
    name         text        NOT NULL,
    host         text        NOT NULL,
    device       text        NOT NULL,
    queues       text[]      NOT NULL,
    version      text        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    stopped_at   timestamptz
) WITH (fillfactor = 70);

COMMENT ON TABLE  workers              IS 'Worker processes, one row for each start. Only for people to look at: leases live in jobs';
COMMENT ON COLUMN workers.id           IS 'UUID v7 made at process start; never reused';
COMMENT ON COLUMN workers.name         IS 'Name for people, the same after a restart';
COMMENT ON COLUMN workers.host         IS 'Host name';
COMMENT ON COLUMN workers.device       IS 'Device of the engine, for instance cpu or cuda:0';
COMMENT ON COLUMN workers.queues       IS 'Job kinds that it claims';
COMMENT ON COLUMN workers.version      IS 'Version of the pyrograph binary';
COMMENT ON COLUMN workers.started_at   IS 'Process start';
COMMENT ON COLUMN workers.last_seen_at IS 'Last sign of life';
COMMENT ON COLUMN workers.stopped_at   IS 'Orderly stop; null while running or after a crash';

-- ───────────────────────────────────────────────────────────────────────────────────────────── datasets

CREATE TABLE datasets (
    id         uuid        PRIMARY KEY,
    name       text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at timestamptz
);

COMMENT ON TABLE  datasets            IS 'A named set of pictures with captions to train on';
COMMENT ON COLUMN datasets.id         IS 'UUID v7';
COMMENT ON COLUMN datasets.name       IS 'Name for people; need not be unique';
COMMENT ON COLUMN datasets.created_at IS 'When it was created';
COMMENT ON COLUMN datasets.updated_at IS 'When an example was last added or removed';
COMMENT ON COLUMN datasets.deleted_at IS 'Tombstone: invisible from then on';

CREATE TABLE examples (
    id          uuid        PRIMARY KEY,
    dataset_id  uuid        NOT NULL REFERENCES datasets ON DELETE CASCADE,
    position    integer     NOT NULL CHECK (position >= 0),
    storage_key text        NOT NULL UNIQUE,
    sha256      text        NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    media_type  text        NOT NULL CHECK (media_type IN ('image/png', 'image/jpeg', 'image/webp')),
    width       integer     NOT NULL CHECK (width > 0),
    height      integer     NOT NULL CHECK (height > 0),
    bytes       bigint      NOT NULL CHECK (bytes > 0),
    caption     text        NOT NULL DEFAULT '' CHECK (char_length(caption) <= 10000),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (dataset_id, position)
);

CREATE TRIGGER examples_immutable BEFORE UPDATE ON examples FOR EACH ROW EXECUTE FUNCTION immutable_row();

COMMENT ON TABLE  examples             IS 'One picture of a dataset with its caption';
COMMENT ON COLUMN examples.id          IS 'UUID v7';
COMMENT ON COLUMN examples.dataset_id  IS 'The dataset';
COMMENT ON COLUMN examples.position    IS 'Order within the dataset; deleting leaves a gap';
COMMENT ON COLUMN examples.storage_key IS 'Where the bytes are in the bucket';
COMMENT ON COLUMN examples.sha256      IS 'SHA-256 of the bytes';
COMMENT ON COLUMN examples.media_type  IS 'image/png | image/jpeg | image/webp, found by content';
COMMENT ON COLUMN examples.width       IS 'Pixels';
COMMENT ON COLUMN examples.height      IS 'Pixels';
COMMENT ON COLUMN examples.bytes       IS 'Size of the stored object';
COMMENT ON COLUMN examples.caption     IS 'What the picture shows; may be empty';
COMMENT ON COLUMN examples.created_at  IS 'When it was added';

CREATE TABLE uploads (
    id           uuid        PRIMARY KEY,
    dataset_id   uuid        NOT NULL REFERENCES datasets ON DELETE CASCADE,
    storage_key  text        NOT NULL UNIQUE,
    file_name    text        NOT NULL CHECK (char_length(file_name) BETWEEN 1 AND 255),
    media_type   text        NOT NULL CHECK (media_type IN ('image/png', 'image/jpeg', 'image/webp')),
    caption      text        NOT NULL DEFAULT '' CHECK (char_length(caption) <= 10000),
    expires_at   timestamptz NOT NULL,
    completed_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX uploads_dataset ON uploads (dataset_id);

COMMENT ON TABLE  uploads              IS 'A presigned PUT that was handed out and waits for its completion';
COMMENT ON COLUMN uploads.id           IS 'UUID v7';
COMMENT ON COLUMN uploads.dataset_id   IS 'The dataset that gets the picture';
COMMENT ON COLUMN uploads.storage_key  IS 'Where the client puts the bytes; outside the keys of examples';
COMMENT ON COLUMN uploads.file_name    IS 'Name that the client gave; never part of a key';
COMMENT ON COLUMN uploads.media_type   IS 'Content type that the URL was signed for';
COMMENT ON COLUMN uploads.caption      IS 'Caption for the example to be';
COMMENT ON COLUMN uploads.expires_at   IS 'When the URL ends';
COMMENT ON COLUMN uploads.completed_at IS 'When the example was made of it';
COMMENT ON COLUMN uploads.created_at   IS 'When the URL was handed out';

-- ─────────────────────────────────────────────────────────────────────────────────────────────── models

CREATE TABLE models (
    id            uuid        PRIMARY KEY,
    name          text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    kind          text        NOT NULL CHECK (kind IN ('checkpoint', 'lora')),
    family        text        NOT NULL,
    base_model_id uuid        REFERENCES models,
    files         jsonb       NOT NULL CHECK (jsonb_typeof(files) = 'array'),
    bytes         bigint      NOT NULL CHECK (bytes >= 0),
    sha256        text        NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    trigger_word  text,
    training_id   uuid,
    defaults      jsonb       NOT NULL DEFAULT '{}',
    built_in      boolean     NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at    timestamptz,
    CONSTRAINT base_only_of_lora CHECK (kind = 'lora' OR base_model_id IS NULL)
);

CREATE UNIQUE INDEX models_name ON models (name) WHERE deleted_at IS NULL;
CREATE INDEX models_base ON models (base_model_id) WHERE base_model_id IS NOT NULL;

COMMENT ON TABLE  models               IS 'Weights: a checkpoint to run, or a LoRA to run on top of one';
COMMENT ON COLUMN models.id            IS 'UUID v7';
COMMENT ON COLUMN models.name          IS 'Unique among the models that are not deleted';
COMMENT ON COLUMN models.kind          IS 'checkpoint | lora';
COMMENT ON COLUMN models.family        IS 'Architecture, for instance flux; a LoRA fits checkpoints of its family only';
COMMENT ON COLUMN models.base_model_id IS 'Checkpoint that a LoRA was trained on, where known';
COMMENT ON COLUMN models.files         IS '[{path, storage_key, sha256, bytes}]';
COMMENT ON COLUMN models.bytes         IS 'Sum over the files';
COMMENT ON COLUMN models.sha256        IS 'checkpoint: SHA-256 over the sorted lines "path\0sha256\n"; lora: of its one file';
COMMENT ON COLUMN models.trigger_word  IS 'Word that calls what a LoRA learned';
COMMENT ON COLUMN models.training_id   IS 'Training that made it, if one did';
COMMENT ON COLUMN models.defaults      IS '{num_inference_steps, guidance_scale, true_cfg_scale, width, height, size_multiple}';
COMMENT ON COLUMN models.built_in      IS 'Came with the binary and may not be deleted';
COMMENT ON COLUMN models.created_at    IS 'When it was added';
COMMENT ON COLUMN models.deleted_at    IS 'Tombstone: invisible from then on';

-- ────────────────────────────────────────────────────────────────────────────────────────── generations

CREATE TABLE generations (
    id         uuid        PRIMARY KEY,
    job_id     uuid        NOT NULL UNIQUE REFERENCES jobs,
    model_id   uuid        NOT NULL REFERENCES models,
    params     jsonb       NOT NULL,
    seed       bigint      NOT NULL CHECK (seed >= 0),
    warnings   jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(warnings) = 'array'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at timestamptz
);

CREATE INDEX generations_model ON generations (model_id);

COMMENT ON TABLE  generations            IS 'A request for pictures';
COMMENT ON COLUMN generations.id         IS 'UUID v7';
COMMENT ON COLUMN generations.job_id     IS 'Its job, written in the same transaction';
COMMENT ON COLUMN generations.model_id   IS 'Checkpoint to run';
COMMENT ON COLUMN generations.params     IS 'Validated parameters, defaults filled in';
COMMENT ON COLUMN generations.seed       IS 'Seed of the first picture; picture i uses seed + i';
COMMENT ON COLUMN generations.warnings   IS 'Sentences for the user, written with the result';
COMMENT ON COLUMN generations.created_at IS 'When it was asked for';
COMMENT ON COLUMN generations.deleted_at IS 'Tombstone: invisible from then on';

CREATE TABLE generation_loras (
    generation_id uuid             NOT NULL REFERENCES generations ON DELETE CASCADE,
    position      integer          NOT NULL CHECK (position >= 0),
    model_id      uuid             NOT NULL REFERENCES models,
    scale         double precision NOT NULL,
    PRIMARY KEY (generation_id, position)
);

CREATE INDEX generation_loras_model ON generation_loras (model_id);

COMMENT ON TABLE  generation_loras               IS 'LoRAs that a generation runs with';
COMMENT ON COLUMN generation_loras.generation_id IS 'The generation';
COMMENT ON COLUMN generation_loras.position      IS 'Order of the request';
COMMENT ON COLUMN generation_loras.model_id      IS 'The LoRA';
COMMENT ON COLUMN generation_loras.scale         IS 'Factor on its effect; 1 = as trained, 0 = none';

-- ──────────────────────────────────────────────────────────────────────────────────────────── trainings

CREATE TABLE trainings (
    id              uuid        PRIMARY KEY,
    job_id          uuid        NOT NULL UNIQUE REFERENCES jobs,
    name            text        NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    dataset_id      uuid        NOT NULL REFERENCES datasets,
    model_id        uuid        NOT NULL REFERENCES models,
    config          jsonb       NOT NULL,
    examples        jsonb       NOT NULL CHECK (jsonb_typeof(examples) = 'array'),
    dataset_sha256  text        NOT NULL CHECK (dataset_sha256 ~ '^[0-9a-f]{64}$'),
    warnings        jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(warnings) = 'array'),
    output_model_id uuid        REFERENCES models,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at      timestamptz
);

CREATE INDEX trainings_dataset ON trainings (dataset_id);
CREATE INDEX trainings_model   ON trainings (model_id);

ALTER TABLE models ADD CONSTRAINT models_training_id_fkey FOREIGN KEY (training_id) REFERENCES trainings;

COMMENT ON TABLE  trainings                 IS 'A request for a LoRA';
COMMENT ON COLUMN trainings.id              IS 'UUID v7';
COMMENT ON COLUMN trainings.job_id          IS 'Its job, written in the same transaction';
COMMENT ON COLUMN trainings.name            IS 'Name that the LoRA will have';
COMMENT ON COLUMN trainings.dataset_id      IS 'Dataset that the examples were taken from';
COMMENT ON COLUMN trainings.model_id        IS 'Checkpoint to train on';
COMMENT ON COLUMN trainings.config          IS 'Validated configuration, defaults filled in';
COMMENT ON COLUMN trainings.examples        IS 'Snapshot [{storage_key, sha256, caption, media_type}]: later changes of the dataset do not reach it';
COMMENT ON COLUMN trainings.dataset_sha256  IS 'SHA-256 over the snapshot';
COMMENT ON COLUMN trainings.warnings        IS 'Sentences for the user, written with the result';
COMMENT ON COLUMN trainings.output_model_id IS 'The LoRA, once the job succeeded';
COMMENT ON COLUMN trainings.created_at      IS 'When it was asked for';
COMMENT ON COLUMN trainings.deleted_at      IS 'Tombstone: invisible from then on';

CREATE TABLE training_checkpoints (
    training_id uuid        NOT NULL REFERENCES trainings ON DELETE CASCADE,
    step        integer     NOT NULL CHECK (step > 0),
    epoch       bigint      NOT NULL CHECK (epoch > 0),
    storage_key text        NOT NULL UNIQUE,
    sha256      text        NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    bytes       bigint      NOT NULL CHECK (bytes > 0),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (training_id, step, epoch)
);

CREATE TRIGGER training_checkpoints_immutable BEFORE UPDATE ON training_checkpoints FOR EACH ROW EXECUTE FUNCTION immutable_row();

COMMENT ON TABLE  training_checkpoints             IS 'States from which another attempt can go on';
COMMENT ON COLUMN training_checkpoints.training_id IS 'The training';
COMMENT ON COLUMN training_checkpoints.step        IS 'Steps done';
COMMENT ON COLUMN training_checkpoints.epoch       IS 'Attempt that wrote it';
COMMENT ON COLUMN training_checkpoints.storage_key IS 'Where the state is in the bucket';
COMMENT ON COLUMN training_checkpoints.sha256      IS 'SHA-256 of the bytes';
COMMENT ON COLUMN training_checkpoints.bytes       IS 'Size of the stored object';
COMMENT ON COLUMN training_checkpoints.created_at  IS 'When it was committed';

-- ──────────────────────────────────────────────────────────────────────────────────────────── artifacts

CREATE TABLE artifacts (
    id          uuid        PRIMARY KEY,
    job_id      uuid        NOT NULL,
    position    integer     NOT NULL CHECK (position >= 0),
    epoch       bigint      NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('image', 'lora')),
    storage_key text        NOT NULL UNIQUE,
    media_type  text        NOT NULL,
    width       integer     CHECK (width > 0),
    height      integer     CHECK (height > 0),
    bytes       bigint      NOT NULL CHECK (bytes > 0),
    sha256      text        NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    md5         text        NOT NULL CHECK (md5 ~ '^[0-9a-f]{32}$'),
    seed        bigint      CHECK (seed >= 0),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (job_id, position),
    FOREIGN KEY (job_id, epoch) REFERENCES attempts (job_id, epoch) ON DELETE CASCADE,
    CONSTRAINT size_of_image CHECK ((kind = 'image') = (width IS NOT NULL AND height IS NOT NULL))
);

CREATE TRIGGER artifacts_immutable BEFORE UPDATE ON artifacts FOR EACH ROW EXECUTE FUNCTION immutable_row();

COMMENT ON TABLE  artifacts             IS 'What a succeeded job made; written in the transaction that makes it succeed';
COMMENT ON COLUMN artifacts.id          IS 'UUID v7';
COMMENT ON COLUMN artifacts.job_id      IS 'The job';
COMMENT ON COLUMN artifacts.position    IS 'Order within the job; one artifact for each position, ever';
COMMENT ON COLUMN artifacts.epoch       IS 'Attempt that made it';
COMMENT ON COLUMN artifacts.kind        IS 'image | lora';
COMMENT ON COLUMN artifacts.storage_key IS 'Where the bytes are in the bucket';
COMMENT ON COLUMN artifacts.media_type  IS 'Content type of the object';
COMMENT ON COLUMN artifacts.width       IS 'Pixels; images only';
COMMENT ON COLUMN artifacts.height      IS 'Pixels; images only';
COMMENT ON COLUMN artifacts.bytes       IS 'Size of the object';
COMMENT ON COLUMN artifacts.sha256      IS 'SHA-256 of the bytes';
COMMENT ON COLUMN artifacts.md5         IS 'MD5 of the bytes, shown as image_hash';
COMMENT ON COLUMN artifacts.seed        IS 'Seed that makes this picture again';
COMMENT ON COLUMN artifacts.created_at  IS 'When it was committed';
