-- Whether a request fits into a worker's memory is known before a file is fetched.

ALTER TABLE models ADD COLUMN networks jsonb;
COMMENT ON COLUMN models.networks IS 'Configs of a checkpoint''s networks, from which its memory is estimated; null for other kinds, and for a checkpoint of before 0020 that no worker has fetched since';

ALTER TABLE workers ADD COLUMN budget jsonb;
COMMENT ON COLUMN workers.budget IS 'What its engine may use: bytes of device and host memory, type, format of weights, offload; null = its memory is not known';
