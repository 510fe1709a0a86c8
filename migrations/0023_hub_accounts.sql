-- Callers with a token of the Hugging Face Hub have no key.

ALTER TABLE audit ADD COLUMN account text;
COMMENT ON COLUMN audit.account IS 'Account of the Hugging Face Hub whose token the caller had; NULL: it had none';
