-- Deletions of objects that last until they are done, and what the search for objects without a row needs.

CREATE TABLE deletions (
    key      text        PRIMARY KEY,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries    integer     NOT NULL DEFAULT 0 CHECK (tries >= 0),
    done_at  timestamptz
);

CREATE INDEX deletions_due ON deletions (due_at) WHERE done_at IS NULL;

COMMENT ON TABLE  deletions          IS 'Objects to delete, written in the transaction that deletes their rows. Done ones are kept for a week';
COMMENT ON COLUMN deletions.key      IS 'Key of the object in the bucket';
COMMENT ON COLUMN deletions.asked_at IS 'When its row was deleted';
COMMENT ON COLUMN deletions.due_at   IS 'When the next try is due';
COMMENT ON COLUMN deletions.tries    IS 'Tries so far';
COMMENT ON COLUMN deletions.done_at  IS 'When the object was gone; null until then';

CREATE TABLE sweep_marks (
    key       text        PRIMARY KEY,
    marked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    accepted  boolean     NOT NULL DEFAULT false
);

COMMENT ON TABLE  sweep_marks           IS 'Objects that no row names, found by the sweeper. They are deleted if they still have no row a day later';
COMMENT ON COLUMN sweep_marks.key       IS 'Key of the object in the bucket';
COMMENT ON COLUMN sweep_marks.marked_at IS 'When it was first found without a row';
COMMENT ON COLUMN sweep_marks.accepted  IS 'An operator has accepted its deletion, so it does not count towards the limit that stops the sweeper';

CREATE TABLE installation (
    singleton  boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    id         uuid        NOT NULL,
    counter    bigint      NOT NULL DEFAULT 0 CHECK (counter >= 0),
    counted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    held_back  text,
    swept_at   timestamptz
);

COMMENT ON TABLE  installation            IS 'The identity of this installation, one row. The bucket has id and counter, too, in pyrograph.json';
COMMENT ON COLUMN installation.singleton  IS 'Always true: there is one row';
COMMENT ON COLUMN installation.id         IS 'Random, made once';
COMMENT ON COLUMN installation.counter    IS 'Rises every five minutes, here before in the bucket. If the bucket has the larger one, this database was restored from a backup';
COMMENT ON COLUMN installation.counted_at IS 'When the counter last rose';
COMMENT ON COLUMN installation.held_back  IS 'Why the sweeper deletes nothing until an operator accepts it; null if it may';
COMMENT ON COLUMN installation.swept_at   IS 'When the last sweep began';
