-- Keys. An installation that never had one serves its own machine only, without asking for a key.

CREATE TABLE keys (
    id            uuid        PRIMARY KEY,
    project_id    uuid        NOT NULL REFERENCES projects,
    name          text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 63),
    scopes        text[]      NOT NULL CHECK (
        cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'generate', 'train', 'models', 'admin']),
    secret_sha256 bytea       NOT NULL CHECK (octet_length(secret_sha256) = 32),
    is_local      boolean     NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz,
    last_used_at  timestamptz,
    revoked_at    timestamptz
);

COMMENT ON TABLE  keys               IS 'Keys of the API. A revoked key keeps its row';
COMMENT ON COLUMN keys.id            IS 'UUID v7; part of the key that the client sends';
COMMENT ON COLUMN keys.project_id    IS 'The project that the key works in';
COMMENT ON COLUMN keys.name          IS 'For people; it need not be unique';
COMMENT ON COLUMN keys.scopes        IS 'What the key may do, without the scopes that these imply';
COMMENT ON COLUMN keys.secret_sha256 IS 'SHA-256 of the secret part of the key, which is stored nowhere';
COMMENT ON COLUMN keys.is_local      IS 'Whether `up` made it for the commands of its user; it does not count as a key of the installation';
COMMENT ON COLUMN keys.created_at    IS 'When it was created';
COMMENT ON COLUMN keys.expires_at    IS 'From then on it is refused; NULL: never';
COMMENT ON COLUMN keys.last_used_at  IS 'A use at most a minute before the last one; NULL: never used';
COMMENT ON COLUMN keys.revoked_at    IS 'When it was revoked; NULL: it was not';

CREATE INDEX keys_of_project ON keys (project_id, id);

CREATE TABLE access (
    singleton boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    closed_at timestamptz
);

COMMENT ON TABLE  access           IS 'Whether requests need a key, one row';
COMMENT ON COLUMN access.singleton IS 'Always true: there is one row';
COMMENT ON COLUMN access.closed_at IS 'When the first key, or the first rule for Hugging Face tokens, was there. Requests have needed a key since; it is never reset';

INSERT INTO access DEFAULT VALUES;

ALTER TABLE models ADD COLUMN shared boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN models.shared IS 'Whether every project may use it; built-in models are shared';
UPDATE models SET shared = true WHERE built_in;

CREATE TABLE sessions (
    id            uuid        PRIMARY KEY,
    key_id        uuid        NOT NULL REFERENCES keys ON DELETE CASCADE,
    secret_sha256 bytea       NOT NULL CHECK (octet_length(secret_sha256) = 32),
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz NOT NULL
);

COMMENT ON TABLE  sessions               IS 'Browsers that have logged in with a key';
COMMENT ON COLUMN sessions.id            IS 'UUID v7; part of the cookie';
COMMENT ON COLUMN sessions.key_id        IS 'The key, whose project and scopes the session has; it ends with the key';
COMMENT ON COLUMN sessions.secret_sha256 IS 'SHA-256 of the secret part of the cookie, which is stored nowhere';
COMMENT ON COLUMN sessions.created_at    IS 'When the browser logged in';
COMMENT ON COLUMN sessions.expires_at    IS 'From then on the cookie is refused';

CREATE INDEX sessions_of_key ON sessions (key_id);

CREATE TABLE login_links (
    id            uuid        PRIMARY KEY,
    key_id        uuid        NOT NULL REFERENCES keys ON DELETE CASCADE,
    secret_sha256 bytea       NOT NULL CHECK (octet_length(secret_sha256) = 32),
    expires_at    timestamptz NOT NULL
);

COMMENT ON TABLE  login_links               IS 'Links with which a browser logs in without a key. The row is deleted when the link is used';
COMMENT ON COLUMN login_links.id            IS 'UUID v7; part of the link';
COMMENT ON COLUMN login_links.key_id        IS 'The key with which the browser logs in';
COMMENT ON COLUMN login_links.secret_sha256 IS 'SHA-256 of the secret part of the link, which is stored nowhere';
COMMENT ON COLUMN login_links.expires_at    IS 'From then on the link is refused';

CREATE TABLE audit (
    id          uuid        PRIMARY KEY,
    project_id  uuid        NOT NULL REFERENCES projects,
    key_id      uuid,
    by_operator boolean     NOT NULL,
    address     text,
    action      text        NOT NULL,
    object      text        NOT NULL,
    details     jsonb       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE  audit             IS 'Changes to keys, projects and models. Rows are only added';
COMMENT ON COLUMN audit.id          IS 'UUID v7';
COMMENT ON COLUMN audit.project_id  IS 'The project in which the caller worked';
COMMENT ON COLUMN audit.key_id      IS 'The key of the caller, also of one that is gone; NULL: it had none';
COMMENT ON COLUMN audit.by_operator IS 'Whether a command on the database made the change';
COMMENT ON COLUMN audit.address     IS 'Address of the client, or of the proxy before it; NULL: there was no connection';
COMMENT ON COLUMN audit.action      IS 'The noun and the verb, such as key.create';
COMMENT ON COLUMN audit.object      IS 'Id of the key, project, model or import';
COMMENT ON COLUMN audit.details     IS 'The new values. It has no secrets, prompts or URLs';
COMMENT ON COLUMN audit.created_at  IS 'When the change was made';

CREATE INDEX audit_of_project ON audit (project_id, id);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of the audit log are neither changed nor deleted';
END $$;

CREATE TRIGGER audit_rows_stay BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_stays BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
