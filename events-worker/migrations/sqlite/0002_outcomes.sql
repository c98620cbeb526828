-- The answer to each keyed write, written in the transaction of its effect: whoever repeats the write reads
-- this. The key is the hash of the client's; a scope is one user of one organisation.

CREATE TABLE outcomes (
    organization_id BLOB    NOT NULL,
    user_id         BLOB    NOT NULL,
    key_hash        BLOB    NOT NULL,
    fingerprint     BLOB    NOT NULL,
    role            TEXT    NOT NULL,
    correlation_id  TEXT    NOT NULL,
    trace_id        TEXT    NOT NULL,
    status          INTEGER NOT NULL,
    etag            INTEGER,
    location        TEXT,
    body            BLOB    NOT NULL,
    kept_at         INTEGER NOT NULL,
    PRIMARY KEY (organization_id, user_id, key_hash)
) STRICT;

-- For removing what is older than the retention.
CREATE INDEX outcomes_by_age ON outcomes (kept_at);
