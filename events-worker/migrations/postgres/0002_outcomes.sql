-- The answer to each keyed write, written in the transaction of its effect: whoever repeats the write reads
-- this. The key is the hash of the client's; a scope is one user of one organisation.

CREATE TABLE outcomes (
    organization_id uuid        NOT NULL,
    user_id         uuid        NOT NULL,
    key_hash        bytea       NOT NULL,
    fingerprint     bytea       NOT NULL,
    role            text        NOT NULL,
    correlation_id  text        NOT NULL,
    trace_id        text        NOT NULL,
    status          smallint    NOT NULL,
    etag            bigint,
    location        text,
    body            bytea       NOT NULL,
    kept_at         timestamptz NOT NULL,
    PRIMARY KEY (organization_id, user_id, key_hash)
);

-- For removing what is older than the retention.
CREATE INDEX outcomes_by_age ON outcomes (kept_at);
