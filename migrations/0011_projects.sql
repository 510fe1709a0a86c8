-- Projects. Every row of a user belongs to one, and a name is unique within its project. What exists so far belongs to
-- the project `default`.
--
-- These tables have no project_id, since their rows are reached through a row that has one:
--   examples and uploads           through their dataset
--   generation_loras               through their generation
--   training_checkpoints           through their training
--   job_events, attempts, previews,
--   job_needs and artifacts        through their job
--   swaps                          through their model
-- workers belong to the installation.

CREATE TABLE projects (
    id         uuid        PRIMARY KEY,
    name       text        NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE  projects            IS 'An owner of rows. The rows of one project do not exist for another';
COMMENT ON COLUMN projects.id         IS 'UUID v7';
COMMENT ON COLUMN projects.name       IS 'Unique';
COMMENT ON COLUMN projects.created_at IS 'When it was created';

INSERT INTO projects (id, name) VALUES ('00000000-0000-7000-8000-000000000000', 'default');

-- The default fills the existing rows without rewriting the table. It is dropped, so that an INSERT without a project
-- fails.

ALTER TABLE datasets ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000' REFERENCES projects;
ALTER TABLE models ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000' REFERENCES projects;
ALTER TABLE generations ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000' REFERENCES projects;
ALTER TABLE trainings ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000' REFERENCES projects;
ALTER TABLE imports ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000' REFERENCES projects;
ALTER TABLE exports ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000' REFERENCES projects;
ALTER TABLE inputs ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000' REFERENCES projects;
ALTER TABLE model_uploads ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000' REFERENCES projects;
-- No foreign key of its own: the row that the job is about has one, and is written in the same transaction.
ALTER TABLE jobs ADD COLUMN project_id uuid NOT NULL
    DEFAULT '00000000-0000-7000-8000-000000000000';

ALTER TABLE datasets      ALTER COLUMN project_id DROP DEFAULT;
ALTER TABLE models        ALTER COLUMN project_id DROP DEFAULT;
ALTER TABLE generations   ALTER COLUMN project_id DROP DEFAULT;
ALTER TABLE trainings     ALTER COLUMN project_id DROP DEFAULT;
ALTER TABLE imports       ALTER COLUMN project_id DROP DEFAULT;
ALTER TABLE exports       ALTER COLUMN project_id DROP DEFAULT;
ALTER TABLE inputs        ALTER COLUMN project_id DROP DEFAULT;
ALTER TABLE model_uploads ALTER COLUMN project_id DROP DEFAULT;
ALTER TABLE jobs          ALTER COLUMN project_id DROP DEFAULT;

COMMENT ON COLUMN datasets.project_id      IS 'Owner';
COMMENT ON COLUMN models.project_id        IS 'Owner';
COMMENT ON COLUMN generations.project_id   IS 'Owner';
COMMENT ON COLUMN trainings.project_id     IS 'Owner; also of the LoRA that it makes';
COMMENT ON COLUMN imports.project_id       IS 'Owner; also of the model that it makes';
COMMENT ON COLUMN exports.project_id       IS 'Owner';
COMMENT ON COLUMN inputs.project_id        IS 'Owner';
COMMENT ON COLUMN model_uploads.project_id IS 'Owner';
COMMENT ON COLUMN jobs.project_id          IS 'Owner, as of the row that the job is about';

-- A list reads the newest rows of one project from its index. The indexes are not partial: on a table without
-- statistics the planner assumes that a partial index is tiny, and scans it where the primary key is better.
CREATE INDEX datasets_of_project    ON datasets    (project_id, id);
CREATE INDEX models_of_project      ON models      (project_id, id);
CREATE INDEX generations_of_project ON generations (project_id, id);
CREATE INDEX trainings_of_project   ON trainings   (project_id, id);
CREATE INDEX imports_of_project     ON imports     (project_id, id);
CREATE INDEX exports_of_project     ON exports     (project_id, id);
CREATE INDEX inputs_of_project      ON inputs      (project_id, id);
-- It replaces jobs_subject: every query by the public id names the project, and subjects are ids of rows, which are
-- unique anyway.
DROP INDEX jobs_subject;
CREATE UNIQUE INDEX jobs_of_project ON jobs        (project_id, subject);

DROP INDEX models_name;
CREATE UNIQUE INDEX models_name ON models (project_id, name) WHERE deleted_at IS NULL;
COMMENT ON COLUMN models.name IS 'Unique among the models of its project that are not deleted';
