SET check_function_bodies = false;
CREATE FUNCTION public.audit_is_append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'rows of the audit log are neither changed nor deleted';
END $$;
CREATE FUNCTION public.count_bytes() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO stored_bytes (project_id, bytes)
    SELECT project_id, sum(change) FROM (
        SELECT project_id, -bytes FROM counted(OLD) UNION ALL SELECT project_id, bytes FROM counted(NEW)
    ) AS changes (project_id, change)
    WHERE project_id IS NOT NULL GROUP BY project_id HAVING sum(change) <> 0;
    RETURN NULL;
END $$;
CREATE TABLE public.artifacts (
    id uuid NOT NULL,
    job_id uuid NOT NULL,
    "position" integer NOT NULL,
    epoch bigint NOT NULL,
    kind text NOT NULL,
    storage_key text NOT NULL,
    media_type text NOT NULL,
    width integer,
    height integer,
    bytes bigint NOT NULL,
    sha256 text NOT NULL,
    md5 text NOT NULL,
    seed bigint,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT artifacts_bytes_check CHECK ((bytes > 0)),
    CONSTRAINT artifacts_height_check CHECK ((height > 0)),
    CONSTRAINT artifacts_kind_check CHECK ((kind = ANY (ARRAY['image'::text, 'mask'::text, 'video'::text, 'audio'::text, 'lora'::text, 'json'::text]))),
    CONSTRAINT artifacts_md5_check CHECK ((md5 ~ '^[0-9a-f]{32}$'::text)),
    CONSTRAINT artifacts_position_check CHECK (("position" >= 0)),
    CONSTRAINT artifacts_seed_check CHECK ((seed >= 0)),
    CONSTRAINT artifacts_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT artifacts_width_check CHECK ((width > 0)),
    CONSTRAINT media_type_of_kind CHECK (
CASE
    WHEN (kind = ANY (ARRAY['image'::text, 'mask'::text])) THEN (media_type ~~ 'image/%'::text)
    WHEN (kind = 'video'::text) THEN (media_type ~~ 'video/%'::text)
    WHEN (kind = 'audio'::text) THEN (media_type ~~ 'audio/%'::text)
    WHEN (kind = 'json'::text) THEN (media_type = 'application/json'::text)
    ELSE true
END),
    CONSTRAINT size_of_picture CHECK (
CASE
    WHEN (kind = ANY (ARRAY['image'::text, 'mask'::text])) THEN (num_nonnulls(width, height) = 2)
    WHEN (kind = 'video'::text) THEN (num_nonnulls(width, height) = ANY (ARRAY[0, 2]))
    ELSE (num_nonnulls(width, height) = 0)
END)
);
COMMENT ON TABLE public.artifacts IS 'What a succeeded job made; written in the transaction that makes it succeed';
COMMENT ON COLUMN public.artifacts.id IS 'UUID v7';
COMMENT ON COLUMN public.artifacts.job_id IS 'The job';
COMMENT ON COLUMN public.artifacts."position" IS 'Order within the job; one artifact for each position, ever';
COMMENT ON COLUMN public.artifacts.epoch IS 'Attempt that made it';
COMMENT ON COLUMN public.artifacts.kind IS 'image | mask | video | audio | lora | json';
COMMENT ON COLUMN public.artifacts.storage_key IS 'Where the bytes are in the bucket';
COMMENT ON COLUMN public.artifacts.media_type IS 'Content type of the object, as the engine reported it with the file';
COMMENT ON COLUMN public.artifacts.width IS 'Pixels; of images, masks and videos';
COMMENT ON COLUMN public.artifacts.height IS 'Pixels; of images, masks and videos';
COMMENT ON COLUMN public.artifacts.bytes IS 'Size of the object';
COMMENT ON COLUMN public.artifacts.sha256 IS 'SHA-256 of the bytes';
COMMENT ON COLUMN public.artifacts.md5 IS 'MD5 of the bytes, shown as image_hash';
COMMENT ON COLUMN public.artifacts.seed IS 'Seed that makes this picture again';
COMMENT ON COLUMN public.artifacts.created_at IS 'When it was committed';
CREATE FUNCTION public.counted(public.artifacts) RETURNS TABLE(project_id uuid, bytes bigint)
    LANGUAGE sql STABLE
    AS $_$SELECT j.project_id, $1.bytes FROM jobs j WHERE j.id = $1.job_id AND j.kind <> 'training'$_$;
CREATE TABLE public.examples (
    id uuid NOT NULL,
    dataset_id uuid NOT NULL,
    "position" integer NOT NULL,
    storage_key text NOT NULL,
    sha256 text NOT NULL,
    media_type text NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    bytes bigint NOT NULL,
    caption text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT examples_bytes_check CHECK ((bytes > 0)),
    CONSTRAINT examples_caption_check CHECK ((char_length(caption) <= 10000)),
    CONSTRAINT examples_height_check CHECK ((height > 0)),
    CONSTRAINT examples_media_type_check CHECK ((media_type = ANY (ARRAY['image/png'::text, 'image/jpeg'::text, 'image/webp'::text]))),
    CONSTRAINT examples_position_check CHECK (("position" >= 0)),
    CONSTRAINT examples_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT examples_width_check CHECK ((width > 0))
);
COMMENT ON TABLE public.examples IS 'One picture of a dataset with its caption';
COMMENT ON COLUMN public.examples.id IS 'UUID v7';
COMMENT ON COLUMN public.examples.dataset_id IS 'The dataset';
COMMENT ON COLUMN public.examples."position" IS 'Order within the dataset; deleting leaves a gap';
COMMENT ON COLUMN public.examples.storage_key IS 'Where the bytes are in the bucket';
COMMENT ON COLUMN public.examples.sha256 IS 'SHA-256 of the bytes';
COMMENT ON COLUMN public.examples.media_type IS 'image/png | image/jpeg | image/webp, found by content';
COMMENT ON COLUMN public.examples.width IS 'Pixels';
COMMENT ON COLUMN public.examples.height IS 'Pixels';
COMMENT ON COLUMN public.examples.bytes IS 'Size of the stored object';
COMMENT ON COLUMN public.examples.caption IS 'What the picture shows; may be empty';
COMMENT ON COLUMN public.examples.created_at IS 'When it was added';
CREATE FUNCTION public.counted(public.examples) RETURNS TABLE(project_id uuid, bytes bigint)
    LANGUAGE sql STABLE
    AS $_$SELECT d.project_id, $1.bytes FROM datasets d WHERE d.id = $1.dataset_id$_$;
CREATE TABLE public.generations (
    id uuid NOT NULL,
    job_id uuid NOT NULL,
    model_id uuid NOT NULL,
    params jsonb NOT NULL,
    seed bigint NOT NULL,
    warnings jsonb DEFAULT '[]'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamp with time zone,
    project_id uuid NOT NULL,
    source_bytes bigint DEFAULT 0 NOT NULL,
    CONSTRAINT generations_seed_check CHECK ((seed >= 0)),
    CONSTRAINT generations_source_bytes_check CHECK ((source_bytes >= 0)),
    CONSTRAINT generations_warnings_check CHECK ((jsonb_typeof(warnings) = 'array'::text))
);
COMMENT ON TABLE public.generations IS 'A request for pictures';
COMMENT ON COLUMN public.generations.id IS 'UUID v7';
COMMENT ON COLUMN public.generations.job_id IS 'Its job, written in the same transaction';
COMMENT ON COLUMN public.generations.model_id IS 'Checkpoint to run';
COMMENT ON COLUMN public.generations.params IS 'Validated parameters, defaults filled in';
COMMENT ON COLUMN public.generations.seed IS 'Seed of the first picture; picture i uses seed + i';
COMMENT ON COLUMN public.generations.warnings IS 'Sentences for the user, written with the result';
COMMENT ON COLUMN public.generations.created_at IS 'When it was asked for';
COMMENT ON COLUMN public.generations.deleted_at IS 'Tombstone: invisible from then on';
COMMENT ON COLUMN public.generations.project_id IS 'Owner';
COMMENT ON COLUMN public.generations.source_bytes IS 'Size of the pictures that are stored with it; 0 if it was made before 0022';
CREATE FUNCTION public.counted(public.generations) RETURNS TABLE(project_id uuid, bytes bigint)
    LANGUAGE sql STABLE
    AS $_$SELECT $1.project_id, $1.source_bytes WHERE $1.deleted_at IS NULL$_$;
CREATE TABLE public.inputs (
    id uuid NOT NULL,
    storage_key text NOT NULL,
    sha256 text NOT NULL,
    media_type text NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    bytes bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    project_id uuid NOT NULL,
    CONSTRAINT inputs_bytes_check CHECK ((bytes > 0)),
    CONSTRAINT inputs_height_check CHECK ((height > 0)),
    CONSTRAINT inputs_media_type_check CHECK ((media_type = ANY (ARRAY['image/png'::text, 'image/jpeg'::text, 'image/webp'::text]))),
    CONSTRAINT inputs_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT inputs_width_check CHECK ((width > 0))
);
COMMENT ON TABLE public.inputs IS 'An uploaded picture that generations can use as image or mask';
COMMENT ON COLUMN public.inputs.id IS 'UUID v7';
COMMENT ON COLUMN public.inputs.storage_key IS 'Where the bytes are in the bucket';
COMMENT ON COLUMN public.inputs.sha256 IS 'SHA-256 of the bytes';
COMMENT ON COLUMN public.inputs.media_type IS 'image/png | image/jpeg | image/webp, found by content';
COMMENT ON COLUMN public.inputs.width IS 'Pixels';
COMMENT ON COLUMN public.inputs.height IS 'Pixels';
COMMENT ON COLUMN public.inputs.bytes IS 'Size of the stored object';
COMMENT ON COLUMN public.inputs.created_at IS 'When it was uploaded';
COMMENT ON COLUMN public.inputs.project_id IS 'Owner';
CREATE FUNCTION public.counted(public.inputs) RETURNS TABLE(project_id uuid, bytes bigint)
    LANGUAGE sql STABLE
    AS $_$SELECT $1.project_id, $1.bytes$_$;
CREATE TABLE public.model_uploads (
    id uuid NOT NULL,
    bytes bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    project_id uuid NOT NULL,
    CONSTRAINT model_uploads_bytes_check CHECK ((bytes > 0))
);
COMMENT ON TABLE public.model_uploads IS 'A file of a model that a client uploads in parts; the bucket knows which parts have arrived';
COMMENT ON COLUMN public.model_uploads.id IS 'UUID v7';
COMMENT ON COLUMN public.model_uploads.bytes IS 'Size of the whole file';
COMMENT ON COLUMN public.model_uploads.created_at IS 'When it was started; it is deleted after a week unless an unfinished import needs it';
COMMENT ON COLUMN public.model_uploads.project_id IS 'Owner';
CREATE FUNCTION public.counted(public.model_uploads) RETURNS TABLE(project_id uuid, bytes bigint)
    LANGUAGE sql STABLE
    AS $_$SELECT $1.project_id, $1.bytes$_$;
CREATE TABLE public.models (
    id uuid NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    family text NOT NULL,
    base_model_id uuid,
    files jsonb NOT NULL,
    bytes bigint NOT NULL,
    sha256 text NOT NULL,
    trigger_word text,
    training_id uuid,
    defaults jsonb DEFAULT '{}'::jsonb NOT NULL,
    built_in boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamp with time zone,
    source jsonb,
    source_commit text,
    license text,
    project_id uuid NOT NULL,
    warnings jsonb DEFAULT '[]'::jsonb NOT NULL,
    networks jsonb,
    shared boolean DEFAULT false NOT NULL,
    CONSTRAINT base_only_of_lora CHECK (((kind = 'lora'::text) OR (base_model_id IS NULL))),
    CONSTRAINT models_bytes_check CHECK ((bytes >= 0)),
    CONSTRAINT models_files_check CHECK ((jsonb_typeof(files) = 'array'::text)),
    CONSTRAINT models_kind_check CHECK ((kind = ANY (ARRAY['checkpoint'::text, 'lora'::text, 'vae_approx'::text]))),
    CONSTRAINT models_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200))),
    CONSTRAINT models_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text))
);
COMMENT ON TABLE public.models IS 'Weights: a checkpoint to run, or a LoRA to run on top of one';
COMMENT ON COLUMN public.models.id IS 'UUID v7';
COMMENT ON COLUMN public.models.name IS 'Unique among the models of its project that are not deleted';
COMMENT ON COLUMN public.models.kind IS 'checkpoint | lora | vae_approx';
COMMENT ON COLUMN public.models.family IS 'Architecture, for instance flux; a LoRA fits checkpoints of its family only';
COMMENT ON COLUMN public.models.base_model_id IS 'Checkpoint that a LoRA was trained on, where known';
COMMENT ON COLUMN public.models.files IS '[{path, storage_key, sha256, bytes}]';
COMMENT ON COLUMN public.models.bytes IS 'Sum over the files';
COMMENT ON COLUMN public.models.sha256 IS 'checkpoint: SHA-256 over the sorted lines "path\0sha256\n"; lora: of its one file';
COMMENT ON COLUMN public.models.trigger_word IS 'Word that calls what a LoRA learned';
COMMENT ON COLUMN public.models.training_id IS 'Training that made it, if one did';
COMMENT ON COLUMN public.models.defaults IS '{num_inference_steps, guidance_scale, true_cfg_scale, strength, width, height, size_multiple}';
COMMENT ON COLUMN public.models.built_in IS 'Came with the binary and may not be deleted';
COMMENT ON COLUMN public.models.created_at IS 'When it was added';
COMMENT ON COLUMN public.models.deleted_at IS 'Tombstone: invisible from then on';
COMMENT ON COLUMN public.models.source IS 'Where it was imported from, as imports.source; null for one that was sent, trained or built in';
COMMENT ON COLUMN public.models.source_commit IS 'As imports.source_commit';
COMMENT ON COLUMN public.models.license IS 'Text of the licence that lay beside the files, if one did';
COMMENT ON COLUMN public.models.project_id IS 'Owner';
COMMENT ON COLUMN public.models.warnings IS 'Sentences about what was assumed when the files were read, or what in them has no effect; a job that uses the model lists them too';
COMMENT ON COLUMN public.models.networks IS 'Configs of a checkpoint''s networks, from which its memory is estimated; null for other kinds, and for a checkpoint of before 0020 that no worker has fetched since';
COMMENT ON COLUMN public.models.shared IS 'Whether every project may use it; built-in models are shared';
CREATE FUNCTION public.counted(public.models) RETURNS TABLE(project_id uuid, bytes bigint)
    LANGUAGE sql STABLE
    AS $_$SELECT $1.project_id, $1.bytes WHERE $1.deleted_at IS NULL AND NOT $1.shared$_$;
CREATE FUNCTION public.gpu_seconds_today(project uuid) RETURNS double precision
    LANGUAGE sql STABLE
    AS $_$
    SELECT (SELECT coalesce(sum(gpu_seconds), 0) FROM attempts
            WHERE project_id = $1 AND ended_at >= date_trunc('day', statement_timestamp(), 'UTC'))
         + (SELECT coalesce(sum(extract(epoch FROM clock_timestamp() - started_at)), 0)::float8 FROM attempts
            WHERE project_id = $1 AND ended_at IS NULL AND holds_device)
$_$;
COMMENT ON FUNCTION public.gpu_seconds_today(project uuid) IS 'Device time of attempts that ended on this day of UTC, and of those that run';
CREATE FUNCTION public.immutable_row() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME USING ERRCODE = 'PJ005';
END $$;
CREATE FUNCTION public.imports_forget_query() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE imports SET url_query = NULL, part_queries = NULL, query_forgotten = true
    WHERE job_id = NEW.id AND (url_query IS NOT NULL OR part_queries IS NOT NULL);
    RETURN NULL;
END $$;
CREATE FUNCTION public.jobs_guard() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.model_of_job(job uuid) RETURNS uuid
    LANGUAGE sql STABLE
    AS $_$
    SELECT coalesce((SELECT model_id FROM generations WHERE job_id = $1), (SELECT model_id FROM trainings WHERE job_id = $1),
                    (SELECT model_id FROM exports WHERE job_id = $1))
