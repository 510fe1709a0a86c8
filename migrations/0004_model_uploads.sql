-- Files of models that clients put into the bucket in parts, for an import to make one file of.

CREATE TABLE model_uploads (
    id         uuid        PRIMARY KEY,
    bytes      bigint      NOT NULL CHECK (bytes > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE  model_uploads            IS 'A file of a model that a client puts into the bucket in parts; which of them are there, the bucket tells';
COMMENT ON COLUMN model_uploads.id         IS 'UUID v7';
COMMENT ON COLUMN model_uploads.bytes      IS 'Size of the whole file';
COMMENT ON COLUMN model_uploads.created_at IS 'When it was begun; a week later it goes, unless an unfinished import needs it';

COMMENT ON COLUMN imports.source IS '{kind: url, url, sha256} | {kind: hugging_face, repo, revision, files, variant} | {kind: path, path} | {kind: upload, files: [{path, upload}]}; never a secret';
