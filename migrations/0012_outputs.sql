-- Jobs make more than pictures and LoRAs. The kind of an adapter keeps its name `lora`, which answers of the API have.
ALTER TABLE artifacts DROP CONSTRAINT artifacts_kind_check;
ALTER TABLE artifacts ADD CONSTRAINT artifacts_kind_check
    CHECK (kind IN ('image', 'mask', 'video', 'audio', 'lora', 'json'));

ALTER TABLE artifacts DROP CONSTRAINT size_of_image;
ALTER TABLE artifacts ADD CONSTRAINT size_of_picture
    CHECK (CASE WHEN kind IN ('image', 'mask') THEN num_nonnulls(width, height) = 2
                WHEN kind = 'video'            THEN num_nonnulls(width, height) IN (0, 2)
                ELSE num_nonnulls(width, height) = 0 END);

ALTER TABLE artifacts ADD CONSTRAINT media_type_of_kind
    CHECK (CASE WHEN kind IN ('image', 'mask') THEN media_type LIKE 'image/%'
                WHEN kind = 'video'            THEN media_type LIKE 'video/%'
                WHEN kind = 'audio'            THEN media_type LIKE 'audio/%'
                WHEN kind = 'json'             THEN media_type = 'application/json'
                ELSE true END);

COMMENT ON COLUMN artifacts.kind       IS 'image | mask | video | audio | lora | json';
COMMENT ON COLUMN artifacts.media_type IS 'Content type of the object, as the engine reported it with the file';
COMMENT ON COLUMN artifacts.width      IS 'Pixels; of images, masks and videos';
COMMENT ON COLUMN artifacts.height     IS 'Pixels; of images, masks and videos';
