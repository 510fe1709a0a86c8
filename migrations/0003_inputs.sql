-- Pictures that generations begin with. Those that a request itself carries have no row: they lie beside their generation, which
-- names them in its parameters.

CREATE TABLE inputs (
    id          uuid        PRIMARY KEY,
    storage_key text        NOT NULL UNIQUE,
    sha256      text        NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    media_type  text        NOT NULL CHECK (media_type IN ('image/png', 'image/jpeg', 'image/webp')),
    width       integer     NOT NULL CHECK (width > 0),
    height      integer     NOT NULL CHECK (height > 0),
    bytes       bigint      NOT NULL CHECK (bytes > 0),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TRIGGER inputs_immutable BEFORE UPDATE ON inputs FOR EACH ROW EXECUTE FUNCTION immutable_row();

COMMENT ON TABLE  inputs             IS 'A picture that was uploaded to begin generations with: an image to change, or a mask';
COMMENT ON COLUMN inputs.id          IS 'UUID v7';
COMMENT ON COLUMN inputs.storage_key IS 'Where the bytes are in the bucket';
COMMENT ON COLUMN inputs.sha256      IS 'SHA-256 of the bytes';
COMMENT ON COLUMN inputs.media_type  IS 'image/png | image/jpeg | image/webp, found by content';
COMMENT ON COLUMN inputs.width       IS 'Pixels';
COMMENT ON COLUMN inputs.height      IS 'Pixels';
COMMENT ON COLUMN inputs.bytes       IS 'Size of the stored object';
COMMENT ON COLUMN inputs.created_at  IS 'When it was uploaded';
