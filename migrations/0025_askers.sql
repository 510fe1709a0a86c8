-- Who asked: callers with a token of the Hugging Face Hub have an account in place of a key. The key or the account of
-- the caller is recorded at jobs and at swaps.

ALTER TABLE jobs ADD COLUMN account text;
COMMENT ON COLUMN jobs.account IS 'Account of the Hugging Face Hub of the caller that asked for it; NULL: it had none, or asked before 0025';

ALTER TABLE swaps ADD COLUMN key_id uuid;
ALTER TABLE swaps ADD COLUMN account text;
COMMENT ON COLUMN swaps.key_id  IS 'The key of the caller that asked for it, also of one that is gone; NULL: it had none, or asked before 0025';
COMMENT ON COLUMN swaps.account IS 'Account of the Hugging Face Hub of the caller that asked for it; NULL: it had none';
