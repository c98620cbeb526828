-- Answers to writes that a client has named, saved in the transaction of their effect. Scope and fingerprint are keyed
-- hashes, a body is sealed, and what holds a secret is left out.
CREATE TABLE saved_answers (
    scope          bytea       NOT NULL,
    key_hash       bytea       NOT NULL,
    fingerprint    bytea       NOT NULL,
    role           text        NOT NULL,
    correlation_id text        NOT NULL,
    trace_id       text        NOT NULL,
    span_id        text        NOT NULL,
    status         smallint    NOT NULL,
    sealed         bytea,
    saved_at       timestamptz NOT NULL,
    PRIMARY KEY (scope, key_hash)
);

-- For removing what is older than the retention.
CREATE INDEX saved_answers_by_age ON saved_answers (saved_at);