$_$;
COMMENT ON FUNCTION public.model_of_job(job uuid) IS 'The model that the price of a job depends on: the checkpoint, or the LoRA that is exported; NULL: none';
CREATE FUNCTION public.previews_forget() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    DELETE FROM previews WHERE job_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TABLE public._sqlx_migrations (
    version bigint NOT NULL,
    description text NOT NULL,
    installed_on timestamp with time zone DEFAULT now() NOT NULL,
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);
CREATE TABLE public.access (
    singleton boolean DEFAULT true NOT NULL,
    closed_at timestamp with time zone,
    CONSTRAINT access_singleton_check CHECK (singleton)
);
COMMENT ON TABLE public.access IS 'Whether requests need a key, one row';
COMMENT ON COLUMN public.access.singleton IS 'Always true: there is one row';
COMMENT ON COLUMN public.access.closed_at IS 'When the first key, or the first rule for Hugging Face tokens, was there. Requests have needed a key since; it is never reset';
CREATE TABLE public.attempts (
    job_id uuid NOT NULL,
    epoch bigint NOT NULL,
    worker uuid NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    outcome text,
    error text,
    overtook timestamp with time zone,
    project_id uuid NOT NULL,
    holds_device boolean NOT NULL,
    gpu_seconds double precision GENERATED ALWAYS AS (
CASE
    WHEN (holds_device AND (ended_at > started_at)) THEN EXTRACT(epoch FROM (ended_at - started_at))
    ELSE (0)::numeric
END) STORED NOT NULL,
    CONSTRAINT attempts_epoch_check CHECK ((epoch > 0)),
    CONSTRAINT attempts_outcome_check CHECK ((outcome = ANY (ARRAY['succeeded'::text, 'failed'::text, 'crashed'::text, 'expired'::text, 'released'::text, 'refused'::text, 'canceled'::text]))),
    CONSTRAINT outcome_when_ended CHECK (((ended_at IS NULL) = (outcome IS NULL)))
);
COMMENT ON TABLE public.attempts IS 'One claim of a job by one worker; at most one of a job is open';
COMMENT ON COLUMN public.attempts.job_id IS 'The job';
COMMENT ON COLUMN public.attempts.epoch IS 'jobs.epoch that the claim got';
COMMENT ON COLUMN public.attempts.worker IS 'Process start that made the claim (workers.id)';
COMMENT ON COLUMN public.attempts.started_at IS 'When it was claimed';
COMMENT ON COLUMN public.attempts.ended_at IS 'When it ended: reported by its worker, or when the lease ran out; null while it is open';
COMMENT ON COLUMN public.attempts.outcome IS 'succeeded | failed (reported error) | crashed (engine died) | expired (lease lost) | released (drain) | refused (does not fit into memory) | canceled';
COMMENT ON COLUMN public.attempts.error IS 'Message of a failed, crashed or refused attempt, or of one that was released because of trouble with the machine';
COMMENT ON COLUMN public.attempts.overtook IS 'created_at of this job, set when the claim passed older jobs over because the worker had its model loaded. Jobs that were enqueued before it have been passed over since started_at';
COMMENT ON COLUMN public.attempts.project_id IS 'Owner, as of the job';
COMMENT ON COLUMN public.attempts.holds_device IS 'Whether the work ran on the engine, which does one job at a time; false for work beside it';
COMMENT ON COLUMN public.attempts.gpu_seconds IS 'Seconds for which the device of the worker was held; 0 while it is open, and for work beside the engine';
CREATE TABLE public.audit (
    id uuid NOT NULL,
    project_id uuid NOT NULL,
    key_id uuid,
    by_operator boolean NOT NULL,
    address text,
    action text NOT NULL,
    object text NOT NULL,
    details jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    account text
);
COMMENT ON TABLE public.audit IS 'Changes to keys, projects and models. Rows are only added';
COMMENT ON COLUMN public.audit.id IS 'UUID v7';
COMMENT ON COLUMN public.audit.project_id IS 'The project in which the caller worked';
COMMENT ON COLUMN public.audit.key_id IS 'The key of the caller, also of one that is gone; NULL: it had none';
COMMENT ON COLUMN public.audit.by_operator IS 'Whether a command on the database made the change';
COMMENT ON COLUMN public.audit.address IS 'Address of the client, or of the proxy before it; NULL: there was no connection';
COMMENT ON COLUMN public.audit.action IS 'The noun and the verb, such as key.create';
COMMENT ON COLUMN public.audit.object IS 'Id of the key, project, model or import';
COMMENT ON COLUMN public.audit.details IS 'The new values. It has no secrets, prompts or URLs';
COMMENT ON COLUMN public.audit.created_at IS 'When the change was made';
COMMENT ON COLUMN public.audit.account IS 'Account of the Hugging Face Hub whose token the caller had; NULL: it had none';
CREATE TABLE public.datasets (
    id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamp with time zone,
    project_id uuid NOT NULL,
    CONSTRAINT datasets_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 200)))
);
COMMENT ON TABLE public.datasets IS 'A named set of pictures with captions to train on';
COMMENT ON COLUMN public.datasets.id IS 'UUID v7';
COMMENT ON COLUMN public.datasets.name IS 'Name for people; need not be unique';
COMMENT ON COLUMN public.datasets.created_at IS 'When it was created';
COMMENT ON COLUMN public.datasets.updated_at IS 'When an example was last added or removed';
COMMENT ON COLUMN public.datasets.deleted_at IS 'Tombstone: invisible from then on';
COMMENT ON COLUMN public.datasets.project_id IS 'Owner';
CREATE TABLE public.deletions (
    key text NOT NULL,
    asked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    done_at timestamp with time zone,
    CONSTRAINT deletions_tries_check CHECK ((tries >= 0))
);
COMMENT ON TABLE public.deletions IS 'Objects to delete, written in the transaction that deletes their rows. Done ones are kept for a week';
COMMENT ON COLUMN public.deletions.key IS 'Key of the object in the bucket';
COMMENT ON COLUMN public.deletions.asked_at IS 'When its row was deleted';
COMMENT ON COLUMN public.deletions.due_at IS 'When the next try is due';
COMMENT ON COLUMN public.deletions.tries IS 'Tries so far';
COMMENT ON COLUMN public.deletions.done_at IS 'When the object was gone; null until then';
CREATE TABLE public.exports (
    id uuid NOT NULL,
    job_id uuid NOT NULL,
    model_id uuid NOT NULL,
    format text NOT NULL,
    dtype text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    project_id uuid NOT NULL,
    CONSTRAINT exports_dtype_check CHECK ((dtype = ANY (ARRAY['f32'::text, 'f16'::text, 'bf16'::text]))),
    CONSTRAINT exports_format_check CHECK ((format = ANY (ARRAY['kohya'::text, 'peft'::text, 'comfy'::text])))
);
COMMENT ON TABLE public.exports IS 'A request for a LoRA in another dialect';
COMMENT ON COLUMN public.exports.id IS 'UUID v7';
COMMENT ON COLUMN public.exports.job_id IS 'Its job, written in the same transaction';
COMMENT ON COLUMN public.exports.model_id IS 'The LoRA; the export is deleted with it';
COMMENT ON COLUMN public.exports.format IS 'Dialect of the file: kohya | peft | comfy';
COMMENT ON COLUMN public.exports.dtype IS 'Type of its values: f32 | f16 | bf16';
COMMENT ON COLUMN public.exports.created_at IS 'When it was asked for';
COMMENT ON COLUMN public.exports.project_id IS 'Owner';
CREATE TABLE public.generation_loras (
    generation_id uuid NOT NULL,
    "position" integer NOT NULL,
    model_id uuid NOT NULL,
    scale double precision NOT NULL,
    text_encoder_scale double precision,
    CONSTRAINT generation_loras_position_check CHECK (("position" >= 0))
);
COMMENT ON TABLE public.generation_loras IS 'LoRAs that a generation runs with';
COMMENT ON COLUMN public.generation_loras.generation_id IS 'The generation';
COMMENT ON COLUMN public.generation_loras."position" IS 'Order of the request';
COMMENT ON COLUMN public.generation_loras.model_id IS 'The LoRA';
COMMENT ON COLUMN public.generation_loras.scale IS 'Factor on its effect; 1 = as trained, 0 = none';
COMMENT ON COLUMN public.generation_loras.text_encoder_scale IS 'Factor on its effect on the text encoders; null = scale';
CREATE TABLE public.imports (
    id uuid NOT NULL,
    job_id uuid NOT NULL,
    name text NOT NULL,
    kind text,
    base_model_id uuid,
    source jsonb NOT NULL,
    source_commit text,
    url_query text,
    files jsonb DEFAULT '[]'::jsonb NOT NULL,
    output_model_id uuid,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    parts jsonb,
    part_queries jsonb,
    parts_of_model_id uuid,
    query_forgotten boolean DEFAULT false NOT NULL,
    project_id uuid NOT NULL,
    CONSTRAINT imports_files_check CHECK ((jsonb_typeof(files) = 'array'::text)),
    CONSTRAINT imports_kind_check CHECK ((kind = ANY (ARRAY['checkpoint'::text, 'lora'::text, 'vae_approx'::text]))),
    CONSTRAINT imports_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'::text))
);
COMMENT ON TABLE public.imports IS 'A request to bring a model in from elsewhere';
COMMENT ON COLUMN public.imports.id IS 'UUID v7';
COMMENT ON COLUMN public.imports.job_id IS 'Its job, written in the same transaction';
COMMENT ON COLUMN public.imports.name IS 'Name that the model will have';
COMMENT ON COLUMN public.imports.kind IS 'checkpoint | lora | vae_approx, if the client said which it must be';
COMMENT ON COLUMN public.imports.base_model_id IS 'Checkpoint that a LoRA or a vae_approx was made for, if the client said so';
COMMENT ON COLUMN public.imports.source IS '{kind: url, url, sha256} | {kind: hugging_face, repo, revision, files, variant} | {kind: path, path} | {kind: upload, files: [{path, upload}]}; never a secret';
COMMENT ON COLUMN public.imports.source_commit IS 'Commit that the revision named when the import first looked; every attempt keeps to it';
COMMENT ON COLUMN public.imports.url_query IS 'Query string of the URL, which may hold a signature: never shown, and forgotten by a trigger when the job ends';
COMMENT ON COLUMN public.imports.files IS 'Files that are already in the bucket, as in models.files; the next attempt continues after them. Empty once the job has ended';
COMMENT ON COLUMN public.imports.output_model_id IS 'The model, once the job succeeded';
COMMENT ON COLUMN public.imports.created_at IS 'When it was asked for';
COMMENT ON COLUMN public.imports.parts IS '{text_encoder, text_encoder_2, vae}, each with the fields of source, if the client sent separate parts; the revision of a repository is replaced by its commit at the first attempt';
COMMENT ON COLUMN public.imports.part_queries IS 'As url_query, by part';
COMMENT ON COLUMN public.imports.parts_of_model_id IS 'Checkpoint that supplies the missing parts, if the client named one';
COMMENT ON COLUMN public.imports.query_forgotten IS 'A query string of its URLs was forgotten when the job ended, so the same request cannot be made again';
COMMENT ON COLUMN public.imports.project_id IS 'Owner; also of the model that it makes';
CREATE TABLE public.installation (
    singleton boolean DEFAULT true NOT NULL,
    id uuid NOT NULL,
    counter bigint DEFAULT 0 NOT NULL,
    counted_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    held_back text,
    swept_at timestamp with time zone,
    CONSTRAINT installation_counter_check CHECK ((counter >= 0)),
    CONSTRAINT installation_singleton_check CHECK (singleton)
);
COMMENT ON TABLE public.installation IS 'The identity of this installation, one row. The bucket has id and counter, too, in pyrograph.json';
COMMENT ON COLUMN public.installation.singleton IS 'Always true: there is one row';
COMMENT ON COLUMN public.installation.id IS 'Random, made once';
COMMENT ON COLUMN public.installation.counter IS 'Rises every five minutes, here before in the bucket. If the bucket has the larger one, this database was restored from a backup';
COMMENT ON COLUMN public.installation.counted_at IS 'When the counter last rose';
COMMENT ON COLUMN public.installation.held_back IS 'Why the sweeper deletes nothing until an operator accepts it; null if it may';
COMMENT ON COLUMN public.installation.swept_at IS 'When the last sweep began';
CREATE TABLE public.job_events (
    job_id uuid NOT NULL,
    sequence bigint NOT NULL,
    kind text NOT NULL,
    data jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT job_events_kind_check CHECK ((kind = ANY (ARRAY['queued'::text, 'started'::text, 'progress'::text, 'checkpoint'::text, 'warning'::text, 'retrying'::text, 'succeeded'::text, 'failed'::text, 'canceled'::text]))),
    CONSTRAINT job_events_sequence_check CHECK ((sequence > 0))
);
COMMENT ON TABLE public.job_events IS 'What happened to a job, in order, for replay over SSE';
COMMENT ON COLUMN public.job_events.job_id IS 'The job';
COMMENT ON COLUMN public.job_events.sequence IS '1, 2, 3 … without a gap for each job; the SSE event id';
COMMENT ON COLUMN public.job_events.kind IS 'queued | started | progress | checkpoint | warning | retrying | succeeded | failed | canceled';
COMMENT ON COLUMN public.job_events.data IS 'Details by kind, for instance {"step": 3, "total_steps": 20}';
COMMENT ON COLUMN public.job_events.created_at IS 'When it happened';
CREATE TABLE public.job_needs (
    job_id uuid NOT NULL,
    model_id uuid NOT NULL
);
COMMENT ON TABLE public.job_needs IS 'Models that a job runs with, written when it is enqueued: none of them can be deleted while the job is queued or running';
COMMENT ON COLUMN public.job_needs.job_id IS 'The job';
COMMENT ON COLUMN public.job_needs.model_id IS 'The model';
CREATE TABLE public.jobs (
    id uuid NOT NULL,
    kind text NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    priority smallint DEFAULT 0 NOT NULL,
    run_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    worker uuid,
    lease_until timestamp with time zone,
    failures integer DEFAULT 0 NOT NULL,
    max_failures integer DEFAULT 3 NOT NULL,
    crashes integer DEFAULT 0 NOT NULL,
    max_crashes integer DEFAULT 3 NOT NULL,
    releases integer DEFAULT 0 NOT NULL,
    max_releases integer DEFAULT 20 NOT NULL,
    cancel_requested_at timestamp with time zone,
    step integer DEFAULT 0 NOT NULL,
    total_steps integer DEFAULT 0 NOT NULL,
    progress jsonb,
    error_class text,
    error_message text,
    last_sequence bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    base_sha256 text,
    memory bigint,
    refused_by uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    subject uuid NOT NULL,
    makes text,
    retry_of uuid,
    deleted_at timestamp with time zone,
    project_id uuid NOT NULL,
    setbacks integer DEFAULT 0 NOT NULL,
    local boolean DEFAULT false NOT NULL,
    key_id uuid,
    CONSTRAINT canceled_on_request CHECK (((status <> 'canceled'::text) OR (cancel_requested_at IS NOT NULL))),
    CONSTRAINT error_when_failed CHECK ((((status = 'failed'::text) = (error_class IS NOT NULL)) AND ((status = 'failed'::text) = (error_message IS NOT NULL)))),
    CONSTRAINT finished_when_terminal CHECK (((status = ANY (ARRAY['succeeded'::text, 'failed'::text, 'canceled'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT jobs_base_sha256_check CHECK ((base_sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT jobs_crashes_check CHECK ((crashes >= 0)),
    CONSTRAINT jobs_epoch_check CHECK ((epoch >= 0)),
    CONSTRAINT jobs_error_class_check CHECK ((error_class = ANY (ARRAY['invalid_input'::text, 'upstream'::text, 'resource'::text, 'crash'::text, 'timeout'::text, 'internal'::text]))),
    CONSTRAINT jobs_failures_check CHECK ((failures >= 0)),
    CONSTRAINT jobs_last_sequence_check CHECK ((last_sequence >= 0)),
    CONSTRAINT jobs_max_crashes_check CHECK ((max_crashes >= 1)),
    CONSTRAINT jobs_max_failures_check CHECK ((max_failures >= 1)),
    CONSTRAINT jobs_max_releases_check CHECK ((max_releases >= 1)),
    CONSTRAINT jobs_memory_check CHECK ((memory > 0)),
    CONSTRAINT jobs_releases_check CHECK ((releases >= 0)),
    CONSTRAINT jobs_setbacks_check CHECK ((setbacks >= 0)),
    CONSTRAINT jobs_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'succeeded'::text, 'failed'::text, 'canceled'::text]))),
    CONSTRAINT jobs_step_check CHECK ((step >= 0)),
    CONSTRAINT jobs_total_steps_check CHECK ((total_steps >= 0)),
    CONSTRAINT leased_while_running CHECK ((((status = 'running'::text) = (worker IS NOT NULL)) AND ((status = 'running'::text) = (lease_until IS NOT NULL)))),
    CONSTRAINT started_with_epoch CHECK (((epoch > 0) = (started_at IS NOT NULL))),
    CONSTRAINT step_within_total CHECK ((step <= total_steps)),
    CONSTRAINT within_budgets CHECK (((failures <= max_failures) AND (crashes <= max_crashes) AND (releases <= max_releases)))
)
WITH (fillfactor='70');
COMMENT ON TABLE public.jobs IS 'One unit of work for a worker, and at the same time its place in the queue. Terminal rows never change.';
COMMENT ON COLUMN public.jobs.id IS 'UUID v7, for the queue alone. Equal to subject since migration 10, another one in older rows';
COMMENT ON COLUMN public.jobs.kind IS 'What the job is about: generation | training | import | export and so on, as the program''s table of kinds';
COMMENT ON COLUMN public.jobs.status IS 'queued → running → succeeded | failed | canceled; running may fall back to queued. Enforced by the trigger jobs_guard';
COMMENT ON COLUMN public.jobs.priority IS 'Higher goes first';
COMMENT ON COLUMN public.jobs.run_at IS 'Not claimed before this instant: when it became due, or will be';
COMMENT ON COLUMN public.jobs.epoch IS 'Fencing token: grows by one with each claim, so it also counts the attempts. 0 = never claimed';
COMMENT ON COLUMN public.jobs.worker IS 'Process start (workers.id) that holds the lease; set exactly while running';
COMMENT ON COLUMN public.jobs.lease_until IS 'The reaper may take the job back after this instant; an expired lease that nobody reaped is still valid';
COMMENT ON COLUMN public.jobs.failures IS 'Attempts that ended with an error that the worker reported, since the last checkpoint of a training';
COMMENT ON COLUMN public.jobs.max_failures IS 'The failure that reaches this number is final';
COMMENT ON COLUMN public.jobs.crashes IS 'Attempts that ended without a report, since the last checkpoint of a training: lease lost, engine killed';
COMMENT ON COLUMN public.jobs.max_crashes IS 'The crash that reaches this number is final';
COMMENT ON COLUMN public.jobs.releases IS 'Attempts returned by a worker that is stopping or has too little memory, since the last checkpoint of a training; they count towards no other budget';
COMMENT ON COLUMN public.jobs.max_releases IS 'The release that reaches this number is final';
COMMENT ON COLUMN public.jobs.cancel_requested_at IS 'Somebody asked for the end. From then on any end but success is canceled, never a retry';
COMMENT ON COLUMN public.jobs.step IS 'Steps done by the attempt that reported last';
COMMENT ON COLUMN public.jobs.total_steps IS 'Steps to do; 0 = not known';
COMMENT ON COLUMN public.jobs.progress IS 'Data of the last progress report, for instance {"loss": 0.12}';
COMMENT ON COLUMN public.jobs.error_class IS 'Why a failed job failed: invalid_input | upstream | resource | crash | timeout | internal';
COMMENT ON COLUMN public.jobs.error_message IS 'A sentence for the user; set exactly when failed';
COMMENT ON COLUMN public.jobs.last_sequence IS 'Sequence of the newest row of job_events: events are numbered under the lock of this row';
COMMENT ON COLUMN public.jobs.created_at IS 'When it was enqueued, which is its place in the queue';
COMMENT ON COLUMN public.jobs.started_at IS 'When it was claimed for the first time';
COMMENT ON COLUMN public.jobs.finished_at IS 'When it became terminal';
COMMENT ON COLUMN public.jobs.base_sha256 IS 'models.sha256 of the checkpoint that a generation runs on; null for jobs that gain nothing from a loaded model, such as a training, which loads its own copy';
COMMENT ON COLUMN public.jobs.memory IS 'Least bytes of memory that it needs, set when a worker could not run it: only workers with such a budget claim it; null = not known, or no worker has that much';
COMMENT ON COLUMN public.jobs.refused_by IS 'Workers that could not do it: it did not fit into their memory, or it failed there. They do not claim it again while another worker may';
COMMENT ON COLUMN public.jobs.subject IS 'Public id: that of the generation, training, import or export';
COMMENT ON COLUMN public.jobs.makes IS 'Name of the model that the job will make; null if it makes none';
COMMENT ON COLUMN public.jobs.retry_of IS 'The failed job that this one repeats (jobs.id)';
COMMENT ON COLUMN public.jobs.deleted_at IS 'When its subject was deleted: clients do not see the job from then on';
COMMENT ON COLUMN public.jobs.project_id IS 'Owner, as of the row that the job is about';
COMMENT ON COLUMN public.jobs.setbacks IS 'Attempts returned because of trouble with the worker''s machine. They count towards no budget, and lengthen the pause';
COMMENT ON COLUMN public.jobs.local IS 'Whether an import asks nothing of the network: all of its files are uploads, or on the worker''s disk';
COMMENT ON COLUMN public.jobs.key_id IS 'The key of the caller that asked for it, also of one that is gone; NULL: it had none, or asked before 0022';
CREATE VIEW public.job_reports AS
 SELECT j.id AS job_id,
    (to_jsonb(j.*) || jsonb_build_object('artifacts', ( SELECT jsonb_agg(to_jsonb(a.*) ORDER BY a."position") AS jsonb_agg
           FROM public.artifacts a
          WHERE (a.job_id = j.id)), 'gpu_seconds', ( SELECT COALESCE(sum(t.gpu_seconds), (0)::double precision) AS "coalesce"
           FROM public.attempts t
          WHERE (t.job_id = j.id)))) AS report
   FROM public.jobs j;
CREATE TABLE public.keys (
    id uuid NOT NULL,
    project_id uuid NOT NULL,
    name text NOT NULL,
    scopes text[] NOT NULL,
    secret_sha256 bytea NOT NULL,
    is_local boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    revoked_at timestamp with time zone,
    CONSTRAINT keys_name_check CHECK (((char_length(name) >= 1) AND (char_length(name) <= 63))),
    CONSTRAINT keys_scopes_check CHECK (((cardinality(scopes) > 0) AND (scopes <@ ARRAY['read'::text, 'generate'::text, 'train'::text, 'models'::text, 'admin'::text]))),
    CONSTRAINT keys_secret_sha256_check CHECK ((octet_length(secret_sha256) = 32))
);
COMMENT ON TABLE public.keys IS 'Keys of the API. A revoked key keeps its row';
COMMENT ON COLUMN public.keys.id IS 'UUID v7; part of the key that the client sends';
COMMENT ON COLUMN public.keys.project_id IS 'The project that the key works in';
COMMENT ON COLUMN public.keys.name IS 'For people; it need not be unique';
COMMENT ON COLUMN public.keys.scopes IS 'What the key may do, without the scopes that these imply';
COMMENT ON COLUMN public.keys.secret_sha256 IS 'SHA-256 of the secret part of the key, which is stored nowhere';
COMMENT ON COLUMN public.keys.is_local IS 'Whether `up` made it for the commands of its user; it does not count as a key of the installation';
COMMENT ON COLUMN public.keys.created_at IS 'When it was created';
COMMENT ON COLUMN public.keys.expires_at IS 'From then on it is refused; NULL: never';
COMMENT ON COLUMN public.keys.last_used_at IS 'A use at most a minute before the last one; NULL: never used';
COMMENT ON COLUMN public.keys.revoked_at IS 'When it was revoked; NULL: it was not';
CREATE TABLE public.login_links (
    id uuid NOT NULL,
    key_id uuid NOT NULL,
    secret_sha256 bytea NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT login_links_secret_sha256_check CHECK ((octet_length(secret_sha256) = 32))
);
COMMENT ON TABLE public.login_links IS 'Links with which a browser logs in without a key. The row is deleted when the link is used';
COMMENT ON COLUMN public.login_links.id IS 'UUID v7; part of the link';
COMMENT ON COLUMN public.login_links.key_id IS 'The key with which the browser logs in';
COMMENT ON COLUMN public.login_links.secret_sha256 IS 'SHA-256 of the secret part of the link, which is stored nowhere';
COMMENT ON COLUMN public.login_links.expires_at IS 'From then on the link is refused';
CREATE TABLE public.previews (
    job_id uuid NOT NULL,
    revision bigint NOT NULL,
    step integer NOT NULL,
    total_steps integer NOT NULL,
    "position" integer NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    jpeg bytea NOT NULL,
    CONSTRAINT previews_check CHECK ((total_steps >= step)),
    CONSTRAINT previews_height_check CHECK ((height > 0)),
    CONSTRAINT previews_jpeg_check CHECK ((octet_length(jpeg) <= 524288)),
    CONSTRAINT previews_position_check CHECK (("position" >= 0)),
    CONSTRAINT previews_revision_check CHECK ((revision > 0)),
    CONSTRAINT previews_step_check CHECK ((step > 0)),
    CONSTRAINT previews_width_check CHECK ((width > 0))
);
COMMENT ON TABLE public.previews IS 'The latest preview of a running generation; deleted when its attempt ends';
COMMENT ON COLUMN public.previews.job_id IS 'The job';
COMMENT ON COLUMN public.previews.revision IS 'Increases with each preview, across attempts, so that a reader can tell whether it has seen this one';
COMMENT ON COLUMN public.previews.step IS 'Steps done, as jobs.step counts them';
COMMENT ON COLUMN public.previews.total_steps IS 'Steps in all';
COMMENT ON COLUMN public.previews."position" IS 'Which of the pictures it is, from 0';
COMMENT ON COLUMN public.previews.width IS 'Pixels';
COMMENT ON COLUMN public.previews.height IS 'Pixels';
COMMENT ON COLUMN public.previews.jpeg IS 'The JPEG file, at most 512 KiB';
CREATE TABLE public.projects (
    id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    max_queued_jobs integer,
    max_running_jobs integer,
    max_jobs_per_day integer,
    max_gpu_seconds_per_day bigint,
    max_stored_bytes bigint,
    retention_days integer,
    deleted_at timestamp with time zone,
    purged_at timestamp with time zone,
    limited boolean GENERATED ALWAYS AS (((deleted_at IS NOT NULL) OR (num_nonnulls(max_queued_jobs, max_jobs_per_day, max_gpu_seconds_per_day, max_stored_bytes) > 0))) STORED NOT NULL,
    CONSTRAINT projects_max_gpu_seconds_per_day_check CHECK ((max_gpu_seconds_per_day >= 0)),
    CONSTRAINT projects_max_jobs_per_day_check CHECK ((max_jobs_per_day >= 0)),
    CONSTRAINT projects_max_queued_jobs_check CHECK ((max_queued_jobs >= 0)),
    CONSTRAINT projects_max_running_jobs_check CHECK ((max_running_jobs >= 0)),
    CONSTRAINT projects_max_stored_bytes_check CHECK ((max_stored_bytes >= 0)),
    CONSTRAINT projects_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'::text)),
    CONSTRAINT projects_retention_days_check CHECK ((retention_days > 0))
);
COMMENT ON TABLE public.projects IS 'An owner of rows. The rows of one project do not exist for another';
COMMENT ON COLUMN public.projects.id IS 'UUID v7';
COMMENT ON COLUMN public.projects.name IS 'Unique among the projects that are not deleted';
COMMENT ON COLUMN public.projects.created_at IS 'When it was created';
COMMENT ON COLUMN public.projects.max_queued_jobs IS 'Quota of jobs that are queued at a time; NULL: none';
COMMENT ON COLUMN public.projects.max_running_jobs IS 'Quota of jobs that run at a time; further ones wait. NULL: none';
COMMENT ON COLUMN public.projects.max_jobs_per_day IS 'Quota of jobs that are asked for on a day of UTC; NULL: none';
COMMENT ON COLUMN public.projects.max_gpu_seconds_per_day IS 'Quota of device time on a day of UTC, by the end of the attempts; further jobs wait. NULL: none';
COMMENT ON COLUMN public.projects.max_stored_bytes IS 'Quota of stored bytes; NULL: none';
COMMENT ON COLUMN public.projects.retention_days IS 'Days after which its generations and inputs are deleted; NULL: never';
COMMENT ON COLUMN public.projects.deleted_at IS 'Tombstone, for the audit log: invisible from then on, and what it has is being deleted';
COMMENT ON COLUMN public.projects.purged_at IS 'When nothing of a deleted project was left';
COMMENT ON COLUMN public.projects.limited IS 'Whether a request for a job has to be checked against quotas';
CREATE TABLE public.sessions (
    id uuid NOT NULL,
    key_id uuid NOT NULL,
    secret_sha256 bytea NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT sessions_secret_sha256_check CHECK ((octet_length(secret_sha256) = 32))
);
COMMENT ON TABLE public.sessions IS 'Browsers that have logged in with a key';
COMMENT ON COLUMN public.sessions.id IS 'UUID v7; part of the cookie';
COMMENT ON COLUMN public.sessions.key_id IS 'The key, whose project and scopes the session has; it ends with the key';
COMMENT ON COLUMN public.sessions.secret_sha256 IS 'SHA-256 of the secret part of the cookie, which is stored nowhere';
COMMENT ON COLUMN public.sessions.created_at IS 'When the browser logged in';
COMMENT ON COLUMN public.sessions.expires_at IS 'From then on the cookie is refused';
CREATE TABLE public.stored_bytes (
    id bigint NOT NULL,
    project_id uuid NOT NULL,
    bytes bigint NOT NULL
);
COMMENT ON TABLE public.stored_bytes IS 'Changes of the bytes that a project has stored; the sum of its rows is what it has';
COMMENT ON COLUMN public.stored_bytes.id IS 'In the order of writing';
COMMENT ON COLUMN public.stored_bytes.project_id IS 'The project';
COMMENT ON COLUMN public.stored_bytes.bytes IS 'Bytes that came, or that went if negative';
ALTER TABLE public.stored_bytes ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.stored_bytes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.swaps (
    id uuid NOT NULL,
    worker uuid NOT NULL,
    model_id uuid NOT NULL,
    action text NOT NULL,
    status text DEFAULT 'queued'::text NOT NULL,
    error_message text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT error_when_failed CHECK (((status = 'failed'::text) = (error_message IS NOT NULL))),
    CONSTRAINT finished_when_terminal CHECK (((status = ANY (ARRAY['succeeded'::text, 'failed'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT swaps_action_check CHECK ((action = ANY (ARRAY['load'::text, 'unload'::text]))),
    CONSTRAINT swaps_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'succeeded'::text, 'failed'::text])))
);
COMMENT ON TABLE public.swaps IS 'The last request to a worker to load or unload a model; carried out between two jobs. It ends with its worker';
COMMENT ON COLUMN public.swaps.id IS 'UUID v7 of this request; another request about the same worker and model takes its place';
COMMENT ON COLUMN public.swaps.worker IS 'Process start that is asked (workers.id)';
COMMENT ON COLUMN public.swaps.model_id IS 'The checkpoint';
COMMENT ON COLUMN public.swaps.action IS 'load | unload';
COMMENT ON COLUMN public.swaps.status IS 'queued → running → succeeded | failed';
COMMENT ON COLUMN public.swaps.error_message IS 'A sentence for the user; set exactly when failed';
COMMENT ON COLUMN public.swaps.created_at IS 'When it was asked for';
COMMENT ON COLUMN public.swaps.finished_at IS 'When it ended';
CREATE TABLE public.sweep_marks (
    key text NOT NULL,
    marked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    accepted boolean DEFAULT false NOT NULL
);
COMMENT ON TABLE public.sweep_marks IS 'Objects that no row names, found by the sweeper. They are deleted if they still have no row a day later';
COMMENT ON COLUMN public.sweep_marks.key IS 'Key of the object in the bucket';
COMMENT ON COLUMN public.sweep_marks.marked_at IS 'When it was first found without a row';
COMMENT ON COLUMN public.sweep_marks.accepted IS 'An operator has accepted its deletion, so it does not count towards the limit that stops the sweeper';
CREATE TABLE public.training_checkpoints (
    training_id uuid NOT NULL,
    step integer NOT NULL,
    epoch bigint NOT NULL,
    storage_key text NOT NULL,
    sha256 text NOT NULL,
    bytes bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT training_checkpoints_bytes_check CHECK ((bytes > 0)),
    CONSTRAINT training_checkpoints_epoch_check CHECK ((epoch > 0)),
    CONSTRAINT training_checkpoints_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT training_checkpoints_step_check CHECK ((step > 0))
);
COMMENT ON TABLE public.training_checkpoints IS 'States from which another attempt can go on';
COMMENT ON COLUMN public.training_checkpoints.training_id IS 'The training';
COMMENT ON COLUMN public.training_checkpoints.step IS 'Steps done';
COMMENT ON COLUMN public.training_checkpoints.epoch IS 'Attempt that wrote it';
COMMENT ON COLUMN public.training_checkpoints.storage_key IS 'Where the state is in the bucket';
COMMENT ON COLUMN public.training_checkpoints.sha256 IS 'SHA-256 of the bytes';
COMMENT ON COLUMN public.training_checkpoints.bytes IS 'Size of the stored object';
COMMENT ON COLUMN public.training_checkpoints.created_at IS 'When it was committed';
CREATE TABLE public.trainings (
    id uuid NOT NULL,
    job_id uuid NOT NULL,
    name text NOT NULL,
    dataset_id uuid NOT NULL,
    model_id uuid NOT NULL,
    config jsonb NOT NULL,
    examples jsonb NOT NULL,
    dataset_sha256 text NOT NULL,
    warnings jsonb DEFAULT '[]'::jsonb NOT NULL,
    output_model_id uuid,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamp with time zone,
    project_id uuid NOT NULL,
    CONSTRAINT trainings_dataset_sha256_check CHECK ((dataset_sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT trainings_examples_check CHECK ((jsonb_typeof(examples) = 'array'::text)),
    CONSTRAINT trainings_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'::text)),
    CONSTRAINT trainings_warnings_check CHECK ((jsonb_typeof(warnings) = 'array'::text))
);
COMMENT ON TABLE public.trainings IS 'A request for a LoRA';
COMMENT ON COLUMN public.trainings.id IS 'UUID v7';
COMMENT ON COLUMN public.trainings.job_id IS 'Its job, written in the same transaction';
COMMENT ON COLUMN public.trainings.name IS 'Name that the LoRA will have';
COMMENT ON COLUMN public.trainings.dataset_id IS 'Dataset that the examples were taken from';
COMMENT ON COLUMN public.trainings.model_id IS 'Checkpoint to train on';
COMMENT ON COLUMN public.trainings.config IS 'Validated configuration, defaults filled in';
COMMENT ON COLUMN public.trainings.examples IS 'Snapshot [{storage_key, sha256, caption, media_type}]: later changes of the dataset do not reach it';
COMMENT ON COLUMN public.trainings.dataset_sha256 IS 'SHA-256 over the snapshot';
COMMENT ON COLUMN public.trainings.warnings IS 'Sentences for the user, written with the result';
COMMENT ON COLUMN public.trainings.output_model_id IS 'The LoRA, once the job succeeded';
COMMENT ON COLUMN public.trainings.created_at IS 'When it was asked for';
COMMENT ON COLUMN public.trainings.deleted_at IS 'Tombstone: invisible from then on';
COMMENT ON COLUMN public.trainings.project_id IS 'Owner; also of the LoRA that it makes';
CREATE TABLE public.uploads (
    id uuid NOT NULL,
    dataset_id uuid NOT NULL,
    storage_key text NOT NULL,
    file_name text NOT NULL,
    media_type text NOT NULL,
    caption text DEFAULT ''::text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    completed_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT uploads_caption_check CHECK ((char_length(caption) <= 10000)),
    CONSTRAINT uploads_file_name_check CHECK (((char_length(file_name) >= 1) AND (char_length(file_name) <= 255))),
    CONSTRAINT uploads_media_type_check CHECK ((media_type = ANY (ARRAY['image/png'::text, 'image/jpeg'::text, 'image/webp'::text, 'image/gif'::text, 'image/bmp'::text, 'image/tiff'::text])))
);
COMMENT ON TABLE public.uploads IS 'A presigned PUT that was handed out and waits for its completion';
COMMENT ON COLUMN public.uploads.id IS 'UUID v7';
COMMENT ON COLUMN public.uploads.dataset_id IS 'The dataset that gets the picture';
COMMENT ON COLUMN public.uploads.storage_key IS 'Where the client puts the bytes; outside the keys of examples';
COMMENT ON COLUMN public.uploads.file_name IS 'Name that the client gave; never part of a key';
COMMENT ON COLUMN public.uploads.media_type IS 'Content type that the URL was signed for';
COMMENT ON COLUMN public.uploads.caption IS 'Caption for the example to be';
COMMENT ON COLUMN public.uploads.expires_at IS 'When the URL ends';
COMMENT ON COLUMN public.uploads.completed_at IS 'When the example was made of it';
COMMENT ON COLUMN public.uploads.created_at IS 'When the URL was handed out';
CREATE TABLE public.workers (
    id uuid NOT NULL,
    name text NOT NULL,
    host text NOT NULL,
    device text NOT NULL,
    queues text[] NOT NULL,
    version text NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    stopped_at timestamp with time zone,
    resident jsonb DEFAULT '[]'::jsonb NOT NULL,
    vram_budget bigint,
    paused text,
    budget jsonb,
    CONSTRAINT workers_resident_check CHECK ((jsonb_typeof(resident) = 'array'::text)),
    CONSTRAINT workers_vram_budget_check CHECK ((vram_budget > 0))
)
WITH (fillfactor='70');
COMMENT ON TABLE public.workers IS 'Worker processes, one row per start. Claims and swaps use vram_budget, resident and last_seen_at; leases are in jobs';
COMMENT ON COLUMN public.workers.id IS 'UUID v7 made at process start; never reused';
COMMENT ON COLUMN public.workers.name IS 'Name for people, the same after a restart';
COMMENT ON COLUMN public.workers.host IS 'Host name';
COMMENT ON COLUMN public.workers.device IS 'Device of the engine, for instance cpu or cuda:0';
COMMENT ON COLUMN public.workers.queues IS 'Job kinds that it claims';
COMMENT ON COLUMN public.workers.version IS 'Version of the pyrograph binary';
COMMENT ON COLUMN public.workers.started_at IS 'Process start';
COMMENT ON COLUMN public.workers.last_seen_at IS 'Last sign of life, each 15 s; a worker that is silent for 45 s is not live';
COMMENT ON COLUMN public.workers.stopped_at IS 'Orderly stop; null while running or after a crash';
COMMENT ON COLUMN public.workers.resident IS 'Models that its engine last reported as loaded: [{sha256, bytes}]. Valid while the worker is live';
COMMENT ON COLUMN public.workers.vram_budget IS 'Bytes of its device''s memory that its engine may use; null = not known';
COMMENT ON COLUMN public.workers.paused IS 'Why it claims no jobs at present; null if it does';
COMMENT ON COLUMN public.workers.budget IS 'What its engine may use: bytes of device and host memory, type, format of weights, offload; null = its memory is not known';
INSERT INTO public._sqlx_migrations VALUES
	(1, 'initial', '2026-12-01 00:31:08.757603+00', true, '\x9550a1d04dc7f3096506ed32177f6bffa220322e2da0d8307dd890d2118f60e3b734bfc8b13f7bf6f4db5511f9ac772f', 273393599),
	(2, 'imports', '2026-12-01 00:31:09.031921+00', true, '\xbab0e03407296a7319de4ab519f046f3b76630e62304ee4ced30e9b11bbb8db919d33cccfa9b045cf7c88a0f33f98a0b', 29361500),
	(3, 'inputs', '2026-12-01 00:31:09.066883+00', true, '\x388254af1481dfccd562fdd52878c2568fece276a8f4b931c2345b377142db8d6513a84683cda548f5b3870da581ea49', 24302236),
	(4, 'model uploads', '2026-12-01 00:31:09.09486+00', true, '\x4f96f026d575edb82a6e11c0ad6f3b7ae7c7246ce3b89166f97c1131eae53c8df75572c3d197aa03ab04fa69e1a75e1c', 12018736),
	(5, 'residency', '2026-12-01 00:31:09.109553+00', true, '\x95bdd95a0fff00a731b5be183ef6eaefa08f66f1dbe4fc3e2855720b09e17030b5a89970c9b24126cd98d5940012150d', 33355381),
	(6, 'parts', '2026-12-01 00:31:09.146853+00', true, '\x8a9daefd338d39b0e02faefaf8b4213b067dba15f1d2320bd5b237ae0914a1bd4b7985a5e637f5515a13ad4024e34301', 8030454),
	(7, 'exports', '2026-12-01 00:31:09.158875+00', true, '\x9b81d3be1100ab0d7fa87a74a63abdd06b5956fa9f1808bf9add1f30f751f76807d22e97577fabf5d28425c87f683cb1', 28020805),
	(8, 'previews', '2026-12-01 00:31:09.190844+00', true, '\xa900b569d7223d22b130de20efecb608eef01fce870270f6d6583e7176ccc155062d74d2fcfe90136edb06a8242188ea', 10334820),
	(9, 'memory', '2026-12-01 00:31:09.201773+00', true, '\x60a2a49d039cbae50ac933ed4bf1f1ff05a3bee1a955bf0cf13c7e878beca70265945d344477a3c64fe1c5ecea3e53be', 33317101),
	(10, 'job kinds', '2026-12-01 00:31:09.25192+00', true, '\xab0da42e267c390c7d22e7fef0a22f767b492e63253f92a22ee55faf4d8fdd28633f6d86517e55bf691551b9d3c9f8c6', 104674179),
	(11, 'projects', '2026-12-01 00:31:09.358078+00', true, '\x7ee20e0863fc43355f3039be10fd6a124c7d6b9e4bab75706a4e98fe06d82ec83dd0b42a5d8634d8f8c85627cbdd8cbe', 68903179),
	(12, 'outputs', '2026-12-01 00:31:09.430923+00', true, '\x59edb1550c407233b9fed211186f298154f43fee93d188643011fb65759ceda15ac472e71c70dc6e0464f0f9e6d6e24b', 3984339),
	(13, 'comments', '2026-12-01 00:31:09.43891+00', true, '\x366bd0c2ef0eac6aac83f53f791b51906299589fd9f7e553887ac8bc79fbd4b8497fc5d83ae37d0eb2f5c13d42f9f6ff', 3459736),
	(14, 'warnings', '2026-12-01 00:31:09.446896+00', true, '\x070d48cfbe1716f4e54feb45c1eee155832806cd2326a085ce9f68813dc431c1201cdb837667304522c918f543450183', 4011059),
	(15, 'durability', '2026-12-01 00:31:09.454891+00', true, '\xb3b4df7c91fdd7c49b133d52c41cccc2598d73ec8eb89a0ccdfc1102608dba52c600bc8d7d9f24ea51a9fae8672b89d3', 28081518),
	(16, 'queue', '2026-12-01 00:31:09.486912+00', true, '\x0279853c3c24579d63986a271faa083dcc440da31e8744532f897252e4169b6e5b5edb110a6a2690391a010a658e68c5', 28036901),
	(17, 'prompts', '2026-12-01 00:31:09.518918+00', true, '\x5214dc8af77f6d970410a849cf5f9241ea8c0e1c363fc1abbbeb54f36df0a569a445ae35fafd4adae87aefca1a102a98', 3987864),
	(18, 'pictures', '2026-12-01 00:31:09.526913+00', true, '\xea43afb18450a715dfe872ae13be2b025a2cbfcd076bb3ce5260e9a410960d5f012a1edc700ce5469ae858b046ea832b', 3765309),
	(19, 'lanes', '2026-12-01 00:31:09.531842+00', true, '\x5aabcc5e1b7d1be4e0eeb3d46801ea1b54c155566bf93e104b484fe819fc5ff39404144df353a298b0acfe40fa07ef4b', 12402853),
	(20, 'footprints', '2026-12-01 00:31:09.545988+00', true, '\x2dc2b90ac811e24fedb015c595ef4a2612a9ebddfe7e4a066744c92dba8e956e12259439b4359217d4621c4f0c83fc5d', 2747464),
	(21, 'access', '2026-12-01 00:31:09.549902+00', true, '\x7a8813b2b9b824fdebaf621259ef7e2d71b38466fa92f9e871f36cc9b05d9e1f95ae1811b2caa7ee4ed2fbdf39e5a427', 49056795),
	(22, 'limits', '2026-12-01 00:31:09.602919+00', true, '\x11d747d189e8d56dea75d28d8ad700eb7b642000c31a9f44a59fa4283b9fb1f6d4acb8519fe7c885915af4b63b71005c', 96080775);
INSERT INTO public.access VALUES
	(true, NULL);
INSERT INTO public.artifacts VALUES
	('01a22f03-3c9f-704b-bd0f-e7c205eedc7a', '01a22f03-3a88-72ba-881b-ddac5034593f', 0, 1, 'lora', 'artifacts/01a22f03-3a88-72ba-881b-ddac5034593f/1/0.safetensors', 'application/octet-stream', NULL, NULL, 227136, 'a3a0c0ec847aa637aec26f4119e73a1be9964593f6846f58a779676a74f0ef55', '24b9a3a04f1e8b3c5699db0ad95ad95d', NULL, '2026-12-01 00:31:11.007743+00'),
	('01a22f03-3d58-734e-b456-e09d93404444', '01a22f03-3d10-7397-8278-9abb36008f26', 0, 1, 'lora', 'artifacts/01a22f03-3d10-7397-8278-9abb36008f26/1/0.safetensors', 'application/octet-stream', NULL, NULL, 770840, '2597be4165d90cd4bfd43cfbabcb98cac53e814264cea097298d3e5f0eebfef2', 'b1f13eb7e7468850e6d876fb13b5b365', NULL, '2026-12-01 00:31:11.192742+00'),
	('01a22f03-db26-745b-b54f-8acbcbd3a63d', '01a22f03-d9e4-75a7-8146-f79ef462b176', 0, 1, 'image', 'artifacts/01a22f03-d9e4-75a7-8146-f79ef462b176/1/0.png', 'image/png', 64, 64, 8551, 'e3ebfdfb8982990481262122f4b353dcb19d3a82c2f1ab00c06ea00b8644f77b', 'c600aa1124b4ecdc86c1ce4a66ac8d10', 7, '2026-12-01 00:31:51.595223+00'),
	('01a22f03-db26-745b-b54f-8accb312ba76', '01a22f03-d9e4-75a7-8146-f79ef462b176', 1, 1, 'image', 'artifacts/01a22f03-d9e4-75a7-8146-f79ef462b176/1/1.png', 'image/png', 64, 64, 8320, '997204031b3524e600bb47056f304215201a91505880595a279df34f8825fc8e', 'dcc125d10d2b6c82b1c9449ce60dc772', 8, '2026-12-01 00:31:51.595494+00'),
	('01a22f03-dc6e-76b0-82da-a1706f0bd670', '01a22f03-dbaf-7216-a48c-515545b7c9b6', 0, 1, 'image', 'artifacts/01a22f03-dbaf-7216-a48c-515545b7c9b6/1/0.png', 'image/png', 64, 64, 8373, '05e74084fd8f841cef73b864f80a1a029a8d2f1180c4a84a3104c6e6c7511b2b', '5c9b9509cfc5352e34dbb338f0d79bff', 7, '2026-12-01 00:31:51.923029+00'),
	('01a22f03-dd90-70ea-bf05-ebf92e43b415', '01a22f03-dc9c-74e4-9a3b-e52a7758fab4', 0, 1, 'image', 'artifacts/01a22f03-dc9c-74e4-9a3b-e52a7758fab4/1/0.png', 'image/png', 64, 64, 8727, 'ced696a48ad321d8c2cb2f2cc713148d4170a04363a126d4ac61b184a02fd21f', 'b4fe360246973db57a9ee350cb5b63d7', 7, '2026-12-01 00:31:52.20834+00'),
	('01a22f03-deec-70f2-b363-01ec058b92bb', '01a22f03-de58-704d-9bd8-78a9f68c8e08', 0, 1, 'image', 'artifacts/01a22f03-de58-704d-9bd8-78a9f68c8e08/1/0.png', 'image/png', 64, 64, 9429, '626d47ca7f5a99cea1e52d5c8d035c2f893237db8ac5fadfda06273e214abecd', '40a3671157034899107624093a9853ea', 7, '2026-12-01 00:31:52.556719+00'),
	('01a22f03-e0fa-72b4-a6fd-7cf55ac65e74', '01a22f03-e07a-749f-a06b-725364fc86b7', 0, 1, 'image', 'artifacts/01a22f03-e07a-749f-a06b-725364fc86b7/1/0.png', 'image/png', 64, 64, 8551, 'e3ebfdfb8982990481262122f4b353dcb19d3a82c2f1ab00c06ea00b8644f77b', 'c600aa1124b4ecdc86c1ce4a66ac8d10', 7, '2026-12-01 00:31:53.082237+00');
INSERT INTO public.attempts VALUES
	('01a22f03-3a88-72ba-881b-ddac5034593f', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:10.501511+00', '2026-12-01 00:31:10.995437+00', 'succeeded', NULL, NULL, '00000000-0000-7000-8000-000000000000', true, DEFAULT),
	('01a22f03-3d10-7397-8278-9abb36008f26', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:11.136235+00', '2026-12-01 00:31:11.192084+00', 'succeeded', NULL, NULL, '00000000-0000-7000-8000-000000000000', false, DEFAULT),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:11.456555+00', '2026-12-01 00:31:18.992147+00', 'failed', '`127.0.0.1:9` cannot be reached.', NULL, '00000000-0000-7000-8000-000000000000', false, DEFAULT),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 2, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:24.494512+00', '2026-12-01 00:31:32.037605+00', 'failed', '`127.0.0.1:9` cannot be reached.', NULL, '00000000-0000-7000-8000-000000000000', false, DEFAULT),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 3, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:43.558312+00', '2026-12-01 00:31:51.117561+00', 'failed', '`127.0.0.1:9` cannot be reached.', NULL, '00000000-0000-7000-8000-000000000000', false, DEFAULT),
	('01a22f03-d9e4-75a7-8146-f79ef462b176', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:51.290209+00', '2026-12-01 00:31:51.589224+00', 'succeeded', NULL, NULL, '00000000-0000-7000-8000-000000000000', true, DEFAULT),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:51.755871+00', '2026-12-01 00:31:51.915763+00', 'succeeded', NULL, NULL, '00000000-0000-7000-8000-000000000000', true, DEFAULT),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:51.980806+00', '2026-12-01 00:31:52.207855+00', 'succeeded', NULL, NULL, '00000000-0000-7000-8000-000000000000', true, DEFAULT),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:52.428444+00', '2026-12-01 00:31:52.556135+00', 'succeeded', NULL, NULL, '00000000-0000-7000-8000-000000000000', true, DEFAULT),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:52.654111+00', '2026-12-01 00:31:52.734556+00', 'succeeded', NULL, NULL, '00000000-0000-7000-8000-000000000000', true, DEFAULT),
	('01a22f03-e07a-749f-a06b-725364fc86b7', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:53.007699+00', '2026-12-01 00:31:53.081896+00', 'succeeded', NULL, NULL, '01a22f03-e055-7185-b153-7b113b37dfa2', true, DEFAULT),
	('01a22f03-e155-7381-ab4f-00e23dfda5ba', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:31:53.188568+00', NULL, NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', true, DEFAULT);
INSERT INTO public.audit VALUES
	('01a22f03-3c9e-724c-af8a-48c3c0732bf4', '00000000-0000-7000-8000-000000000000', NULL, false, NULL, 'model.create', '01a22f03-3c9c-7246-a313-4048fa5e2702', '{"name": "style", "training": "01a22f03-3a88-72ba-881b-ddac5034593f"}', '2026-12-01 00:31:11.006982+00', NULL),
	('01a22f03-3e10-72dd-976e-d7c6ce6eebb3', '00000000-0000-7000-8000-000000000000', NULL, false, '127.0.0.1', 'model.create', '01a22f03-3deb-769c-ba2a-b781a3108aab', '{"name": "uploaded"}', '2026-12-01 00:31:11.378208+00', NULL),
	('01a22f03-3e37-7475-94f0-115d53f1ee42', '00000000-0000-7000-8000-000000000000', NULL, false, '127.0.0.1', 'model.delete', '01a22f03-3deb-769c-ba2a-b781a3108aab', '{"name": "uploaded"}', '2026-12-01 00:31:11.415876+00', NULL),
	('01a22f03-3e59-73a4-8237-408236a7fe39', '00000000-0000-7000-8000-000000000000', NULL, false, '127.0.0.1', 'model.import', '01a22f03-3e57-738d-87ac-4d2719585d14', '{"name": "missing"}', '2026-12-01 00:31:11.449709+00', NULL),
	('01a22f03-e057-71c7-9355-6ae169bec151', '00000000-0000-7000-8000-000000000000', NULL, false, '127.0.0.1', 'project.create', '01a22f03-e055-7185-b153-7b113b37dfa2', '{"name": "shop"}', '2026-12-01 00:31:52.920479+00', NULL),
	('01a22f03-e06d-748e-82b6-33526c7dd948', '00000000-0000-7000-8000-000000000000', NULL, false, '127.0.0.1', 'project.change', '01a22f03-e055-7185-b153-7b113b37dfa2', '{"quotas": {"queued_jobs": 100}, "retention_days": 30}', '2026-12-01 00:31:52.941456+00', NULL);
INSERT INTO public.datasets VALUES
	('01a22f03-3a33-77a4-a5ff-b9d63aaa58d1', 'pyrography', '2026-12-01 00:31:10.387479+00', '2026-12-01 00:31:10.444282+00', NULL, '00000000-0000-7000-8000-000000000000'),
	('01a22f03-3a7a-737f-b11f-421e3471142c', 'deleted', '2026-12-01 00:31:10.459131+00', '2026-12-01 00:31:10.459131+00', '2026-12-01 00:31:10.465806+00', '00000000-0000-7000-8000-000000000000');
INSERT INTO public.deletions VALUES
	('models/01a22f03-3deb-769c-ba2a-b781a3108aab/a.safetensors', '2026-12-01 00:31:11.373598+00', '2026-12-01 00:31:21.373593+00', 0, '2026-12-01 00:31:11.391346+00'),
	('artifacts/01a22f03-df40-76a1-ba05-fe305d66ca4f/1/0.png', '2026-12-01 00:31:52.875926+00', '2026-12-01 00:32:02.875921+00', 0, '2026-12-01 00:31:52.891206+00');
INSERT INTO public.examples VALUES
	('01a22f03-3a38-70f8-8eb6-22da2f14a358', '01a22f03-3a33-77a4-a5ff-b9d63aaa58d1', 0, 'datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a38-70f8-8eb6-22dbbd222caa.png', '3f53464daf0e9c5f3790257b547ede4c529665d53c6d379c59865d6965b346ba', 'image/png', 64, 64, 6087, 'apple in xqv style', '2026-12-01 00:31:10.399125+00'),
	('01a22f03-3a48-732b-9865-0ef96b2d1b34', '01a22f03-3a33-77a4-a5ff-b9d63aaa58d1', 1, 'datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a48-732b-9865-0efae9662321.png', 'd6b5c88c22a039f6df691ee7aefc7de480e4a65e56492cc655c447f6ab8b5b04', 'image/png', 64, 64, 5520, 'bicycle in xqv style', '2026-12-01 00:31:10.409643+00'),
	('01a22f03-3a4c-73f9-aaa5-4ca507200deb', '01a22f03-3a33-77a4-a5ff-b9d63aaa58d1', 2, 'datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a56-760c-aa24-d815fb62331b.png', 'c45e7ccd5cfacf2b97cbc8a9acaaa630a081e4f1f35a0acbffd08965441a54ab', 'image/png', 64, 64, 7044, 'butterfly in xqv style', '2026-12-01 00:31:10.443067+00');
INSERT INTO public.exports VALUES
	('01a22f03-3d10-7397-8278-9abb36008f26', '01a22f03-3d10-7397-8278-9abb36008f26', '01a22f03-3c9c-7246-a313-4048fa5e2702', 'kohya', 'f32', '2026-12-01 00:31:11.123802+00', '00000000-0000-7000-8000-000000000000');
INSERT INTO public.generation_loras VALUES
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', 0, '01a22f03-3c9c-7246-a313-4048fa5e2702', 0.8, NULL),
	('01a22f03-e176-7722-afec-afbd4cce3735', 0, '01a22f03-3c9c-7246-a313-4048fa5e2702', 1, NULL);
INSERT INTO public.generations VALUES
	('01a22f03-d9e4-75a7-8146-f79ef462b176', '01a22f03-d9e4-75a7-8146-f79ef462b176', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"mask": null, "image": null, "width": 64, "height": 64, "prompt": "owl on a red background", "strength": null, "clip_skip": null, "scheduler": null, "num_images": 2, "output_format": "png", "preview_every": null, "prompt_syntax": "a1111", "guidance_scale": 1.0, "output_quality": null, "true_cfg_scale": 3.0, "negative_prompt": null, "num_inference_steps": 2}', 7, '[]', '2026-12-01 00:31:51.276183+00', NULL, '00000000-0000-7000-8000-000000000000', 0),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', '01a22f03-dbaf-7216-a48c-515545b7c9b6', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"mask": null, "image": null, "width": 64, "height": 64, "prompt": "owl on a red background", "strength": null, "clip_skip": null, "scheduler": null, "num_images": 1, "output_format": "png", "preview_every": null, "prompt_syntax": "a1111", "guidance_scale": 2.0, "output_quality": null, "true_cfg_scale": 3.0, "negative_prompt": "blue", "num_inference_steps": 2}', 7, '["guidance_scale has no effect: this model was distilled without it."]', '2026-12-01 00:31:51.729797+00', NULL, '00000000-0000-7000-8000-000000000000', 0),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', '01a22f03-dc9c-74e4-9a3b-e52a7758fab4', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"mask": null, "image": {"bytes": 6087, "input": "01a22f03-d9cb-72cc-b5b8-87ad09982fc4", "width": 64, "height": 64, "sha256": "3f53464daf0e9c5f3790257b547ede4c529665d53c6d379c59865d6965b346ba", "storage_key": "inputs/01a22f03-d9cb-72cc-b5b8-87ad09982fc4.png"}, "width": 64, "height": 64, "prompt": "owl on a red background", "strength": 0.8, "clip_skip": null, "scheduler": null, "num_images": 1, "output_format": "png", "preview_every": 1, "prompt_syntax": "a1111", "guidance_scale": 1.0, "output_quality": null, "true_cfg_scale": 3.0, "negative_prompt": null, "num_inference_steps": 2}', 7, '[]', '2026-12-01 00:31:51.969217+00', NULL, '00000000-0000-7000-8000-000000000000', 0),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', '01a22f03-de58-704d-9bd8-78a9f68c8e08', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"mask": {"bytes": 5520, "input": null, "width": 64, "height": 64, "sha256": "d6b5c88c22a039f6df691ee7aefc7de480e4a65e56492cc655c447f6ab8b5b04", "storage_key": "sources/01a22f03-de58-704d-9bd8-78a9f68c8e08/mask.png"}, "image": {"bytes": 5520, "input": null, "width": 64, "height": 64, "sha256": "d6b5c88c22a039f6df691ee7aefc7de480e4a65e56492cc655c447f6ab8b5b04", "storage_key": "sources/01a22f03-de58-704d-9bd8-78a9f68c8e08/image.png"}, "width": 64, "height": 64, "prompt": "owl on a red background", "strength": 0.7, "clip_skip": null, "scheduler": null, "num_images": 1, "output_format": "png", "preview_every": null, "prompt_syntax": "a1111", "guidance_scale": 1.0, "output_quality": null, "true_cfg_scale": 3.0, "negative_prompt": null, "num_inference_steps": 2}', 7, '[]', '2026-12-01 00:31:52.417717+00', NULL, '00000000-0000-7000-8000-000000000000', 11040),
	('01a22f03-e07a-749f-a06b-725364fc86b7', '01a22f03-e07a-749f-a06b-725364fc86b7', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"mask": null, "image": null, "width": 64, "height": 64, "prompt": "owl on a red background", "strength": null, "clip_skip": null, "scheduler": null, "num_images": 1, "output_format": "png", "preview_every": null, "prompt_syntax": "a1111", "guidance_scale": 1.0, "output_quality": null, "true_cfg_scale": 3.0, "negative_prompt": null, "num_inference_steps": 2}', 7, '[]', '2026-12-01 00:31:52.960569+00', NULL, '01a22f03-e055-7185-b153-7b113b37dfa2', 0),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', '01a22f03-df40-76a1-ba05-fe305d66ca4f', '01a22f03-37ef-7572-a36d-e51c543211e8', '{}', 7, '[]', '2026-12-01 00:31:52.641945+00', '2026-12-01 00:31:52.871341+00', '00000000-0000-7000-8000-000000000000', 0),
	('01a22f03-e155-7381-ab4f-00e23dfda5ba', '01a22f03-e155-7381-ab4f-00e23dfda5ba', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"mask": null, "image": {"bytes": 6087, "input": "01a22f03-d9cb-72cc-b5b8-87ad09982fc4", "width": 64, "height": 64, "sha256": "3f53464daf0e9c5f3790257b547ede4c529665d53c6d379c59865d6965b346ba", "storage_key": "inputs/01a22f03-d9cb-72cc-b5b8-87ad09982fc4.png"}, "width": 256, "height": 256, "prompt": "owl on a red background", "strength": 1.0, "clip_skip": null, "scheduler": null, "num_images": 4, "output_format": "png", "preview_every": 1, "prompt_syntax": "a1111", "guidance_scale": 1.0, "output_quality": null, "true_cfg_scale": 3.0, "negative_prompt": null, "num_inference_steps": 200}', 7, '[]', '2026-12-01 00:31:53.180172+00', NULL, '00000000-0000-7000-8000-000000000000', 0),
	('01a22f03-e160-7736-bfc0-3bedeb53561d', '01a22f03-e160-7736-bfc0-3bedeb53561d', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"mask": null, "image": null, "width": 256, "height": 256, "prompt": "owl on a red background", "strength": null, "clip_skip": null, "scheduler": null, "num_images": 4, "output_format": "png", "preview_every": 1, "prompt_syntax": "a1111", "guidance_scale": 1.0, "output_quality": null, "true_cfg_scale": 3.0, "negative_prompt": null, "num_inference_steps": 200}', 7, '[]', '2026-12-01 00:31:53.185049+00', NULL, '00000000-0000-7000-8000-000000000000', 0),
	('01a22f03-e176-7722-afec-afbd4cce3735', '01a22f03-e176-7722-afec-afbd4cce3735', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"mask": null, "image": null, "width": 256, "height": 256, "prompt": "owl on a red background", "strength": null, "clip_skip": null, "scheduler": null, "num_images": 4, "output_format": "png", "preview_every": 1, "prompt_syntax": "a1111", "guidance_scale": 1.0, "output_quality": null, "true_cfg_scale": 3.0, "negative_prompt": null, "num_inference_steps": 200}', 7, '[]', '2026-12-01 00:31:53.207629+00', NULL, '00000000-0000-7000-8000-000000000000', 0);
INSERT INTO public.imports VALUES
	('01a22f03-3e57-738d-87ac-4d2719585d14', '01a22f03-3e57-738d-87ac-4d2719585d14', 'missing', NULL, NULL, '{"url": "http://127.0.0.1:9/a.safetensors", "kind": "url", "sha256": null}', NULL, NULL, '[]', NULL, '2026-12-01 00:31:11.449069+00', NULL, NULL, NULL, true, '00000000-0000-7000-8000-000000000000');
INSERT INTO public.inputs VALUES
	('01a22f03-d9cb-72cc-b5b8-87ad09982fc4', 'inputs/01a22f03-d9cb-72cc-b5b8-87ad09982fc4.png', '3f53464daf0e9c5f3790257b547ede4c529665d53c6d379c59865d6965b346ba', 'image/png', 64, 64, 6087, '2026-12-01 00:31:51.248423+00', '00000000-0000-7000-8000-000000000000');
INSERT INTO public.installation VALUES
	(true, '01a22f03-379a-748b-99f4-73979a575f18', 0, '2026-12-01 00:31:09.723044+00', NULL, '2026-12-01 00:31:10.196616+00');
INSERT INTO public.job_events VALUES
	('01a22f03-3a88-72ba-881b-ddac5034593f', 1, 'queued', '{}', '2026-12-01 00:31:10.482014+00'),
	('01a22f03-3a88-72ba-881b-ddac5034593f', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:10.501437+00'),
	('01a22f03-3a88-72ba-881b-ddac5034593f', 3, 'progress', '{"loss": 2.2401108741760254, "step": 1, "total_steps": 4, "seconds_per_step": 0.084303367}', '2026-12-01 00:31:10.889829+00'),
	('01a22f03-3a88-72ba-881b-ddac5034593f', 4, 'progress', '{"loss": 1.299366474151611, "step": 4, "total_steps": 4, "seconds_per_step": 0.023422791}', '2026-12-01 00:31:10.97457+00'),
	('01a22f03-3a88-72ba-881b-ddac5034593f', 5, 'succeeded', '{}', '2026-12-01 00:31:10.995398+00'),
	('01a22f03-3d10-7397-8278-9abb36008f26', 1, 'queued', '{}', '2026-12-01 00:31:11.123191+00'),
	('01a22f03-3d10-7397-8278-9abb36008f26', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:11.136211+00'),
	('01a22f03-3d10-7397-8278-9abb36008f26', 3, 'succeeded', '{}', '2026-12-01 00:31:11.19198+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 1, 'queued', '{}', '2026-12-01 00:31:11.448807+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:11.456531+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 3, 'progress', '{"step": 0, "bytes": 0, "total_bytes": null, "total_steps": 1}', '2026-12-01 00:31:11.465913+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 4, 'retrying', '{"reason": "failed", "run_at": "2026-12-01T00:31:24.408427Z", "message": "`127.0.0.1:9` cannot be reached."}', '2026-12-01 00:31:18.992111+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 5, 'started', '{"attempt": 2}', '2026-12-01 00:31:24.494485+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 6, 'progress', '{"step": 0, "bytes": 0, "total_bytes": null, "total_steps": 1}', '2026-12-01 00:31:24.498093+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 7, 'retrying', '{"reason": "failed", "run_at": "2026-12-01T00:31:43.017691Z", "message": "`127.0.0.1:9` cannot be reached."}', '2026-12-01 00:31:32.037567+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 8, 'started', '{"attempt": 3}', '2026-12-01 00:31:43.558225+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 9, 'progress', '{"step": 0, "bytes": 0, "total_bytes": null, "total_steps": 1}', '2026-12-01 00:31:43.566025+00'),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 10, 'failed', '{"class": "upstream", "message": "`127.0.0.1:9` cannot be reached."}', '2026-12-01 00:31:51.117202+00'),
	('01a22f03-d9e4-75a7-8146-f79ef462b176', 1, 'queued', '{}', '2026-12-01 00:31:51.278639+00'),
	('01a22f03-d9e4-75a7-8146-f79ef462b176', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:51.290113+00'),
	('01a22f03-d9e4-75a7-8146-f79ef462b176', 3, 'progress', '{"step": 1, "total_steps": 4}', '2026-12-01 00:31:51.474378+00'),
	('01a22f03-d9e4-75a7-8146-f79ef462b176', 4, 'progress', '{"step": 4, "total_steps": 4}', '2026-12-01 00:31:51.576272+00'),
	('01a22f03-d9e4-75a7-8146-f79ef462b176', 5, 'succeeded', '{}', '2026-12-01 00:31:51.589129+00'),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', 1, 'queued', '{}', '2026-12-01 00:31:51.735212+00'),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:51.755831+00'),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', 3, 'progress', '{"step": 1, "total_steps": 2}', '2026-12-01 00:31:51.83574+00'),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', 4, 'progress', '{"step": 2, "total_steps": 2}', '2026-12-01 00:31:51.908613+00'),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', 5, 'succeeded', '{}', '2026-12-01 00:31:51.915635+00'),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', 1, 'queued', '{}', '2026-12-01 00:31:51.969746+00'),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:51.980733+00'),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', 3, 'progress', '{"step": 1, "total_steps": 2}', '2026-12-01 00:31:52.111813+00'),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', 4, 'progress', '{"step": 2, "total_steps": 2}', '2026-12-01 00:31:52.183932+00'),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', 5, 'succeeded', '{}', '2026-12-01 00:31:52.20771+00'),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', 1, 'queued', '{}', '2026-12-01 00:31:52.418476+00'),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:52.428419+00'),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', 3, 'progress', '{"step": 1, "total_steps": 2}', '2026-12-01 00:31:52.499958+00'),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', 4, 'progress', '{"step": 2, "total_steps": 2}', '2026-12-01 00:31:52.549102+00'),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', 5, 'succeeded', '{}', '2026-12-01 00:31:52.55608+00'),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', 1, 'queued', '{}', '2026-12-01 00:31:52.642263+00'),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:52.654084+00'),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', 3, 'progress', '{"step": 1, "total_steps": 2}', '2026-12-01 00:31:52.686807+00'),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', 4, 'progress', '{"step": 2, "total_steps": 2}', '2026-12-01 00:31:52.727698+00'),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', 5, 'succeeded', '{}', '2026-12-01 00:31:52.734521+00'),
	('01a22f03-e07a-749f-a06b-725364fc86b7', 1, 'queued', '{}', '2026-12-01 00:31:52.96105+00'),
	('01a22f03-e07a-749f-a06b-725364fc86b7', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:53.007674+00'),
	('01a22f03-e07a-749f-a06b-725364fc86b7', 3, 'progress', '{"step": 1, "total_steps": 2}', '2026-12-01 00:31:53.033365+00'),
	('01a22f03-e07a-749f-a06b-725364fc86b7', 4, 'progress', '{"step": 2, "total_steps": 2}', '2026-12-01 00:31:53.075503+00'),
	('01a22f03-e07a-749f-a06b-725364fc86b7', 5, 'succeeded', '{}', '2026-12-01 00:31:53.08186+00'),
	('01a22f03-e155-7381-ab4f-00e23dfda5ba', 1, 'queued', '{}', '2026-12-01 00:31:53.180668+00'),
	('01a22f03-e160-7736-bfc0-3bedeb53561d', 1, 'queued', '{}', '2026-12-01 00:31:53.185827+00');
INSERT INTO public.job_events VALUES
	('01a22f03-e155-7381-ab4f-00e23dfda5ba', 2, 'started', '{"attempt": 1}', '2026-12-01 00:31:53.188544+00'),
	('01a22f03-e160-7736-bfc0-3bedeb53561d', 2, 'canceled', '{}', '2026-12-01 00:31:53.195476+00'),
	('01a22f03-e176-7722-afec-afbd4cce3735', 1, 'queued', '{}', '2026-12-01 00:31:53.207954+00'),
	('01a22f03-e17d-736f-8885-9e521fd8c345', 1, 'queued', '{}', '2026-12-01 00:31:53.219336+00'),
	('01a22f03-e155-7381-ab4f-00e23dfda5ba', 3, 'progress', '{"step": 1, "total_steps": 800}', '2026-12-01 00:31:53.413599+00');
INSERT INTO public.job_needs VALUES
	('01a22f03-3a88-72ba-881b-ddac5034593f', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-3d10-7397-8278-9abb36008f26', '01a22f03-3c9c-7246-a313-4048fa5e2702'),
	('01a22f03-d9e4-75a7-8146-f79ef462b176', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', '01a22f03-3c9c-7246-a313-4048fa5e2702'),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-e07a-749f-a06b-725364fc86b7', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-e155-7381-ab4f-00e23dfda5ba', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-e160-7736-bfc0-3bedeb53561d', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-e176-7722-afec-afbd4cce3735', '01a22f03-37ef-7572-a36d-e51c543211e8'),
	('01a22f03-e176-7722-afec-afbd4cce3735', '01a22f03-3c9c-7246-a313-4048fa5e2702'),
	('01a22f03-e17d-736f-8885-9e521fd8c345', '01a22f03-37ef-7572-a36d-e51c543211e8');
INSERT INTO public.jobs VALUES
	('01a22f03-e17d-736f-8885-9e521fd8c345', 'training', 'queued', 0, '2026-12-01 00:31:53.219131+00', 0, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 0, 4, NULL, NULL, NULL, 1, '2026-12-01 00:31:53.219131+00', NULL, NULL, NULL, NULL, '{}', '01a22f03-e17d-736f-8885-9e521fd8c345', 'waiting', NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-3e57-738d-87ac-4d2719585d14', 'import', 'failed', 0, '2026-12-01 00:31:43.017691+00', 3, NULL, NULL, 3, 3, 0, 3, 0, 20, NULL, 0, 1, '{"bytes": 0, "total_bytes": null}', 'upstream', '`127.0.0.1:9` cannot be reached.', 10, '2026-12-01 00:31:11.448656+00', '2026-12-01 00:31:11.456288+00', '2026-12-01 00:31:51.116651+00', NULL, NULL, '{}', '01a22f03-3e57-738d-87ac-4d2719585d14', 'missing', NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-3a88-72ba-881b-ddac5034593f', 'training', 'succeeded', 0, '2026-12-01 00:31:10.48151+00', 1, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 4, 4, '{"loss": 1.299366474151611, "seconds_per_step": 0.023422791}', NULL, NULL, 5, '2026-12-01 00:31:10.48151+00', '2026-12-01 00:31:10.499869+00', '2026-12-01 00:31:10.995207+00', NULL, NULL, '{}', '01a22f03-3a88-72ba-881b-ddac5034593f', 'style', NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-3d10-7397-8278-9abb36008f26', 'export', 'succeeded', 0, '2026-12-01 00:31:11.121526+00', 1, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 0, 0, NULL, NULL, NULL, 3, '2026-12-01 00:31:11.121526+00', '2026-12-01 00:31:11.135993+00', '2026-12-01 00:31:11.190221+00', NULL, NULL, '{}', '01a22f03-3d10-7397-8278-9abb36008f26', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-dc9c-74e4-9a3b-e52a7758fab4', 'generation', 'succeeded', 0, '2026-12-01 00:31:51.969217+00', 1, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 2, 2, '{}', NULL, NULL, 5, '2026-12-01 00:31:51.969217+00', '2026-12-01 00:31:51.980326+00', '2026-12-01 00:31:52.2074+00', '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-dc9c-74e4-9a3b-e52a7758fab4', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-d9e4-75a7-8146-f79ef462b176', 'generation', 'succeeded', 0, '2026-12-01 00:31:51.276183+00', 1, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 4, 4, '{}', NULL, NULL, 5, '2026-12-01 00:31:51.276183+00', '2026-12-01 00:31:51.289202+00', '2026-12-01 00:31:51.588827+00', '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-d9e4-75a7-8146-f79ef462b176', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-df40-76a1-ba05-fe305d66ca4f', 'generation', 'succeeded', 0, '2026-12-01 00:31:52.641945+00', 1, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 2, 2, '{}', NULL, NULL, 5, '2026-12-01 00:31:52.641945+00', '2026-12-01 00:31:52.653829+00', '2026-12-01 00:31:52.734323+00', '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-df40-76a1-ba05-fe305d66ca4f', NULL, NULL, '2026-12-01 00:31:52.871739+00', '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-dbaf-7216-a48c-515545b7c9b6', 'generation', 'succeeded', 0, '2026-12-01 00:31:51.729796+00', 1, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 2, 2, '{}', NULL, NULL, 5, '2026-12-01 00:31:51.729797+00', '2026-12-01 00:31:51.755471+00', '2026-12-01 00:31:51.915335+00', '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-dbaf-7216-a48c-515545b7c9b6', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-de58-704d-9bd8-78a9f68c8e08', 'generation', 'succeeded', 0, '2026-12-01 00:31:52.417717+00', 1, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 2, 2, '{}', NULL, NULL, 5, '2026-12-01 00:31:52.417717+00', '2026-12-01 00:31:52.428148+00', '2026-12-01 00:31:52.555846+00', '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-de58-704d-9bd8-78a9f68c8e08', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-e155-7381-ab4f-00e23dfda5ba', 'generation', 'running', 0, '2026-12-01 00:31:53.180172+00', 1, '01a22f03-39d0-7650-b53f-68b1eba32b73', '2026-12-01 00:32:23.193173+00', 0, 3, 0, 3, 0, 20, NULL, 1, 800, '{}', NULL, NULL, 3, '2026-12-01 00:31:53.180172+00', '2026-12-01 00:31:53.188254+00', NULL, '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-e155-7381-ab4f-00e23dfda5ba', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-e07a-749f-a06b-725364fc86b7', 'generation', 'succeeded', 0, '2026-12-01 00:31:52.960569+00', 1, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 2, 2, '{}', NULL, NULL, 5, '2026-12-01 00:31:52.960569+00', '2026-12-01 00:31:53.007425+00', '2026-12-01 00:31:53.08166+00', '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-e07a-749f-a06b-725364fc86b7', NULL, NULL, NULL, '01a22f03-e055-7185-b153-7b113b37dfa2', 0, false, NULL),
	('01a22f03-e160-7736-bfc0-3bedeb53561d', 'generation', 'canceled', 0, '2026-12-01 00:31:53.185048+00', 0, NULL, NULL, 0, 3, 0, 3, 0, 20, '2026-12-01 00:31:53.195014+00', 0, 800, NULL, NULL, NULL, 2, '2026-12-01 00:31:53.185049+00', NULL, '2026-12-01 00:31:53.195014+00', '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-e160-7736-bfc0-3bedeb53561d', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL),
	('01a22f03-e176-7722-afec-afbd4cce3735', 'generation', 'queued', 0, '2026-12-01 00:31:53.207629+00', 0, NULL, NULL, 0, 3, 0, 3, 0, 20, NULL, 0, 800, NULL, NULL, NULL, 1, '2026-12-01 00:31:53.207629+00', NULL, NULL, '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, '{}', '01a22f03-e176-7722-afec-afbd4cce3735', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', 0, false, NULL);
INSERT INTO public.model_uploads VALUES
	('01a22f03-3e45-720f-8ff4-419ad0497b47', 70000000, '2026-12-01 00:31:11.429644+00', '00000000-0000-7000-8000-000000000000');
INSERT INTO public.models VALUES
	('01a22f03-37ef-7572-a36d-e51c543211e8', 'ember', 'checkpoint', 'flux', NULL, '[{"path": "model_index.json", "bytes": 497, "sha256": "f9890c6f1367fcc9acfb51ac61c4e389ff4dd2a00db0ea76690dfaede0bb8c44", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/model_index.json"}, {"path": "pyrograph.json", "bytes": 113, "sha256": "aaafe92edcb7c56a2046f9b8fdbc520214e9889a831c0d9b35d8deabd466430c", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/pyrograph.json"}, {"path": "scheduler/scheduler_config.json", "bytes": 135, "sha256": "3d9a47d5a59c80fb1ad6d68a0d5c242f883df2f4c5d89b87efeeda581004d228", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/scheduler/scheduler_config.json"}, {"path": "text_encoder/config.json", "bytes": 427, "sha256": "58f4422d304ce24aa5c2c824c92073db76f7036e62df9d52fbc27baf80738ac9", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/text_encoder/config.json"}, {"path": "text_encoder/model.safetensors", "bytes": 1128160, "sha256": "0ea4ff17072b96beb04249355bec464e03eedc8ded06eafa2b20578bff91377f", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/text_encoder/model.safetensors"}, {"path": "text_encoder_2/config.json", "bytes": 506, "sha256": "b9c5256f69e523bd591ba7c792d5840587cead692cdaf25da7c00ca62c79dbfd", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/text_encoder_2/config.json"}, {"path": "text_encoder_2/model.safetensors", "bytes": 872656, "sha256": "7c9ab372f8071afb73fe21c7ad8c73a2bca08769bed5616ec8ec3e52a6c0986e", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/text_encoder_2/model.safetensors"}, {"path": "tokenizer/merges.txt", "bytes": 16486, "sha256": "ef0a93aea9269aafb3ea25d0bc1100a8913ca0557d99b5cb77dcf61b6e1f8edf", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/tokenizer/merges.txt"}, {"path": "tokenizer/special_tokens_map.json", "bytes": 133, "sha256": "92e1e31d71a7f63cd75b4dfa1469377bd2cd6b8292cf70b3ff5b7082b0edc1c9", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/tokenizer/special_tokens_map.json"}, {"path": "tokenizer/tokenizer_config.json", "bytes": 222, "sha256": "13224d9d2c5a128bb7f1d51bdad3d1b70504ef3b3890d49d92513bb1556bae96", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/tokenizer/tokenizer_config.json"}, {"path": "tokenizer/vocab.json", "bytes": 32077, "sha256": "5590e23f660e75875e425954091a6d75d216d81eadc6e09d837fb2ed6bb72f93", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/tokenizer/vocab.json"}, {"path": "tokenizer_2/special_tokens_map.json", "bytes": 74, "sha256": "5e4d1f5e759d74cb1c2fe1d165cfc62b5237aa904de759380cd6f43042eec723", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/tokenizer_2/special_tokens_map.json"}, {"path": "tokenizer_2/tokenizer.json", "bytes": 55439, "sha256": "702bace6b62b16ff35a163a8bca69864e4c748a7db2a7cebc2f77b9736a2f5ab", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/tokenizer_2/tokenizer.json"}, {"path": "tokenizer_2/tokenizer_config.json", "bytes": 158, "sha256": "1fb765265f18506b73393a1556f1e7bf33438d2a5892497a16674ea985f7fca2", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/tokenizer_2/tokenizer_config.json"}, {"path": "transformer/config.json", "bytes": 351, "sha256": "8fa282c8e6f6d5084aa21df42f8c91b8c150877e0c2d237d5f3675f12d3f6452", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/transformer/config.json"}, {"path": "transformer/diffusion_pytorch_model.safetensors", "bytes": 10380992, "sha256": "0a9c95f405380dd6e0fa7db075d9cb83228dd09cf5ee195626a4750f7000ea9a", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/transformer/diffusion_pytorch_model.safetensors"}, {"path": "vae/config.json", "bytes": 708, "sha256": "e9cdf61403761fb018a6e3388cb2f69f4f6dd1a5ccdd035267882fe06b1c4355", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/vae/config.json"}, {"path": "vae/diffusion_pytorch_model.safetensors", "bytes": 3105054, "sha256": "6bc2aa896c8eac89e2ee99d1f4f34a0898c7503ac838d334ffa1ac921244b005", "storage_key": "models/01a22f03-37ef-7572-a36d-e51c543211e8/vae/diffusion_pytorch_model.safetensors"}]', 15594188, '0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa', NULL, NULL, '{"width": 64, "height": 64, "strength": 0.6, "size_multiple": 16, "guidance_scale": 1.0, "takes_guidance": false, "true_cfg_scale": 3.0, "scheduler_required": false, "num_inference_steps": 12}', true, '2026-12-01 00:31:10.123479+00', NULL, NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', '[]', '{"configs": {"vae": {"act_fn": "silu", "_class_name": "AutoencoderKL", "in_channels": 3, "sample_size": 64, "force_upcast": true, "out_channels": 3, "shift_factor": -0.02747154895972755, "scaling_factor": 0.7098168337898243, "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"], "use_quant_conv": false, "latent_channels": 32, "norm_num_groups": 8, "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"], "layers_per_block": 1, "block_out_channels": [16, 24, 48, 96], "use_post_quant_conv": false, "mid_block_add_attention": false}, "transformer": {"num_layers": 2, "patch_size": 1, "_class_name": "FluxTransformer2DModel", "in_channels": 128, "out_channels": null, "axes_dims_rope": [8, 12, 12], "guidance_embeds": false, "num_single_layers": 4, "attention_head_dim": 32, "joint_attention_dim": 128, "num_attention_heads": 6, "pooled_projection_dim": 128}, "text_encoder": {"hidden_act": "quick_gelu", "model_type": "clip_text_model", "vocab_size": 2299, "hidden_size": 128, "bos_token_id": 2297, "eos_token_id": 2298, "pad_token_id": 2298, "architectures": ["CLIPTextModel"], "layer_norm_eps": 0.00001, "projection_dim": 128, "attention_dropout": 0, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 20}, "text_encoder_2": {"d_ff": 256, "d_kv": 32, "d_model": 128, "num_heads": 4, "use_cache": false, "model_type": "t5", "num_layers": 2, "vocab_size": 834, "dropout_rate": 0, "eos_token_id": 1, "pad_token_id": 0, "architectures": ["T5EncoderModel"], "feed_forward_proj": "gated-gelu", "is_encoder_decoder": false, "layer_norm_epsilon": 0.000001, "tie_word_embeddings": false, "decoder_start_token_id": 0, "relative_attention_num_buckets": 16, "relative_attention_max_distance": 32}}, "text_tokens": 16}', true),
	('01a22f03-3c9c-7246-a313-4048fa5e2702', 'style', 'lora', 'flux', '01a22f03-37ef-7572-a36d-e51c543211e8', '[{"path": "style.safetensors", "bytes": 227136, "sha256": "a3a0c0ec847aa637aec26f4119e73a1be9964593f6846f58a779676a74f0ef55", "storage_key": "artifacts/01a22f03-3a88-72ba-881b-ddac5034593f/1/0.safetensors"}]', 227136, 'a3a0c0ec847aa637aec26f4119e73a1be9964593f6846f58a779676a74f0ef55', 'xqv', '01a22f03-3a88-72ba-881b-ddac5034593f', '{"width": 64, "height": 64, "strength": 0.6, "size_multiple": 16, "guidance_scale": 1.0, "takes_guidance": false, "true_cfg_scale": 3.0, "scheduler_required": false, "num_inference_steps": 12}', false, '2026-12-01 00:31:11.00471+00', NULL, NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', '[]', NULL, false),
	('01a22f03-3deb-769c-ba2a-b781a3108aab', 'uploaded', 'lora', 'flux', '01a22f03-37ef-7572-a36d-e51c543211e8', '[{"path": "a.safetensors", "bytes": 227136, "sha256": "a3a0c0ec847aa637aec26f4119e73a1be9964593f6846f58a779676a74f0ef55", "storage_key": "artifacts/01a22f03-3a88-72ba-881b-ddac5034593f/1/0.safetensors"}]', 227136, 'a3a0c0ec847aa637aec26f4119e73a1be9964593f6846f58a779676a74f0ef55', 'xqv', NULL, '{"width": 1024, "height": 1024, "strength": 0.6, "size_multiple": 16, "guidance_scale": 3.5, "takes_guidance": true, "true_cfg_scale": 1.0, "scheduler_required": false, "num_inference_steps": 28}', false, '2026-12-01 00:31:11.360382+00', '2026-12-01 00:31:11.404875+00', NULL, NULL, NULL, '00000000-0000-7000-8000-000000000000', '[]', NULL, false);
INSERT INTO public.previews VALUES
	('01a22f03-e155-7381-ab4f-00e23dfda5ba', 4294967297, 1, 800, 0, 256, 256, '\xffd8ffe000104a46494600010200000100010000ffc00011080100010003011100021101031101ffdb00430006040506050406060506070706080a100a0a09090a140e0f0c1017141818171416161a1d251f1a1b231c1616202c20232627292a29191f2d302d283025282928ffdb0043010707070a080a130a0a13281a161a2828282828282828282828282828282828282828282828282828282828282828282828282828282828282828282828282828ffc4001f0000010501010101010100000000000000000102030405060708090a0bffc400b5100002010303020403050504040000017d01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffc4001f0100030101010101010101010000000000000102030405060708090a0bffc400b51100020102040403040705040400010277000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9faffda000c03010002110311003f00f3b6040c9af8ddcfe8a788822bcb3201c9ad2306ce5af8ca6a2565ba8fcceb5afb2958f0a58fa5cfb96cdd47e575acbd9cae762c7d2e5dccf375189739ae8f652b18acc68f36e5c5bf87cbc679ac1d195ced8e6345ab5c805cc6d2706b4f66d21c7174db2d971e566b1b6a763c44390a2d22f995ba4ec79b2c5d3e72c46c08acda3aa18a83449daa4afac4040e338a762beb10253f73351d4975a25669555b9ad545b39eb62e9a4490dd461b934e546563c878da7ce687dba1f2b19ae5f632b9d2f1f4b93728c9771efce6b754a5638638ea5ed047bd8b6633495295cf769e614792d7298b98ccbd6b6f66d23358ca6e4684332eceb5cf28bb9d6f174f9491664ce3352e2cf3de2a1cc4acc0a715296a74ac4c394a320f9eb75b18fd6217248bad4c8e9fadd3e5b16fa4758f530f6f1bdca52c803735d108b65d4c65351082e6312726b49529389e34b194f9cd84bd8bc8c66bcf9519731d6f1f4b9372949771efeb5baa52b1c31c752e7dc537916deb53eca47b10c7d2e4dc8bedb16eeb57eca5639bfb429736e4ab771e3ad47b3676c333a096e2ddae2238a29eacf2eae226a272f7ed26f216bd6a34d33e7f1b8ca8919db2e4c9c577fb15ca7c955c7d5f69b96bcbba31d733a714ce9fed0abc9b94e7b7bbea056f18c0e079955e6dca656f55f9e954e10b1df4331acdee5eb169bcc01ab9aaa8a47d06171b37b9d1a0736d5e6bb731ed4b132f6666b87f3aba55ac7833c4d475342f5b86c5613b1e8d1ab56d72e943e5d637573ad62276b15555fcead5b5608d6a97341e36fb3e6b9d49731b4ebc940e7ef04be6102bd3a114cf9fc5e2aa229b2dce78af4d518f29f3d531f514817ed84e2b9654a17078eab6dc91a1bb2b9c535081cbfda1539b72a4b1de0ebd28e581e852cc6af71907da3ce00d29c6363d1a38e9b7b9bd079be4d79f24ae7a6b1551c423793cca1c558e6facd4723561dc539ae595ae77c2ad4b0e319eb8a572655e611a9dd49bd0c556adcc5a914f9359a7a9d6eb4f94c1be2e09c57a3412679388c4d5465169fcde2bd5541389e254c5d5e62d466e8ae2b8e54629933c6d65115a3baeb57c90b1c0b30a8a7b904a6e40a9f671b9e9c731abc9b9504973e6569eca3639659856be8cbd1bcfb6b074d5c3ebb89e875b70331915e452f88fd2aad37ca61c90666e4715ee61da3e731d0762f5b5a427191cd7a4da503e42b41aa86a456116cc91c579952a2e629fc36092cad76e31cd2526703a53e6b99f79a741b4955a7ed19dd434763196d36dcf038ac2a49d8f7f0b195ee6d4712fd9f15e736f98f7affbbb149edbf799c56ea4ec79d18af69a962088020565291efd3e4f665ef2bf7758736a72b4f98ac91a89ab572763ae3156345953ecf8ae78b7cc65523268c59a053374af630b2d4f1b1b49f25c9a2b6848e9cd7b9ff2eee7c556e6554b50d8c39c915e5d4a8b9ac74daf02f25a5b6cc114aeec79ee9cd4ee57bbd3e031920565ed1dceda52e873ef62a2e381c56b297ba7a787849cae6925b2f938c579b293e63e860bdc2bfd9489338e2b4e6f74e78c7df2fc11f0062b924f53d88b872168dbfc99c52e6399abc8ae23c4949cb43aa30858b32a8f22b28bf788942e60dd20321af570af53831147dd2386d90bf22be9236f667cd56a7699b36d6b16d1915e5559ae6b232ab1f74b4d05b6cc639acad2dcf1254e6a7733aead6220e051196b6677c1be5b192d68be6f02baeeb94a8529395d9762b21b7a57349ab9ea538c12d4d475f979af0a0f53f51ace1ca5195541cd7ab876db3e5f1ae0ee25abfefc015ebce12f6773e4b134d396874b0c2cf6c368e6be7e6e5ed0e38c5a96a67cd67721f763e5af4a16713b1fb2e4f322970a987eb594a2ee70537fbd33d8c5e67bd44d687d7e1397909a360462b81c7de3be49f2e848514ae6b6e4763cf7f10c8c0f32b9a7a1dd4b9cd0c0f26b9ba9d91b5b533d90f9b915d0b6368c9160e7cbacfa9bfb96d4cf9c80c4d7a1854dc8f2f1ae0e0d115bc84cc16be95d297b1b9f0d89a57a9747416f6eef082a2be6aa292aa2846db81b3b953bb1f2d77c55e06b53d9a88926426d6eb5c8e12e63cda72fde941d537e6b697c27d6e1141c49232bd3b579d3f88f46da13e22dbef4da76316b512251e6f1d2b9a45c79cd511af91596a6e9e867cb181255598e327723981f2e94773ba2e36d4c69c62424d7a585f88e6c438f2840ca5c01d6be89c65ec8f98c4c5731aeb6f21872a2bc16e5ed6cce096fa949e3b81273d2bd8505ecc892a761fb199707ad7912525339e16e71a966fbf711c57626f94f5e3187217e358d570dd6b9e49dce1a8a77d02551b38af169ee7e8f5dcf94cab98df248af6f06d5f53e5f15cf7d482c237fb58afa56e1ec4f2a6d5f53d1745b70615de38af98aca3ed3431abcbcba1b37d6b6a2c49c7cd5d14cf1ea7b5e6f23cd75b045c308fa5743e5b1b50f88c168a7f333dab8eab47d46094d972df7e40ef5c565cc7d1f27eecd25b694c7bb1c5755e3ca7956b55d489508931debceaad5cf6a1c9eccbe91b6cf6ae4e65738a727cda1198fe6e6b5e6d0d23262c89fbbe2a22fde2e7cdca64dd44f93815ed605c79d5cf1b1129f52bd842ff6b191c57d8f353740f1aa38f36a7a3e876e8625de2be5b1108fb4ba31a8d72e86fdddada8b1240f9aae113c5aaea731e7baaaff00a4b2a74ad6508dae3a37e6339e097af6ae1aad2d0fa5c1299100fbb1deb83ed1f4b18feec9d219cf38e2ba5f2f29c2bf885ab743bc03d6bcea96b9eaa8c790d748dbc9a84d5ce09df98a72c67756cdc6c691688a68cecae56fde2db95b431af616c12057a38292e7392b3958a3611c86fc03d2beca3cae81e2d596ba9e8fa75a21b1058735f3b522bdae871547a6854bcb58867039af463f01e6cd54b994b08fb4631c571ce2ae694f7355ed505ae71cd45cf4a929339bbc66598814fdd3b634d35a975236638c57cec773ee6a56a4d133d96e8f38aefa0da67858c74dad0ad696256ec1c715ed7b497b3b1f278897bda1dbd8a04b618eb5e5b5273bb3082937a906a0f2792476aef8db94ec953872799c85c47bee4eeac66d9e6d283f6c4d25ac3e4671cd724a4cfb8c0423ca8c982302f71dab16cf6e497b33ae48e0fb07bd0dcac787529b73d0e7a40bf6bc0e95cd52f63a234ead8d78d13ecf5c2e32e61fb37d4a12ed0f5ba4ec690834f50501b8a15ee76b71e4d473d9864ce2bbb0f29291e263546da105ada017238afa08d797b3b1f1f5dcb9f43b1b08ca40315c4e5796a28ddee3ef2593c82b5d906ac6b3a717139892167bacb0a551e871d1a7fbd2f496b1fd9738e6bcaaaddcfb3c1460a2608847db3a715cbadcf55a5c9a1d0a430fd93deb47cd63cd71f7f432c2a8bae3a5714ef73ba319729b91f97f66f7acf9646528199395f338a1a9d888d395c8ca822b2d6e7728ae5d4ad340ac3a576e15494ee70e262b9486cac3fd2c362beaa155aa563e5f109f36876b6f1edb202bcd724ea18c69c9bd4c8bc0c5c8af4a325c874ca94390ad0c04cb9c571cdea798a36a869cd1116958c8f7a8f2721c8df27efcd62e4ca7e46a42d18719af2211773b9c6bb35a392dfcac1af52846c73d4a15a488d5edc4991d6bd58b5cb6381e02aca5aa34adee23c000f158ca2b73a3fb3e6a37b125e3466dc9a957bd8e39e16adec71f77227da4e2ae50f76e5d1c14d4aec6c8ff00baf6af2eabd4fa2c2d394558ce5751719ef59c536cf6127c96357ed0df66c678aede45ca73c28de77665897373ef5c738ea7b51a74f90d84626deb3f668e19d25cda142663be9b4ac295356d07db38f3066b150bb382a53a9d0db4921f239eb5df4699e7d6c3d4922bc12442e6bd0da363c5a997d472bd8e9ed6787c80335c6d3e621e02a2e8457124654fa575d36cc5e0eaec6548d17995b4be12a1829a77b0d9a65f2b1dabcbab1773d5c352a916633ba79d91d6b24b53dd49f26a5a139f2b19e2b7972f29c918fbfa958483cdcf7af3dabc8f65463eccbde71f27ad75c29268f3ddb9ccf794993ad54e92e53b6308729611f8af35d3f7cc25077d0911973cd7a542091cb5a8c9c4bf68d0071eb5e93bf26878553092e7bb3684f17d9f00d79bef739a3c3a5132669633257a5093e538a786a8de8496ef16f152d5cc9e06a2d6c685cb45f64350e2c50a5553b1c56a0c9f68359381e84294ada8c11cd9e2b8631573ed3fd9c718eef6f1d2bb611b2292c38c8d6ebccad5731a258535acd2e78cd6a93226f0d6346e966fb21aa8c753cd9bc3391c7dc24c6f0d74544b90a50a3d0bad0c9f66e95f3f5be3348fb35b18c63945d55536ae6c9a358ab7d96bb74e51de3d0c85de2ef9e95c736ae2529dce8a175fb373d6b0933756b6a519882fc5657771a4ba8d48e427e515b53b5cd6f46da9398ae76715ead38ab1949d0218a1baf3b38ad2c62feac6e5aa5d0419a9f66292c358b1289bcae7ad6aa272cbeac64bace66a1a6656a04b2c33f939c573d481a45d1e862b0945c60d70c96a5cad6d0d0557f26a1f31c3a7315177f9d5947e23ad39729a5cf915df06ac7359f319acdfbec5393563ae0a4b72ec4accbc5723e5b9d319c16e3da19b1902b7a4b51ca54ada91c51dc896bd45671386b4a858d754b9f22b99d3d6e79bcf0e6284b15c6fad5268efa4f0ed6a496c971bc55246f3587e5352649fec954e2ac79b3f61cda1c9df452f9e6b1762928743a1b792d8c8335e7422d33cf5f583654d8f91ef5dd0b58df9713629e6d3cead558c5fd6ae6841259aa8ab4e24d458ae50bbbbb4f20806a9491e7258ae7d4e62692d8dce68a95138d8f6292adcba961e7b6fb3e335e356577746f0f697d4c5792dfed1915cd152e63d08c9f296de687c8c57a4afc8441cb98c59648fcfc8ae1a89dcf5e0a3ca5817184ebc56367731bfbc4493a9979356e3a1b4fe0d0dbb0920246eaca1cca478559d6e6d0df84d9f93cd7b3465a184e388b0d8cd979b5d09a3cf92c4f31a8b2d9086b54e25b8e2794a373736bc806aae8e26b13cc5149ad7cec934db8d8ea50af62fcf3d97d908079ae6a96b0e92afcda9c9dc4907da891d2b85abc8f7637e4d4b6678041d6ae54fdd391465ce6699e2f3b835c0e0f98f56115c85b9278fc8e0d74c53b19c69fbc6379cbf69ebc529dec7a1284553d0deb0962c0dd5ca94b98f9facaaf3e86d4325aece6bd2a56b19ce35b9742589ecf7d7546479538625c8d212d9f955b2710fabd7b5ca32cb67ba9dd1928625308a5b40f9a9e646ee189e52dcf7765f66233cd294958e350c473ea72d7b25b198915c5296a7ad4a1539753988a79f7706a79a27d7470d4932f0b9baf2faf1473763abd8d0512117173e675aae6673fb3c3dcb3e7ddf97c1a39d9aca9e1b94a735c5e138cf1577958f3a74b0ca453792e739359394ba87ee7644525c5cedc66b3725d499469f42b2bdc799934e3cb739dad4bbe6cde562ba74b1ac522966532d72cf96e74a8cada17017f2eb3f74950772b664f32876b1d2a9cada97eda49c63159fbb708d2a77d4d159ee4275ae8848ecf65439752217373bfad6f77638dd3c37316bed17863eb494ddcd9d3c37294e596f3756c9bb1e74a9e1f9884cf740f5e6a79997c942c23dd5e15c678a252d0e692a17d0ac5e72f93d6b95497312edd0919ae7657769ca669c2e555fb479bcd71b71e63b21b17b74de4e2b5bc6c6b148a3897cecd73ca5135b3b1a7034c1062a2f13350a77d497cfb903835ac65d8e9e4a3cba8477175bfad6f77639b930dcda97bed375e575a4a52b9bf261b94a4f3dd97eb5b5dd8e5e4c3730e32de6de0d63795cddd3c3f295e49eff00a678ad1dec79b3861d48aecd744f3d6b9649dc6a5451a312c61f9ae08ce573a5d52fee83cac77aec8339ea579db42b2987cef6adeeac79b2a956e6a46d6de5735316ae275ead8ad37d9abb572f29c92ad56e519841dab9aadba0a15aa5f529388b7579b3e6be87a54aa37b808e2a5094ae76dd728ac23c577a97ba654e7ef906c4dd5c7393b9efd370e425d836565ccc84e1cc44a89bea9b763aa53a7c8685ba46304d649bb9e3d5a9ef685edf008f15dd48e6ab5e7cba10a3c1e6d765d58f1e75eaf31ad135af97cd609fbc6bf59a9ca4739b4db5db16b94e4756adccc91edf7d65268a75ea586b35bedacaa3d0c29d5aae7a902f9264ae057e73db4dfb32eac7098ebd272fdd9c0a72f6840d045bb815e4d49be63daa535ca0d1a6dab551d8b8cd7315c449bfa56529b3b9d5872172258c0e6b38ca573caa951f3684b98315e852b9954ad3e5d06a1837d76292b1e3cebd5522eabc1b29a6ae6bf59abca460db6eae8e68d8e6f6d5b98b0bf65dbcd6178dce9fac55e52395acf1ef5ae9638ea56a972949f66ddc564f94e775ea992f210bc578d15a9f5beca6ca8f712eeebc57545e835425d444b87ddd79a1c99a3c3ab167cf9b67078a953d4e6961995dae652d8cd74aa9a184b0a23492919ac9d4bb31faa4ae43e6beea6d268da142489d59f6d63a266feca7613cc6adafa19aa33e61f193bb9ac26774635522d161e5fbd616d41aa855c9f32b5b684fef762d19088b8eb59a5a8bd94dee67cd71306e0f15db069226546561b1dc4bbbad37338e587d4bab3dc6ceb58aa9a92b0d2b904b737078cd74aaba1afd5b42b3c93f5a5ed13309616572317136ec1354da6870c2ea5a82493393586973afd84f94d08a76c6335bca4b96c71bc3cb989d5cd79b3f88ea8d39a42b49c505384c877fcd49a2396a8e776d9c528a573454e4f7284934bbebba2d582545d8724d267ad2e668e39d0d498c93eccd3554858765713cfe675aa75b434fab22c3cb71e57158aadef09e19998f3dd79b8cf15d6aaae539e5856cb08d7056b0956d4c9e0a4c918e0735ce7dba54d104b2c607bd5c62d8e73a3189563b94f3baf15b3a6ec7992c5d252b1aab730791d79ae4f672e637fac50e528b5c45e6f5e2ba3965639beb54398b06eedfcac679acbd9cee74aaf8768a5e7c665e0d6fcb2484a749bd0bc244f2ab0b3b9d56a5ca5532af995ad9d8c54e8a91651d48e2b2699d8aa50b0a4b7e14b43273a57117ef7bd365295126dadb7daa2eae36e915a62a339ad63766152a5248af1cd1897935a384ac79af15439ac6aa5cdbf93d79ae474e7737fac61f96e556b8837f5ad9427639feb9439ac2bcf6de5f5e6a542773ad6230ee251f32332f15d16958c635a8b91750a08f3586b73d253a3c8224c3ccc66addec71b951e62f2b831d7335a9d0bd95881dce6b4467cd4931a8df350d1a7b4a162d0fb9cd65d4c2f4ef72bcad18eb5b42eca9d5a4a2431dcc225c135d0e9cb94f1e789a5cc698b9b630f5e6b85c27cc6cb1346c5233c025ce78ad792761471546e5a1756be5e33597b39dcebf6f439487ccb62f9adad3b1ccf114398b4925b6dae7929dce88e230d633ee94888e2b783d4ce756491cd5e34be6102bd4a314cf1f178b9a45429719c8aee545347cbd5c7d453dc914dd74ac254628d1e635147715e0bb29902a546373cd9667539b729b2df07e7a56dece163ba866551bb5cb16de7ef1bbad73cd451f4185c4ce46c47e6f955c6f96e7b4ebcbd9901f337d696563c6a989a9cfa176d4b9600d613b1d10ab5ac6b08ff739ae4bea6dedaa15541f3f15abd8155ab7349828b7cf7ae757e63a3dad4b1cf5fb36f216bd2a30b9e662f115144c99167dd95af4234743e4aae3eaaa96b899bbe9daa7d946e6cf30abc9b8856ef155eca2707f68d5e7dc8f6de679e943a5147a34b1d59adc9ed84de60dd5cf514523d0a189aad9b49bfc9ae276e63d98e22a72159449e77b56aed639d6267cf635a0dde5f35c92b5cf521566e371eca7141855ad3b6832356df437a1e7aad5f9cb8ea44358adcf51559721877ed27216bd0a114d9e562b115123124fb4f9bf2d7aea92e53e6aae3aa73d89e36bcc62b9654a170fae55b0aeb77b735a2a51328e3eaf36e53325e09319e2874a077ac755e5dcb70bdd1aca5089c92c6d5b96d1aeb1583a711fd6f1074972998cd79707a9fa2d45ee988f0033f22bd5c33d4f9fc6a762fc56713274e6be8229725cf8faeda992c5a7207c95e2bceab38dec8ca556f1b1a096d6a23dac39ae477bdcf3dc66e572addd95b6c240aa72763bf0927cd666218a25b8c015cb51b3ecf05176b9a4912793c5725df31ecb7ee159e01bf815d49e879892f69a92dbc5f38e2b9aa48f729aa7c86a88ff00735c9cda9838ae62914c4b5bdf43a6318589e4cf938a88fc4394158c695333735ec61ec7918e8ae42d436d1b751cd7ad64a173e0b1317ed4b89a7c78ce2bcd9555cd6149be51c2d6dc1c115d293b5ce04a5ce24d676fe5e40ac672e87b7866ac65b4512cbc0ae1a9cccf6f0d1d6e5a4d9b315cad3b9ed371f660215dd9c555dd8f2e3fc52c4682b1bea7d053a90f6762711f157d0e5938b9024437561266aa34ec5891079359c5fbc0d7631ae2206439af5b0cf53cec6d3fdd8d8ad622dc8af73454cf84aea4ab1a115943b738af2e753dfb1da9c79074b6d6fb318e6ba15ed738395f3dccd96ca2df9c7158caa743d18c972d848e2855b06a1dd93187bd72fc71c1b6b1773d182a696a589c0f2cd7950dcfbda8d58c7976896bd6c2a773c3c64a2e362e5938f3003d2bdf7197b23e33194db9686f7968d6df2fdeaf9f9b9fb4d4f31424a5a98b716d7425240f96bd08f2f29e87eef935dc8a7671110dd6b9a5b98506bda988dbbed1513b58fb7c14e3c86ac04f97cd70dbde3d093f7497e5ae9b7ba79d27ef12c0177d70d5b9d74dccd5c2f915c5af31d97d0cd900f36ba56c4466f987b8fdd525b9dfccb90ca9800f9af4b0d76cf171934d5892d1ff007c057b9384bd95cf90c453bcee7469186b6f97ad7ce7beab6a72ca0d1913dbceb2e71c57d15371f6473be54c8e67611e0f5af326ef336a127cc644bbcc95af22b1f4d87a91e5268b7e79ae59455ceabc9a2f4478aca51d0cda2dc4b935c72d19519542eaa7c945cdd395860037d6524cd20e7727917f7559c773d08db97531aeb018d7a986bb671e29a70b104320f3715efb84bd91f1b8aa3efdd1aeaa4c1c57cfbe6554e1f793b1464597ccf6af5d2fdd9ade3612523cbc77af35c65ce4424f98c9944a24c8e95dd14b94f4972f2122cce063359b81c5373be86fdc23797c57834dab9fa4d6bf2989710c9e66715ede0dabea7cde279ee2daac82502be9b9a1ec8f2ea463d4eb349463b77f4af9fafcbcfa1c75a11b687473db5afd87247cd58ae63c7a90abcda6c70baaa033954e95a3d8d30f1973199f627dfbb15c75247d66054c9d632063bd7345fbc7d1a5fbb17ecd375c715ddcd1e53cbff9783e0561263bd79d59a3d9a7c9c86b2c52186b8eeb98ca4f528bc4de6722ba1356147725643e5e2a22fde3a26df21997103e4902bd7c1b5cda9e1625bea416b0c82e057d5f353744f16a38f36a75fa6a7eec07e95f375e30f6974635795c6c8d1ba86dfeca4e3e6a7cd2b58f0e74aa73dfa1c6dfae6e0aaf4ac92d4eca2eda10ad8b9f9b1c57436944f5f0dced920b538c639ae094bde3e8e9c5726a3e3b3977671c55ca51e530d398bf6f111804735e7547a9db150e52f792de5f02a1495c9b2b957cb61256b2b729d11e5b13cabfb9f7ae34fdf149e9a1817c8fb8e2bdac135cda9c159b28db4727da457d5de0e89e45651ea759651e6019af9cab15ed2e8f2ab25d05ba81046481cd75436b1e7b8cf98c19518cf8ed4e508dae74411335a0f2b38e6b0ea75d384d99934443e2b4563b634e36d4ea8aab0c57ca42f73ee6a4a3ca579ed576938af5b0cddcf0b152814ede25fb5015edde7eccf9cc45efa1d6d8dbfee0151cd7952e6e7d4e18b7cda85ec372213c7cb5db18ae53d2e5a2e1e67312467ed5f3d673470d3847da9a22287ecfef5c35133ebb06a1ca67a22fda71dab95a773d395b934373ecf0fd9338e6afdeb1e4ca2f9f43184405df1d2b9ea5ec764233b1bd1247f66e7ad79ef9b98d7d4cfb88d379aea8a761c56a400296c538a773a64d280f78136648af4b0ea57d0f0f1728db42a43147f68c0eb5ecfef790f96c43973687476d6ade402a2bcd7cdcfa98d37272d4af7b05c08cf1c576c52e53d6953a7ecefd4c0109fb5fce2a1c4f1145fb5d3637e3821fb2f4e6a26dd8fa8c2463ca6788d3ed38ed5e7cef73d6b7bba1b0b0dbfd9f38e6b26a672493b99db544fc74ac2499715334904661c77acd4257365729cb1aeec8ad5a7604e5721900db8ae6fb4742db533e7854e4915e861b9afa1cf5edca57821433e00e6be822ea7b33e6b13cd7d0e8eded1fc8c81c571bbf36a79faf36a41710b60822bae09d8e8708f299cb685a6e943b9cd08da6683e9ee2db38e2b169dcf769fb35039fbb836ca411549339e7257d0d58918bd7cc4373ea6bf3f2976580fd9fa57b3848eba9f395bda3918f042df6e15f48b93d9194a93b5d9dee896f98d770e2bc6ab15cda1c15616d8dfbeb483fb3c9c734e2ce271ad7f23ccf568717adb055c96875d0a72bea56649427b57154b1f4385e7441167cec77ae6b2b9ee46fc9a9b2a92791ed5bbe5e539a2973ea50dbfbef7af36aee7b2943d99a0892795ed5824ae79d3f88a93ab575a8ab1a268ac81bcca98c5731956e6e5d0bd246df67c8af6309057d4f9dafcee46559a39d4003d2be93969fb238e54bab3d2f47b54368bb857cf5687bf7472b493d09b51b487ecc78e69c58daa96f2384bdb7c5d9da2a9a33843de1fb25117b561368f730b0914fe6f37deb974b9ef463ee6a5c559bcbf6ad1f2729ca92e721c1dfef5c6d2e63d25087216635931ed5d0a30b1c13b290e643b79ac6a4558a8ca255756cd79fa739acb6d086785bcbaf63091573ceacd94ac22737e01e95f4c943d91e5d748f47b2b44fecf048e6bc69c7df3c9935cd64645edb8de4015d70b58d146457b4b41f68191c53761f29d15c5ac434ee9cd6565704aa9e77ab4605db63a55a48d9465d4d78235320af91a517cc7de5595371351ad736fc0af728ab23c3ab08735ccd82c8fdb01c575aa92b58e7aae0a3a1da69b0848071cd438b7a9e3593a9a935fb9fb295a518bb9ea429d2e4387ba877de12456f3d20671a71e7d09e7b6416a4e39af16a4fde3dac3c23639c4422ff00da973a3bdc3ddd0ea97ca1a7fbd4372670724b9b439b6917edd8ed594e2ec774635394e8a1787ecbef5caa2f98cdd293332e9a32c715dd14ec11a534f52b4280cb4a2bde359f2f2d99b1f67dd6dd2bd5a3a2b9e356846f728da59117c0e2bd055ddac70d7e551d0efb4f4d9682b29252d4f0d5fda95efd898c8ac395dcf6d2a7ecce664b7dd759c568d6879d18fef4bb35a01699c57054bdcfa8c2a8729ce7978bdc1e95cf291e835eee874023885967bd73b94ae7038be6309cafdaf1daab53a9467ca6c45e57919ef551e6b9cb520d956678f3815acfe139634eaa95c895033715e5ebce7a49fb9664cf6bba3e95ece1b447056895acac88bc0715eb46abe5b1e3e2763b9b68f6d88150ecf53c54a5ed3532ae62cca68573dc8287b30820c3e715a5ce34bf785abdddf6322a1b3d9a71a7c8705a944c6e4d4fb43195257d0b56775189864d78908599eafb3acce9e0bbb6fb3e09af469d9232a985aad10a5cda89b39ae88b47953c2d772b1af16a36cb16335b271b12f015ad7b152f354b72846ea2f12161eba7639e96ee033e7359d59ae5b1df470b53763e6be80c18cd7855afcda1ebd0a335b98324f17da320d61052e63d68c572d99625be1f67c035e9429fba28d28dee60bdce6e720d44a077284394d38af1fcac678ac3d9ab99aa70b911bacbf26b7e55635a94e1c9a176cae23f3064d4c61ef1f3d5e9cdcb43a4b7ba83c9009af46365138ea61ea343e1b8b51367359f3ea797530959b36a3d4add61c6eae98cd33179755dec53b9d4a06c8cd6b7891f55ae9d8a2b776fe6e735129237860aa6f62dcf7f6df66c679ae5ab6b1e8d0a3562ce5a7b88bed44835e63bb91edc62f9352c3df2fd9f00d6fecf4b98c697be62bdc83719cd64a3ef1e9284790d05bcc43d6ba94158e2f669cca7f6cfdef26b2a8b4b1daf0f0e4b9a567731e464d702a6f9cf22a52973591b51dd5bf95826bd3a4ac853c349c420b9b6136735d2a4d1e357c1546cdc4d46d85be3756919a386597544ef63365d42dccbd6ba14a361c7095b6268f50b603ad4b9a37fa855b5ec25dea56cd0101ab29cb422342b2958e56f2685a6245724a6ee7a54e84ada9ca452cdbf8ae74d1f68a9d13416e2ec47c1e2b78dcd5c70f6d4885d5d6feb5a7bc73fb2c35cb22e6f0a7069fbe692861794ad2cd7c7e955ef58f3e51c35caad25d679aca5cc5c7eaeb611a4ba2b5cb24ba9a5e95b42b817264a21cb73173572d325c795cd7a292e52b9d14047289b9ae69d82f23494b086b1e64526ca7233efe29a9236d6da9242f36ee2b44e245a9f534926b911f15aebd07fb9ea344f75bf835166351c35f52c09af767069a52b9ab8e16c44cf7a4d6def58e6953c35c4dd798f7ac9f319f2e1d11bb5fe39e953252b0af43a100371bf9eb5cca3ef09ca3d09c8b8f2fdabbacb94cb9e172a812f99cd71bb731b26da2d93208aba56c4a5a99e5a4f36b2923757b6a5d8a4982f1592e5b8254efa9279f75d01aea8c7437bd1b6a3a392ecb7156e2ec66feaef72df997de5d65695c3970cca6ef7dbeb5f7ac42a786b8e125f62a6d2b9ab8e1ac318ea07af4ad1c5d8e19c70f7d08c8b8cfcdd6b9a5077306e92d85b768bcc19af3e17b96e552c6cac96de47bd7a94ad6d4e69d4ac520f079fed5d71e539a552b1ab03daece6afdd319d6af61667b3d9ef47ba713a95ee6648d6de67159d4e5b1b42a561e0db62bc9ade47553a953a8462db7d7141cb9ced53762dbfd97c9c0eb5edc25ee0e129736a63ceb0f9995ae3ab23d484a3ca44eca16b91b771a6ae542537d55d9bcdae4d0b36cf08619a7072e63c3ad29f3686bc72db7975ea53db5392752a84725b192b556396556bdcd581ad367356b94156ae485acb15afbb62f9eb11ab59eef6a9f7089ceb589676b0f24e3ad4d451b1842a56e7d4c2736ff68e3a579afe23d78d47c85ecdb791ef5d0dfba734673e733251179b915c0dbe63d9a5563cb662c863f2ebb21b16a4ae67109e75152dca692a91e52f43e585e6bcd527ce7995673be8588dedf3cd7b346dca72cea55e8685abda6466b65638e552bdcd5592c7caab4a22556bdca723596fe2abdd3a54eb5858cd9e79e94af022556b13c8fa7f95ef4db8d8e773ad732676b5f30ede958b712d4aa1c389641d2bc94923ecdd0438dccf8c678ad14ec652c3a1893cc5faf35afb5b239e54225c135c88f20d4fd635337854caaf75745b19aaf6da10f0910df738c9acdd7be84fd51082e660704d43b31fd5bb13adccb8ce6b3515723d84ae3c5e4bd335d5cdee9afb1761c2663d4d724ddd99a8544c47762b536475c632b15642f9ab4917cb3645e64a0f15a45244ba37dc789ee31d6ba14d2460e821d14f71bfad295417d5e068a5c5c88fad63edf51ac2c48daeae73d6b7f6da17f57808f73721739acd57d497844cacda85ceeda4d6eea5e2632c1a5b1225c4a79279ae472f78c5e1e699612ea53c66b57356095069130772335c9ccb98e451aaa4233be2ba554563d18c65ca4596dd9a89cee8cb92af30e791c2715ccadcd73ae34b4d4a4f2dc07e3a57742aab585ec112c771723a1ad3da0feaf025fb55e6deb53edc8fab46e46b7375bf9354eb686bec616b160cf75e5e41e6b97eb0ee66f0c9955ae6f4be33c56fedf433961a24aad74464d612c46a60f0c57f2f1d6b2e63ea3dac04768d579a69366353114d2218668bcee6ae51958f3658aa7cc6da4b6c6dfdeb8ad3e63658aa56281687cff6aeab4b949fad522ebbdb0b7f7ae6e59f316b1544c59658fcee2bb23176358d6a2c9832eca8d6e7473d1b116f1bf15a6b630f694ae4f19cd64cd3da50b136c38a8b90aa53b9190338aab9d3ed29580443a914731cf39c0766251cd35ccd9c93ad04114b007e6b49427ca72fd6a1cc692cd6fe575ae3e49f31d3f5aa562bb4d06feb5d5cb2e53258ba7cc134f6fe5f079ac3967cc7747134ac644924666e3a5752e6b12b1145b2c2489b6b369dcd9d4a0e24914b1eec526a5638653a7734622852b99dd3297b11580c53536546a534c84819abbb3a3dad0b0a00c73d2a3531728f410b423ad694f9ae673ab0486a4b006e6bb9c65c8727d6e09d8b825b5f2ebcf6a7cc6af174b9483cdb7dfd6ba6d2e53996369f316126b6db8cd71384f98ef8e2a9728aad6bbb35b5a563178aa572d2496816b9651a971fd6a89877057cb38aea85ee6351d5b18178f26e216bbe9c51e4d7a959143171e664575f2c6c7913ad5798b71c973b715cee10b87b6ac483cfebdeaed1b09d7ac3646badb8ed595a172635b1172a462733735a3e5b1e951a958d88d24f26b91b573b955ab62bed93ccad34b18cab54346d41e335cf32555ad7340edf2bdeb9f5b9d51a952c502dfbdc56f6d0da33aa5971fb9cf7acd6e6d294f94c5bb793710b5df46299e4e2255514bfd277f15e9724394f1675ea291614ddedae29461cc69f58ab611c5d63356946c62abd5e62b31bbcf3d293503b635eb728e8c4c5b9eb50f9451ad5ee5d559b656378dced857ad6d46c4b3f9b4e5cb62fdaccdcb4126d19ae19dae57b4a85dc1d959a5a99ceb54b684054eead74b1cd4eb57e71260c22e2a15ae7bb4ea4b935312e9e60e40aefa2a27162273b68542d719e2bd0e58f29f3f52b55e6143dd572b50b83ab5ac04dd55da36397dbd5e6155eef359b8c0ec8d6ad62757bac54da266ead710c97745a990e7892f48cdb79ae4491fa8d5a705129614c9f3574c2e7838af668b9147091ef5bb52e53c29ba7cc4e2de30338e2b8a5377b1a5e9242a8814e0d537268c7da52b8f94db7975cfefdce9a72a2cce536fe7f15b3e7e53d2a6e958d64588c3c572fbdcc6add3b151d137f15d2af6397dd722440074aca475c634ec3df76ce2a55ae38a8dca401f36b6e875c553b17891e4d61d46d44cd70a65e6bb695ce1c57b3e42e411c18e45773e6e43e4eb38fb42f2456f8af2e529731b29d3e5078edb15d0b9b94c954a7cc52b85b602b16e773d1a752958a4a60f37029be6b1d31748d28922295ccdcae6cfd9db4248e3877d5b72b1cea51e62f4688178ae5bbe63b7dce51580c574a8e870bb7311ed19ac24d9d708d3b04aa365426ee6bb1953469bf9aeea2ddccab3872ea35121cf35ea34f90f066e1ce5958a0c5797272e73a5ce8f2018edeba1467ca799cd4f9c4d96e2b07cd73d384a9728e5fb3e6ada95814a8dc940b6c57249cee7645e1ec529d3086b48bd4fa7c4ced031a7622435e8518dd9f1b8dad25216da5732019af46547dc3c39d69731b8a8cd6fc75af0e706a6673af348cbbab7ba0c4a8e2bae1cb6d4f3658b9f319b706e94106b454e27551c54db2a5bbcff6919aa9c63ca7b942bcda3a8b567fb38cd798d2e63d08ce6d0873baba2cb946a6ee4d0e73cd72cce983997081e5d73eb73a136914d94799c56c9e8119cae3e407caa4b73b24df25cc998b092bd0a11bb3c1c5d596c11cafbb15eb3c3bf6773e6eb4a5cc5e4695978af2274ad339e73a890c992e76e6ba23156387eb525232ae5ae0122a7d9ab9d94b1532ac266f3f9ab9535ca7a3471136cdeb769042335e7ca2b98f523524e23e295bcceb5528ae51272b9ad039d95c5cbef1d91552c485abab97dd25a9080f35c935a8a9fb4e616507cbacd6e7ad6f70c8b96209af470d0bb3c7c54e48a3e63efe2bdef63fbb3e76b4e7cc5a4f35978af21d3fde1cd3ad5521af1dc75ed5e9284790e358897315dde51c579f282e63d18e227ca405e7cd69c8ac73bc454b8a269eb17451bc71356c7457301f2cf15e65392b9fa8d7778181736d279878af6f0b28dcf93c6c1dee1690379a322bdb7cbeccf9ba8ed33aad3a0f946e1c578188e5e6d07369c6c8d796d6dbecdc8e6b955ee7933a33e6b9cc6a36911721457527a1d7422d3b190b6044f9038acaa49d8fa2c2d366bc31622c77ae1bfbc7baa0940436af9ce38aeabfba71a5698e488838ef5c9396a7b14f939499a193674ac9495c9958abe530939ad79958216b961a3fdd5445fbc75cd2e432ae2ddb71e2bd9c1b5cda9f398c8b218606f37a57d5da1ec4f9e9b4a7a9bf636e30370af9ac472f3e83a8e0e16469c9041e474e6b2b33c0ab467cf7460ddda2339da2aa2f537a49ad0aa9a710f9db5acadca7b187a72bdcb82dc88f00735e64d7bc7bb4e368ea5716b27999c714e4fdd36a715cda9a10a305c571dd731eb4553e527f29f15d3ccb94e7718dc6a46dbeb8ea346b0502ccb1fee7a561097bc6f24b94c1bb8db79af7707cb73c7c54742ac70379bd2be97ddf647ced58ae736ace15c0dc2be7eadbda68675609c743464861f23a735d09fba7892a33e7b9857100331c0e2b95b573be0bddb086d576f4ad56c52a0ef7206b719e94b43a234d2474aea85715f330bdcfd26abf74a13c11f2715ebe179ae7cfe35c6c578224f3f02bde719fb23e471117cfa1d1dadab1886c15e1548cf9f533a719736a1756972b1138f96b78c743d271a5c9e660c8a44fb5e934cf3e9dbda969618fcbcf7aca71763eb309cbca47120f3b1dab8f95f31defe1358451791ef5d1caf94e26d7319e117cff006ae0ab746f0e7351628fc8e9cd71734b98eae9a99f342a1f815d71bd888cbde212a3a538ee77dfdd229614db935ea611be6d0f2319cbca56892333e075afa6b4fd89f198a8cb9f43760b276841415f3951cbdaea7353f69cda91cd6572a3247cb5db14b94f5b9297b3d77292201361fad60d3b9e646ded4d35822f2738e6b4d6c7d261b9394a784f371dab9a513bd474d0ba2187cace39ae79a76215d32b08d7cde3a570b4f98e88b9d8ba91214ad2d2b0db6466101b38ae79c644c252e60942f978ac629f31ea27ee6a645c4237127a57b384e6b9e6625a6882358cc9b475afa1b4fd91f375e0f9ae694765298f728e2bc7927ed0c96f664724532f04715dea0f90d5d3872dc81602f2631cd70ca12e63912b4cb6da74a22ddb78ad92763d38fb3e532e6408f83d6a5c6472ced7d0d0db21af029dae7df6213501935bcbb09c57bb83e5b9f298a72e6b152ce27fb600457d4274fd958f3e54f5bb3d1342b6531aef15e0d78479b4224a29686fea3676c34d240f9ab0b1c33552e7956ab09fed02107155ca89a49f31225b4be5e71c56551c6c7d1613988950f998ef5c492e63dabfeecbde44de5671c576be5e43cde6fde6a540a7cec1eb5e4575a9ecd294394d248e4317b5702b7313392e8412c67bd7a092e5318cbde2a9425ab1fb47749fb836e207f28902bd7c0d94d5cf071126dd8ccb2865fed0008e2becd4e9ba163cd9c23bb3d3b43b48cdbaef15f2988a7fbcba3966a1d0d3d4aced4589207cd5517a58e1a8aa74d8f35bf8c8d4084e95a72adce68a97316fc897ecf9c71594a48f7308a77328ac9f68c77ac9b47d2535ee6a69c50cde5671c567371b18ab730d58db7e3bd71d9731e8270e53421b790ae71c575250b1c9292b8f921213deb9aac625c1c6e67488fbf15c4adcc76c9fb845776ede4120735ede0b979b53c6ad3d4c2b18a53a9807a57d5feedd1386ab858f51d36c633a702c39af9ea90fde9e44e6b9b433750b2419c0af461cbca3bc8c9b4b5cde8047158ce1121c91d7cd6308d2b38e6b97a8d2a879a6b1195bc60bd2b68c558d927d4de86152e2be2a949f31fa6e220b90bf25ac7f67e95ee61e4d1f278982e732208105ef02bd58d7972d8f36b2491db698a16004566ddcf2949ba9627d4256fb291da8b1ebfb08ba7738696357d439a53d11e6460955b1bcd6b18b0ce39af32a4ddcfa6c3d35c9739a441fda3b7b54266d37689d80b48bfb337639aae776b1e5cdda47232a01a863b573d6d8da9d596c74504086d01c57937f7cec526d199751a8635ea45fb84c1fbc548e3065ae6bfbc7a2dfb8691b7430722bd3a1268f12bee51b7b68c5de715eb53c44dab1e56224d23b1b11b2dc62b592babb3c585593ab6647a8ccde4119e2b9bed1f46a8c5d1b9c7840fa8f35bbf84f19417b5b1d41b58ffb3b38e6bcd9c9f31f4f85a51e5b9ca1897fb4718e2a5c9d8ec7a2b1d4476b1fd8738e6b8e73773964eccc411afdb71dab3e6667ed65b1d25bdba7d981c55a9b0727628dd46a0918a272761539be6339a25f32b8549f39ecdff763a7854c3d2bd7c349a3c3c4bb332ad2d905f838af7a9d5938d8f16bd4677d62a0590152d5ddcf3a336ea142f101cd1ccd1ec38af657285bc4bf6906a5c99e3c64dd6b1bd73ff20e22b1ea7d452a3174ae79ceac80dd9ae85b1c35124cffd9');
INSERT INTO public.projects VALUES
	('00000000-0000-7000-8000-000000000000', 'default', '2026-12-01 00:31:09.370986+00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, DEFAULT),
	('01a22f03-e055-7185-b153-7b113b37dfa2', 'shop', '2026-12-01 00:31:52.919202+00', 100, NULL, NULL, NULL, NULL, 30, NULL, NULL, DEFAULT);
INSERT INTO public.stored_bytes OVERRIDING SYSTEM VALUE VALUES
	(1, '00000000-0000-7000-8000-000000000000', 6087),
	(2, '00000000-0000-7000-8000-000000000000', 5520),
	(3, '00000000-0000-7000-8000-000000000000', 7044),
	(4, '00000000-0000-7000-8000-000000000000', 227136),
	(5, '00000000-0000-7000-8000-000000000000', 770840),
	(6, '00000000-0000-7000-8000-000000000000', 227136),
	(7, '00000000-0000-7000-8000-000000000000', -227136),
	(8, '00000000-0000-7000-8000-000000000000', 70000000),
	(9, '00000000-0000-7000-8000-000000000000', 6087),
	(10, '00000000-0000-7000-8000-000000000000', 8551),
	(11, '00000000-0000-7000-8000-000000000000', 8320),
	(12, '00000000-0000-7000-8000-000000000000', 8373),
	(13, '00000000-0000-7000-8000-000000000000', 8727),
	(14, '00000000-0000-7000-8000-000000000000', 11040),
	(15, '00000000-0000-7000-8000-000000000000', 9429),
	(16, '00000000-0000-7000-8000-000000000000', 8551),
	(17, '00000000-0000-7000-8000-000000000000', -8551),
	(18, '01a22f03-e055-7185-b153-7b113b37dfa2', 8551);
INSERT INTO public.swaps VALUES
	('01a22f03-e04d-75da-99b4-a0b5fbad9f08', '01a22f03-39d0-7650-b53f-68b1eba32b73', '01a22f03-37ef-7572-a36d-e51c543211e8', 'load', 'succeeded', NULL, '2026-12-01 00:31:52.909513+00', '2026-12-01 00:31:53.003056+00');
INSERT INTO public.trainings VALUES
	('01a22f03-3a88-72ba-881b-ddac5034593f', '01a22f03-3a88-72ba-881b-ddac5034593f', 'style', '01a22f03-3a33-77a4-a5ff-b9d63aaa58d1', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"rank": 4, "seed": 1, "alpha": 4.0, "steps": 4, "batch_size": 1, "resolution": 64, "trigger_word": "xqv", "learning_rate": 0.0001}', '[{"sha256": "3f53464daf0e9c5f3790257b547ede4c529665d53c6d379c59865d6965b346ba", "caption": "apple in xqv style", "media_type": "image/png", "storage_key": "datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a38-70f8-8eb6-22dbbd222caa.png"}, {"sha256": "d6b5c88c22a039f6df691ee7aefc7de480e4a65e56492cc655c447f6ab8b5b04", "caption": "bicycle in xqv style", "media_type": "image/png", "storage_key": "datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a48-732b-9865-0efae9662321.png"}, {"sha256": "c45e7ccd5cfacf2b97cbc8a9acaaa630a081e4f1f35a0acbffd08965441a54ab", "caption": "butterfly in xqv style", "media_type": "image/png", "storage_key": "datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a56-760c-aa24-d815fb62331b.png"}]', 'b893600deeba6b3ceb69a4b9d3eabb1ac22f68b0f56dabd72884226f5b64f00a', '[]', '01a22f03-3c9c-7246-a313-4048fa5e2702', '2026-12-01 00:31:10.482941+00', NULL, '00000000-0000-7000-8000-000000000000'),
	('01a22f03-e17d-736f-8885-9e521fd8c345', '01a22f03-e17d-736f-8885-9e521fd8c345', 'waiting', '01a22f03-3a33-77a4-a5ff-b9d63aaa58d1', '01a22f03-37ef-7572-a36d-e51c543211e8', '{"rank": 4, "seed": 1, "alpha": 4.0, "steps": 4, "batch_size": 1, "resolution": 64, "trigger_word": "xqv", "learning_rate": 0.0001}', '[{"sha256": "3f53464daf0e9c5f3790257b547ede4c529665d53c6d379c59865d6965b346ba", "caption": "apple in xqv style", "media_type": "image/png", "storage_key": "datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a38-70f8-8eb6-22dbbd222caa.png"}, {"sha256": "d6b5c88c22a039f6df691ee7aefc7de480e4a65e56492cc655c447f6ab8b5b04", "caption": "bicycle in xqv style", "media_type": "image/png", "storage_key": "datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a48-732b-9865-0efae9662321.png"}, {"sha256": "c45e7ccd5cfacf2b97cbc8a9acaaa630a081e4f1f35a0acbffd08965441a54ab", "caption": "butterfly in xqv style", "media_type": "image/png", "storage_key": "datasets/01a22f03-3a33-77a4-a5ff-b9d63aaa58d1/01a22f03-3a56-760c-aa24-d815fb62331b.png"}]', 'b893600deeba6b3ceb69a4b9d3eabb1ac22f68b0f56dabd72884226f5b64f00a', '[]', NULL, '2026-12-01 00:31:53.220126+00', NULL, '00000000-0000-7000-8000-000000000000');
INSERT INTO public.uploads VALUES
	('01a22f03-3a71-76a9-9215-618abbf5cacf', '01a22f03-3a33-77a4-a5ff-b9d63aaa58d1', 'uploads/01a22f03-3a71-76a9-9215-618abbf5cacf', 'cat.png', 'image/png', '', '2026-12-01 01:31:10.449972+00', NULL, '2026-12-01 00:31:10.450517+00');
INSERT INTO public.workers VALUES
	('01a22f03-39d0-7650-b53f-68b1eba32b73', 'worker', 'vm', 'cpu', '{generation,training,import,export}', '0.1.0', '2026-12-01 00:31:10.349137+00', '2026-12-01 00:31:52.99934+00', NULL, '[{"bytes": 30896268, "sha256": "0c38404076f6dee56f9d742b5e7b17656983085d98b6169365f080af837d2caa"}]', 20221201608, NULL, '{"host": null, "bytes": 20221201608, "compute": "f32", "offload": "auto", "weights": "auto"}');
SELECT pg_catalog.setval('public.stored_bytes_id_seq', 18, true);
ALTER TABLE ONLY public._sqlx_migrations
    ADD CONSTRAINT _sqlx_migrations_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.access
    ADD CONSTRAINT access_pkey PRIMARY KEY (singleton);
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_job_id_position_key UNIQUE (job_id, "position");
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_storage_key_key UNIQUE (storage_key);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (job_id, epoch);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.datasets
    ADD CONSTRAINT datasets_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.deletions
    ADD CONSTRAINT deletions_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.examples
    ADD CONSTRAINT examples_dataset_id_position_key UNIQUE (dataset_id, "position");
ALTER TABLE ONLY public.examples
    ADD CONSTRAINT examples_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.examples
    ADD CONSTRAINT examples_storage_key_key UNIQUE (storage_key);
ALTER TABLE ONLY public.exports
    ADD CONSTRAINT exports_job_id_key UNIQUE (job_id);
ALTER TABLE ONLY public.exports
    ADD CONSTRAINT exports_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.generation_loras
    ADD CONSTRAINT generation_loras_pkey PRIMARY KEY (generation_id, "position");
ALTER TABLE ONLY public.generations
    ADD CONSTRAINT generations_job_id_key UNIQUE (job_id);
ALTER TABLE ONLY public.generations
    ADD CONSTRAINT generations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_job_id_key UNIQUE (job_id);
ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.inputs
    ADD CONSTRAINT inputs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.inputs
    ADD CONSTRAINT inputs_storage_key_key UNIQUE (storage_key);
ALTER TABLE ONLY public.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (singleton);
ALTER TABLE ONLY public.job_events
    ADD CONSTRAINT job_events_pkey PRIMARY KEY (job_id, sequence);
ALTER TABLE ONLY public.job_needs
    ADD CONSTRAINT job_needs_pkey PRIMARY KEY (job_id, model_id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.login_links
    ADD CONSTRAINT login_links_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.model_uploads
    ADD CONSTRAINT model_uploads_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT models_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.previews
    ADD CONSTRAINT previews_pkey PRIMARY KEY (job_id);
ALTER TABLE ONLY public.projects
    ADD CONSTRAINT projects_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.stored_bytes
    ADD CONSTRAINT stored_bytes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.swaps
    ADD CONSTRAINT swaps_id_key UNIQUE (id);
ALTER TABLE ONLY public.swaps
    ADD CONSTRAINT swaps_pkey PRIMARY KEY (worker, model_id);
ALTER TABLE ONLY public.sweep_marks
    ADD CONSTRAINT sweep_marks_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.training_checkpoints
    ADD CONSTRAINT training_checkpoints_pkey PRIMARY KEY (training_id, step, epoch);
ALTER TABLE ONLY public.training_checkpoints
    ADD CONSTRAINT training_checkpoints_storage_key_key UNIQUE (storage_key);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_job_id_key UNIQUE (job_id);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uploads_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uploads_storage_key_key UNIQUE (storage_key);
ALTER TABLE ONLY public.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);
CREATE INDEX attempts_of_project ON public.attempts USING btree (project_id, ended_at) INCLUDE (gpu_seconds) WHERE (ended_at IS NOT NULL);
CREATE UNIQUE INDEX attempts_one_open ON public.attempts USING btree (job_id) WHERE (ended_at IS NULL);
CREATE INDEX attempts_overtaking ON public.attempts USING btree (overtook) WHERE (overtook IS NOT NULL);
CREATE INDEX attempts_unsuccessful ON public.attempts USING btree (worker, ended_at) WHERE (outcome = ANY (ARRAY['failed'::text, 'crashed'::text]));
CREATE INDEX audit_of_project ON public.audit USING btree (project_id, id);
CREATE INDEX datasets_of_project ON public.datasets USING btree (project_id, id);
CREATE INDEX deletions_due ON public.deletions USING btree (due_at) WHERE (done_at IS NULL);
CREATE INDEX exports_model ON public.exports USING btree (model_id, format, dtype);
CREATE INDEX exports_of_project ON public.exports USING btree (project_id, id);
CREATE INDEX generations_of_project ON public.generations USING btree (project_id, id);
CREATE INDEX imports_of_project ON public.imports USING btree (project_id, id);
CREATE INDEX inputs_of_project ON public.inputs USING btree (project_id, id);
CREATE INDEX job_needs_model ON public.job_needs USING btree (model_id, job_id);
CREATE INDEX jobs_makes ON public.jobs USING btree (makes) WHERE (makes IS NOT NULL);
CREATE UNIQUE INDEX jobs_of_project ON public.jobs USING btree (project_id, subject);
CREATE INDEX jobs_ready ON public.jobs USING btree (priority DESC, created_at, id) INCLUDE (kind, run_at, memory, refused_by, local, project_id) WHERE (status = 'queued'::text);
CREATE INDEX jobs_ready_on_base ON public.jobs USING btree (base_sha256, priority DESC, created_at, id) INCLUDE (kind, run_at, memory, refused_by, project_id) WHERE (status = 'queued'::text);
CREATE INDEX jobs_refused ON public.jobs USING btree (run_at) WHERE ((status = 'queued'::text) AND (refused_by <> '{}'::uuid[]));
CREATE INDEX jobs_retry_of ON public.jobs USING btree (retry_of) WHERE (retry_of IS NOT NULL);
CREATE INDEX jobs_running ON public.jobs USING btree (id) WHERE (status = 'running'::text);
CREATE INDEX jobs_with_memory ON public.jobs USING btree (memory) WHERE ((status = 'queued'::text) AND (memory IS NOT NULL));
CREATE INDEX keys_of_project ON public.keys USING btree (project_id, id);
CREATE INDEX models_base ON public.models USING btree (base_model_id) WHERE (base_model_id IS NOT NULL);
CREATE UNIQUE INDEX models_name ON public.models USING btree (project_id, name) WHERE (deleted_at IS NULL);
CREATE INDEX models_of_project ON public.models USING btree (project_id, id);
CREATE UNIQUE INDEX projects_name ON public.projects USING btree (name) WHERE (deleted_at IS NULL);
CREATE INDEX sessions_of_key ON public.sessions USING btree (key_id);
CREATE INDEX stored_bytes_of_project ON public.stored_bytes USING btree (project_id) INCLUDE (bytes);
CREATE INDEX trainings_dataset ON public.trainings USING btree (dataset_id);
CREATE INDEX trainings_of_project ON public.trainings USING btree (project_id, id);
CREATE INDEX uploads_dataset ON public.uploads USING btree (dataset_id);
CREATE TRIGGER artifacts_immutable BEFORE UPDATE ON public.artifacts FOR EACH ROW EXECUTE FUNCTION public.immutable_row();
CREATE TRIGGER audit_rows_stay BEFORE DELETE OR UPDATE ON public.audit FOR EACH ROW EXECUTE FUNCTION public.audit_is_append_only();
CREATE TRIGGER audit_stays BEFORE TRUNCATE ON public.audit FOR EACH STATEMENT EXECUTE FUNCTION public.audit_is_append_only();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE ON public.artifacts FOR EACH ROW EXECUTE FUNCTION public.count_bytes();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE ON public.examples FOR EACH ROW EXECUTE FUNCTION public.count_bytes();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE ON public.inputs FOR EACH ROW EXECUTE FUNCTION public.count_bytes();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE ON public.model_uploads FOR EACH ROW EXECUTE FUNCTION public.count_bytes();
CREATE TRIGGER count_bytes AFTER INSERT OR DELETE OR UPDATE OF deleted_at, shared, project_id ON public.models FOR EACH ROW EXECUTE FUNCTION public.count_bytes();
CREATE TRIGGER count_bytes_in AFTER INSERT ON public.generations FOR EACH ROW WHEN ((new.source_bytes > 0)) EXECUTE FUNCTION public.count_bytes();
CREATE TRIGGER count_bytes_out AFTER DELETE OR UPDATE OF deleted_at ON public.generations FOR EACH ROW WHEN ((old.source_bytes > 0)) EXECUTE FUNCTION public.count_bytes();
CREATE TRIGGER examples_immutable BEFORE UPDATE ON public.examples FOR EACH ROW EXECUTE FUNCTION public.immutable_row();
CREATE TRIGGER imports_forget_query AFTER UPDATE OF status ON public.jobs FOR EACH ROW WHEN (((new.kind = 'import'::text) AND (new.status = ANY (ARRAY['succeeded'::text, 'failed'::text, 'canceled'::text])))) EXECUTE FUNCTION public.imports_forget_query();
CREATE TRIGGER inputs_immutable BEFORE UPDATE ON public.inputs FOR EACH ROW EXECUTE FUNCTION public.immutable_row();
CREATE TRIGGER job_events_immutable BEFORE UPDATE ON public.job_events FOR EACH ROW EXECUTE FUNCTION public.immutable_row();
CREATE TRIGGER jobs_guard BEFORE INSERT OR UPDATE ON public.jobs FOR EACH ROW EXECUTE FUNCTION public.jobs_guard();
CREATE TRIGGER previews_forget AFTER UPDATE OF status ON public.jobs FOR EACH ROW WHEN (((new.kind = 'generation'::text) AND (new.status <> 'running'::text))) EXECUTE FUNCTION public.previews_forget();
CREATE TRIGGER training_checkpoints_immutable BEFORE UPDATE ON public.training_checkpoints FOR EACH ROW EXECUTE FUNCTION public.immutable_row();
ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_job_id_epoch_fkey FOREIGN KEY (job_id, epoch) REFERENCES public.attempts(job_id, epoch) ON DELETE CASCADE;
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.datasets
    ADD CONSTRAINT datasets_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.examples
    ADD CONSTRAINT examples_dataset_id_fkey FOREIGN KEY (dataset_id) REFERENCES public.datasets(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.exports
    ADD CONSTRAINT exports_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.exports
    ADD CONSTRAINT exports_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.exports
    ADD CONSTRAINT exports_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.generation_loras
    ADD CONSTRAINT generation_loras_generation_id_fkey FOREIGN KEY (generation_id) REFERENCES public.generations(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.generation_loras
    ADD CONSTRAINT generation_loras_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.generations
    ADD CONSTRAINT generations_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.generations
    ADD CONSTRAINT generations_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.generations
    ADD CONSTRAINT generations_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_base_model_id_fkey FOREIGN KEY (base_model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_output_model_id_fkey FOREIGN KEY (output_model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_parts_of_model_id_fkey FOREIGN KEY (parts_of_model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.inputs
    ADD CONSTRAINT inputs_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.job_events
    ADD CONSTRAINT job_events_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.job_needs
    ADD CONSTRAINT job_needs_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.job_needs
    ADD CONSTRAINT job_needs_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_retry_of_fkey FOREIGN KEY (retry_of) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.keys
    ADD CONSTRAINT keys_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.login_links
    ADD CONSTRAINT login_links_key_id_fkey FOREIGN KEY (key_id) REFERENCES public.keys(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.model_uploads
    ADD CONSTRAINT model_uploads_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT models_base_model_id_fkey FOREIGN KEY (base_model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT models_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.models
    ADD CONSTRAINT models_training_id_fkey FOREIGN KEY (training_id) REFERENCES public.trainings(id);
ALTER TABLE ONLY public.previews
    ADD CONSTRAINT previews_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_key_id_fkey FOREIGN KEY (key_id) REFERENCES public.keys(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.swaps
    ADD CONSTRAINT swaps_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.swaps
    ADD CONSTRAINT swaps_worker_fkey FOREIGN KEY (worker) REFERENCES public.workers(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.training_checkpoints
    ADD CONSTRAINT training_checkpoints_training_id_fkey FOREIGN KEY (training_id) REFERENCES public.trainings(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_dataset_id_fkey FOREIGN KEY (dataset_id) REFERENCES public.datasets(id);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_output_model_id_fkey FOREIGN KEY (output_model_id) REFERENCES public.models(id);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.projects(id);
ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uploads_dataset_id_fkey FOREIGN KEY (dataset_id) REFERENCES public.datasets(id) ON DELETE CASCADE;
