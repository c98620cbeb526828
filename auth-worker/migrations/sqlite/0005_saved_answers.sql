-- Answers to writes that a client has named, saved in the transaction of their effect. Scope and fingerprint are keyed
-- hashes, a body is sealed, and what holds a secret is left out.
CREATE TABLE saved_answers (
    scope          BLOB    NOT NULL,
    key_hash       BLOB    NOT NULL,
    fingerprint    BLOB    NOT NULL,
    role           TEXT    NOT NULL,
    correlation_id TEXT    NOT NULL,
    trace_id       TEXT    NOT NULL,
    span_id        TEXT    NOT NULL,
    status         INTEGER NOT NULL,
    sealed         BLOB,
    saved_at       INTEGER NOT NULL,
    PRIMARY KEY (scope, key_hash)
) STRICT, WITHOUT ROWID;

-- For removing what is older than the retention.
CREATE INDEX saved_answers_by_age ON saved_answers (saved_at);
