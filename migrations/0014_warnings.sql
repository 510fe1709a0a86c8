-- What the files of a model leave open or what of them has no effect, as sentences for the user.
ALTER TABLE models ADD COLUMN warnings jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN models.warnings IS 'Sentences about what was assumed when the files were read, or what in them has no effect; a job that uses the model lists them too';
